"""Device and dtype, and what makes this machine fast: it is swapped in, so the network and the
training loop need not know it."""

from quill.terminal import UserError, in_brief, show

import contextlib
import copy
import inspect
import math
import time

import torch
import torch.nn as nn
from torch.optim import AdamW, Optimizer

from model import GPT, generate


def pick_device(name="auto"):
    """The torch.device of that name; auto takes CUDA, else MPS (Apple), else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device with a valid name need not exist
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here ({reason})") from error
    return device


def pick_dtype(name, device):
    """The torch.dtype of that name; auto takes bfloat16 where the device multiplies faster in it.

    A CPU without bfloat16 instructions emulates them, a hundred times slower than float32. So a
    CPU is timed: for 20 milliseconds, on one thread, which other programs disturb least.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if device.type == "cpu":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        seconds = {dtype: seconds_to_multiply(dtype) for dtype in (torch.float32, torch.bfloat16)}
        torch.set_num_threads(threads)
        if seconds[torch.bfloat16] < 0.7 * seconds[torch.float32]:
            return torch.bfloat16
    return torch.float32


def seconds_to_multiply(dtype):
    """The time of one small matrix product on this CPU: the shortest of those in 10 ms."""
    matrix = torch.ones(192, 192, dtype=dtype)
    seconds = []
    while sum(seconds) < 0.01 or len(seconds) < 3:
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def pick_attention(name, device):
    """How attention is computed; auto takes PyTorch's fused kernel on CUDA. On a CPU the fused
    kernel is slower: 8 against 4 ms forward at block 256, 29 against 11 with the backward pass."""
    if name == "auto":
        return "fused" if device.type == "cuda" else "written_out"
    return name


@contextlib.contextmanager
def errors_explained():
    """Turn PyTorch's errors about memory, and about processes that ended, into a UserError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if "gloo" in text or "NCCL" in text:
            raise UserError("another process of this run has ended") from error
        # Not "memory" alone: an illegal memory access is another matter.
        phrases = ("out of memory", "allocate memory", "enough memory")
        if not isinstance(error, MemoryError) and not any(phrase in text for phrase in phrases):
            raise
        raise UserError(
            "not enough memory: halve batch_size and double gradient_accumulation_steps (the same "
            "run in smaller pieces), or make the network or the number of samples smaller"
        ) from error


PIECE = 1 << 19  # numbers whose factors are made at once: 1 MB in bfloat16 stays in a core's cache


class FastDropout(nn.Module):
    """nn.Dropout for training on a CPU: zero each number with probability p, scale up the others.

    PyTorch draws a full random number for each decision, on one core: at 6 layers, 256 wide, over
    a third of a training step. This draws 8 random bits, so p is rounded to a multiple of 1 / 256.
    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """

    def __init__(self, p):
        super().__init__()
        self.zeroed = min(255, round(p * 256))  # of the 256 values that 8 bits can have
        self.scale = 256 / (256 - self.zeroed)  # keeps the mean as it was

    def forward(self, x):
        if not self.training or self.zeroed == 0:
            return x
        factors = torch.empty(x.numel(), dtype=x.dtype)  # each 0 or the scale
        for piece in factors.split(PIECE):
            eights = torch.empty(-(-piece.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
            draws = eights.view(torch.uint8)[: piece.numel()]  # each in 0 .. 255
            piece.copy_(draws.ge_(self.zeroed)).mul_(self.scale)
        return x * factors.view(x.shape)


def speed_up_training(network, device, dtype):
    """Swap in what trains faster on this device. Only rounding, the range of float16 and random
    numbers differ."""
    if device.type == "cuda":  # float32 products in TF32, with 10 bits of precision
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        swap(network, nn.Dropout, lambda dropout: FastDropout(dropout.p))
        if isinstance(network, GPT):
            # This dropout stands right before the blocks: from there on, x is in dtype. Autocast
            # would leave it in float32 and convert it for each product: twice the memory to read.
            network.dropout.register_forward_hook(
                lambda module, inputs, x: x.to(dtype) if torch.is_autocast_enabled("cpu") else x
            )
    # Avoids importing torch.compile's machinery, which the decorators of torch.optim's methods
    # pull in at their first call: 1.3 seconds before the first step.
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        setattr(Optimizer, name, inspect.unwrap(getattr(Optimizer, name)))
    AdamW.step = torch.no_grad()(inspect.unwrap(AdamW.step))


def compiled(forward, run, windows):
    """`forward` through torch.compile, or as it is where that fails, for lack of Triton or of a C
    compiler. The first call compiles, so it is made here, on windows (B, T + 1)."""
    result = torch.compile(forward)
    try:
        with run.autocast():
            result(windows[:, :-1], windows[:, 1:])[1].backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of PyTorch's compiler, of Triton, of the operating system
        show(f"torch.compile cannot be used here, so training is slower: {in_brief(error)}")
        return forward
    return result


def swap(network, kind, replacement):
    """Replace each module of a kind inside a network by `replacement(module)`."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, replacement(child).train(child.training))


class PackedLinear(nn.Module):
    """nn.Linear with its matrix laid out in advance as oneDNN's kernels read it.

    nn.Linear lays it out anew for each product, as in training it is a new matrix each time.
    PyTorch's own compiler uses both operators, in torch/_inductor/mkldnn_lowerings.py.
    """

    def __init__(self, linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class TransposedLinear(nn.Module):
    """nn.Linear with its matrix transposed, which suits MKL if there is one row: a small network
    writes a single text 3 to 6 % faster, a large one about as fast."""

    def __init__(self, linear):
        super().__init__()
        self.weight = linear.weight.detach().t().contiguous()  # (out, in) -> (in, out)
        self.bias = linear.bias

    def forward(self, x):
        y = x @ self.weight  # (..., in) -> (..., out)
        return y if self.bias is None else y + self.bias


# How a CPU can hold the matrices for generation. A product in bfloat16 reads half of the memory,
# but takes longer to start, so a small network that writes one text is faster in float32.
LAYOUTS = [
    (torch.float32, TransposedLinear),
    (torch.float32, PackedLinear),
    (torch.bfloat16, PackedLinear),
]
CLEARLY = 0.85  # of the time: a smaller gain may be noise, and would not be the same in each call


def speed_up_sampling(network, name, device, streams):
    """The network on its device, in the dtype of that name, as it writes `streams` texts at once
    fastest; it can no longer be trained. On a CPU, some tokens tell which layout that is, and with
    auto which dtype."""
    dtype = pick_dtype(name, device)
    fastest, shortest = None, math.inf
    for layout_dtype, layout in LAYOUTS if device.type == "cpu" else []:
        if layout_dtype == dtype or (name == "auto" and layout_dtype == torch.float32):
            laid_out = copy.deepcopy(network).to(layout_dtype)
            swap(laid_out, nn.Dropout, lambda dropout: nn.Identity())  # idle, but not for free
            # Not every PyTorch has oneDNN's operators, nor has every dtype.
            with contextlib.suppress(AttributeError, RuntimeError):
                swap(laid_out, nn.Linear, layout)
                seconds = seconds_to_write(laid_out, streams)
                if seconds < CLEARLY * shortest:
                    fastest, shortest = laid_out, seconds
    return network.to(device, dtype) if fastest is None else fastest


def seconds_to_write(network, streams):
    """The time of a few tokens of `streams` texts: the shortest of several tries."""
    prompt = torch.zeros(streams, 1, dtype=torch.int64)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        generate(network, prompt, max_new_tokens=5)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
