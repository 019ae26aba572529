"""Device and dtype, and what makes this machine fast. Each choice follows from a rule, so the same
seed gives the same text on the same machine. docs/speed.md has the measurements."""

import contextlib
import ctypes
import inspect
import math
import os
import sys
import threading

import numpy as np
import torch
import torch.nn as nn
from torch.optim import AdamW, Optimizer

from quill.terminal import TORCHRUN, UserError, show

THREADS = torch.get_num_threads()  # a thread for each core, unless OMP_NUM_THREADS says otherwise

# --- Device and dtype -------------------------------------------------------------------------


def pick_device(name="auto"):
    """The torch.device for a name; auto takes CUDA, else MPS (Apple), else the CPU. Each process of
    torchrun takes a GPU of its own."""
    if name == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        try:
            return pick_device("cuda" if cuda else "mps" if mps else "cpu")
        except UserError:  # this PyTorch has no kernels for an old GPU
            show("note: PyTorch finds a GPU, but cannot use it: the CPU is used")
            name = "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device with a valid name need not exist
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:100]
        raise UserError(f"device {name!r} cannot be used here ({reason})") from error
    if TORCHRUN and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def cpu_has_bfloat16():
    """Whether this CPU has instructions for bfloat16. Without them it is emulated, a hundred times
    slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in every PyTorch
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in names)


def pick_dtype(name, device):
    """The torch.dtype for a name; auto takes bfloat16 where the device is fast in it, else
    float16 on CUDA and float32 elsewhere."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


# --- Training ---------------------------------------------------------------------------------

dropout_of = threading.local()  # .generator: that of the part that this thread computes


def seed_dropout(device, seed, step, part):
    """Let dropout's randomness follow from the seed, the step and the number of a part of its
    batch: whichever thread computes the part draws the same numbers."""
    # Not a part of 0: numpy takes [seed, step, 0] for [seed, step], from which the batch is drawn.
    number = int(np.random.default_rng([seed, step, 1 + part]).integers(2**63))
    if device.type == "cpu":  # PyTorch's own generator is shared by all threads
        dropout_of.generator = torch.Generator().manual_seed(number)
    else:
        torch.manual_seed(number)


PIECE = 1 << 19  # factors at a time: 1 MB in bfloat16 stays in a core's cache


class FastDropout(nn.Module):
    """nn.Dropout for training on a CPU: zero each entry with probability p, scale up the others.

    PyTorch draws a full random number for each decision, on one core: a third of a training step (6
    layers, 256 wide). This draws 8 random bits, so p is rounded to a multiple of 1 / 256.
    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """

    def __init__(self, p):
        super().__init__()
        self.zeroed = min(255, round(p * 256))  # of the 256 values that 8 bits can have
        self.scale = 256 / (256 - self.zeroed)  # keeps the mean as it was

    def forward(self, x):
        if not self.training or self.zeroed == 0:
            return x
        generator = getattr(dropout_of, "generator", None)  # None: PyTorch's own
        factors = torch.empty(x.numel(), dtype=x.dtype)  # each 0 or the scale
        for piece in factors.split(PIECE):
            words = torch.empty(math.ceil(piece.numel() / 8), dtype=torch.int64)
            words.random_(-(2**63), None, generator=generator)  # 8 random bytes in each
            draws = words.view(torch.uint8)[: piece.numel()]  # each in 0 .. 255
            piece.copy_(draws.ge_(self.zeroed)).mul_(self.scale)
        return x * factors.view(x.shape)


def swap(network, kind, replacement):
    """Replace each module of a kind inside a network with `replacement(module)`."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, replacement(child).train(child.training))


def keep_freed_memory():
    """Make the C library reuse freed memory instead of returning it to the operating system.

    Every step allocates and frees the same large arrays. By default glibc returns them to Linux,
    which zeroes each page when it hands it out again: a third of a training step on a CPU.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):  # glibc; the constants are from its malloc.h
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
        libc.mallopt(-4, 0)  # M_MMAP_MAX: take large arrays from the heap too


def unwrap_optimizers():
    """Take the decorators off torch.optim's methods. At their first call, they import
    torch.compile's machinery, which takes 1.3 seconds before the first step."""
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        setattr(Optimizer, name, inspect.unwrap(getattr(Optimizer, name)))
    AdamW.step = torch.no_grad()(inspect.unwrap(AdamW.step))


def for_training(network, device, dtype):
    """Move a network to a device, set its dtype, and make training fast there. This also changes
    settings of the whole process: memory, torch.optim, threads, products in float32."""
    keep_freed_memory()
    unwrap_optimizers()
    network.to(device)
    network.dtype = dtype
    if device.type == "cpu":
        swap(network, nn.Dropout, lambda dropout: FastDropout(dropout.p))
        # The parts of a batch are computed side by side (quill/parallel.py). Between them, further
        # threads would wait for more work by spinning, on the cores that the parts need.
        torch.set_num_threads(1)
    if device.type == "cuda":  # float32 products in TF32, with 10 bits of precision
        torch.set_float32_matmul_precision("high")


def compiled(network, windows, config):
    """The network, compiled by torch.compile if config says so, on CUDA. Elsewhere, or if that
    fails (no Triton, no C compiler), it is returned as it is. The first call compiles, so it is
    made here, on some of a batch's windows (B, T + 1)."""
    if not windows.is_cuda or not config.compile:
        return network
    result, windows = torch.compile(network), windows[: config.batch_size]
    try:
        result(windows[:, :-1], windows[:, 1:])[1].backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of PyTorch's compiler, of Triton, of the operating system
        reason = str(error).split("\n")[0][:120]
        show(f"torch.compile cannot be used here, so training is slower: {reason}")
        return network
    return result


# --- Sampling ---------------------------------------------------------------------------------

PACKED_FROM = 192  # n_embd; a smaller network is as fast with plain layers


class PackedLinear(nn.Module):
    """nn.Linear with its matrix laid out in advance as oneDNN's kernels read it.

    nn.Linear lays it out again for each product, as in training it is a new matrix each time.
    PyTorch's own compiler uses both operators, in torch/_inductor/mkldnn_lowerings.py.
    """

    def __init__(self, linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def for_sampling(network, device, dtype_name):
    """Move a network to a device, in the dtype of a name, in the layout that generates fastest;
    for inference only. On a CPU, auto is bfloat16 for a large network only: a product in bfloat16
    reads half of the memory, but takes longer to start. A small network gains nothing from a
    second thread, and would wait for it beside other programs."""
    large = network.config.n_embd >= PACKED_FROM
    dtype = pick_dtype(dtype_name, device)
    if dtype_name == "auto" and device.type == "cpu" and not large:
        dtype = torch.float32
    network.to(device, dtype)
    network.dtype = dtype
    swap(network, nn.Dropout, lambda dropout: nn.Identity())  # idle, but not for free
    torch.set_num_threads(THREADS if large else 1)
    if device.type == "cpu" and large and torch.backends.mkldnn.is_available():
        # Not every build of PyTorch has the operators, for every dtype.
        with contextlib.suppress(AttributeError, RuntimeError):
            swap(network, nn.Linear, PackedLinear)
    return network
