"""Several processes as one run, started by torchrun, and the signals that end a run."""

import os
import signal

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from quill.terminal import UserError, show

RANK = int(os.environ.get("RANK", 0))  # the number of this process; only process 0 writes files
WORLD = int(os.environ.get("WORLD_SIZE", 1))  # how many processes train together


def join_processes(device):
    """Connect to the other processes; returns this one's device."""
    if WORLD == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(WORLD):
        # torchrun's store outlives the processes, and after a restart it still has the addresses
        # of the dead ones (https://github.com/pytorch/pytorch/issues/135712). So each restart gets
        # a prefix of its own. Across several machines the restarts are not counted alike.
        store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    return device


def batch_per_process(batch_size):
    """How many of batch_size sequences each process takes. Raises UserError if that is uneven."""
    if batch_size % WORLD:
        nearest = max(1, round(batch_size / WORLD)) * WORLD
        raise UserError(
            f"batch_size {batch_size} cannot be divided evenly among {WORLD} processes; "
            f"the nearest that can is {nearest}"
        )
    return batch_size // WORLD


def summed(tensor):
    """The tensor, summed over all processes (in place)."""
    if WORLD > 1:
        distributed.all_reduce(tensor)
    return tensor


def from_first_process(*objects):
    """Process 0's objects, in every process: the others may see another disk."""
    objects = list(objects)
    if WORLD > 1:
        distributed.broadcast_object_list(objects)
    return objects


class StopRequest:
    """Ctrl-C or SIGTERM: finish the present step and save. A second Ctrl-C stops at once.

    `signal` changes in synchronize() only. A signal that arrives elsewhere in a step takes effect
    in the next one, so that no process leaves the loop before it has saved, or alone.
    """

    def __init__(self):
        self.received = self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)

    def receive(self, number, frame):
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        show("stopping after this step (Ctrl-C once more: at once)")

    def synchronize(self, device):
        """Tell all processes which signal any of them has received."""
        self.signal = self.received
        if WORLD > 1:
            largest = torch.tensor(self.received, device=device)
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
            self.signal = largest.item()
