"""A batch in parts: side by side in threads, and in several processes (torchrun). The gradient of a
batch is the sum of the gradients of its parts, wherever each of them is computed."""

import contextlib
import functools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from quill.hardware import THREADS
from quill.terminal import RANK, TORCHRUN, UserError

WORLD = int(os.environ["WORLD_SIZE"]) if TORCHRUN else 1  # how many processes train together

# --- Threads: a part each ---------------------------------------------------------------------

# Each part pays for its own Python and has less work for each product, so with many cores, several
# threads share a part. Not measured: no machine with more than two cores was at hand.
MOST_PARTS = 8


def workers(device):
    """How many parts are computed side by side: on a CPU one for each of PyTorch's threads, so that
    no thread waits for another within a step; on a GPU one."""
    return min(MOST_PARTS, THREADS) if device.type == "cpu" else 1


@functools.cache
def pool(count, threads):
    """`count` workers, each of which has `threads` of PyTorch's threads to itself."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads,))


def side_by_side(function, items, device):
    """function(item) of each item, as an iterator in their order, workers(device) at a time."""
    count = workers(device)
    if count == 1:
        return map(function, items)
    return pool(count, THREADS // count).map(function, items)


def split(windows):
    """This process's parts of a batch (N, ...), one for each worker: [(number of the part in the
    whole batch, the part)]."""
    if len(windows) < WORLD:
        raise UserError(f"a batch of {len(windows)} sequences is too small for {WORLD} processes")
    count = workers(windows.device)
    parts = windows.tensor_split(WORLD)[RANK].tensor_split(count)
    return [(RANK * count + i, part) for i, part in enumerate(parts) if len(part)]


def summed(results):
    """The sum of the parts' results, over all processes. results: a list of tensors from each part,
    always added in the same order, so that the same parts give the same bytes."""
    total, *others = results
    for other in others:
        total = torch._foreach_add(total, other)
    if WORLD > 1:
        flat = torch.cat([tensor.flatten() for tensor in total])  # one message instead of many
        distributed.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in total])
        total = [piece.view_as(tensor) for piece, tensor in zip(pieces, total, strict=True)]
    return total


# --- Processes --------------------------------------------------------------------------------


@contextlib.contextmanager
def processes():
    """Be connected to the other processes of torchrun, if there are any."""
    if WORLD > 1:
        store, rank, world = next(rendezvous("env://"))
        if os.environ["LOCAL_WORLD_SIZE"] == str(WORLD):
            # torchrun's store outlives the processes, and after a restart it still has the
            # addresses of the dead ones (https://github.com/pytorch/pytorch/issues/135712). So each
            # restart gets a prefix of its own. Across machines, restarts are counted differently.
            store = distributed.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    yield
    if WORLD > 1:  # not after an error: it would wait for them
        distributed.destroy_process_group()


def from_first_process(function, *arguments):
    """Call the function in process 0, and return its result in all of them: the files on another
    machine may differ."""
    values = [function(*arguments) if RANK == 0 else None]
    if WORLD > 1:
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


# --- Signals ----------------------------------------------------------------------------------


class StopRequest:
    """Ctrl-C and SIGTERM: finish the current step and save. A second Ctrl-C stops at once. After
    the `with` block, both do again what they did before. In a thread, where Python has no signals,
    it does nothing."""

    def __enter__(self):
        self.signal, self.before = 0, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.receive)
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
