"""Several processes as one run, started by torchrun, and the signals that end a run."""

import contextlib
import gc
import os
import signal

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from quill.terminal import UserError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what it sets
MISSING = [name for name in TORCHRUN if name not in os.environ]
RANK = 0 if MISSING else int(os.environ["RANK"])  # of this process; only process 0 writes files
WORLD = 1 if MISSING else int(os.environ["WORLD_SIZE"])  # how many processes train together


def join_processes():
    """Connect to the other processes, if there are any."""
    if MISSING and os.environ.get("WORLD_SIZE", "1") != "1":
        missing = ", ".join(MISSING)
        raise UserError(f"WORLD_SIZE is set, but not {missing}: use torchrun, or unset WORLD_SIZE")
    if WORLD == 1:
        return
    # Its functions have the group as a default. Those that are defined after the group keep it
    # forever, and threads that are left at the interpreter's end crash it now and then.
    import torch.distributed.nn.functional  # noqa: F401

    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(WORLD):
        # torchrun's store outlives the processes, and after a restart it still has the addresses
        # of the dead ones (https://github.com/pytorch/pytorch/issues/135712). So each restart gets
        # a prefix of its own. Across several machines the restarts are counted differently.
        store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)


def leave_processes():
    """Disconnect from the other processes. DistributedDataParallel is in a reference cycle; until
    it is collected, it would keep the group and its threads."""
    if WORLD > 1:
        distributed.destroy_process_group()
        gc.collect()


def own_device(device):
    """This process's device: of several processes, each takes a GPU of its own."""
    if WORLD > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def own_part(batch):
    """This process's part of a batch (B, ...): (B / WORLD, ...)."""
    return batch.chunk(WORLD)[RANK]


def check_batch_size(batch_size):
    """Raise UserError if a batch cannot be divided evenly among the processes."""
    if batch_size % WORLD:
        nearest = max(1, round(batch_size / WORLD)) * WORLD
        raise UserError(
            f"batch_size {batch_size} cannot be divided evenly among {WORLD} processes; the "
            f"nearest that can is {nearest}"
        )


def summed(numbers):
    """A list of numbers, summed over all processes."""
    if WORLD == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64)  # on the CPU: no GPU has to wait
    distributed.all_reduce(tensor)
    return tensor.tolist()


def wrapped(network):
    """A network whose gradients are averaged over all processes; with one process, the network."""
    return DistributedDataParallel(network) if WORLD > 1 else network


def averaging_gradients(network, now):
    """The context of a backward pass on a wrapped network, which averages the gradients over all
    processes now, or leaves that to a later one."""
    return contextlib.nullcontext() if now or WORLD == 1 else network.no_sync()


def from_first_process(function, *arguments):
    """Call the function in process 0, and return its result in all of them: the files on another
    machine may differ."""
    values = [function(*arguments) if RANK == 0 else None]
    if WORLD > 1:
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


class StopRequest:
    """Ctrl-C and SIGTERM: finish the current step and save. A second Ctrl-C stops at once. After
    the `with` block, both do again what they did before."""

    def __enter__(self):
        self.signal = 0
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self.receive) for number in numbers}
        return self

    def __exit__(self, *exception):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number, frame):
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def received(self):
        """The signal that any of the processes has received, or 0; the same in each process."""
        if WORLD > 1:
            largest = torch.tensor(self.signal)
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
            self.signal = int(largest)
        return self.signal
