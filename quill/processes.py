"""Several processes as one run, started by torchrun, and the signals that end a run."""

from quill.terminal import Output, UserError, discard_output

import contextlib
import os
import select
import signal
import sys

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

numbers = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
IN_GROUP = all(number.isdecimal() for number in numbers)
RANK = int(numbers[0]) if IN_GROUP else 0  # of this process; only process 0 writes files
WORLD = int(numbers[1]) if IN_GROUP else 1  # how many processes train together
SIGPIPE = 13  # the signal of output that nobody takes; Windows has no signal.SIGPIPE


def join_processes():
    """Connect to the other processes. Raises UserError if torchrun's variables make no sense."""
    if any(numbers) and not (IN_GROUP and RANK < WORLD):
        found = f"RANK is {numbers[0]!r} and WORLD_SIZE {numbers[1]!r}"
        raise UserError(f"{found}: start with torchrun, which sets both, or unset both")
    if WORLD == 1:
        return
    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(WORLD):
        # torchrun's store outlives the processes, and after a restart it still has the addresses
        # of the dead ones (https://github.com/pytorch/pytorch/issues/135712). So each restart gets
        # a prefix of its own. Across several machines the restarts are not counted alike.
        store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)


def own_device(device):
    """This process's device: of several processes, each takes a GPU of its own."""
    if WORLD > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def batch_per_process(batch_size):
    """How many of batch_size sequences each process takes. Raises UserError if that is uneven."""
    if batch_size % WORLD:
        nearest = max(1, round(batch_size / WORLD)) * WORLD
        problem = f"batch_size {batch_size} cannot be divided evenly among {WORLD} processes"
        raise UserError(f"{problem}; the nearest that can is {nearest}")
    return batch_size // WORLD


def summed(tensor):
    """The tensor, summed over all processes (in place)."""
    if WORLD > 1:
        distributed.all_reduce(tensor)
    return tensor


def from_first_process(*objects):
    """Process 0's objects, in every process: the files on another machine may differ."""
    objects = list(objects)
    if WORLD > 1:
        distributed.broadcast_object_list(objects, device=torch.device("cpu"))
    return objects


class StopRequest:
    """Ctrl-C, SIGTERM, a closed terminal or closed output: finish the current step and save. A
    second Ctrl-C stops at once.

    `signal` changes in synchronize() only, so all processes save and leave the loop together.
    """

    def __init__(self):
        self.received = self.signal = 0
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # nohup ignores SIGHUP so that a run outlives the terminal.
            if number and (name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN):
                signal.signal(number, self.receive)

    def receive(self, number, frame):
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError, ValueError):  # Windows: select is for sockets only
            # A pipe that is full, or a stopped terminal, would block this print or the next one.
            if not select.select([], [sys.stdout], [], 0)[1]:
                discard_output()

    def synchronize(self, device):
        """Tell all processes which signal any of them has received."""
        self.signal = self.received or (SIGPIPE if Output.error else 0)
        if WORLD > 1:
            largest = torch.tensor(self.signal, device=device)
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
            self.signal = largest.item()
