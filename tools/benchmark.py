"""How fast: the tables of docs/speed.md, printed as Markdown.

    python tools/benchmark.py               all of them, which takes a while
    python tools/benchmark.py speed busy    only these (see MEASUREMENTS at the end)

With a GPU, machine, speed and recipes measure that (they have never run on one), and the others are
for CPUs.

"Plain" is what nanoGPT does, built below from the same network: float32, PyTorch's fused attention
kernel and its own dropout, unfused AdamW, one `randint` batch stacked from slices, and generation
that reads the whole window again for each token. Each way runs in a process of its own; they take
turns, so that a machine that slows down slows both. A figure is the median of several turns, with
the lowest and the highest in brackets. It needs data/shakespeare_char, made from the real text.
"""

import contextlib
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where the programs are

import numpy as np
import torch
from torch.nn import functional as F

import train
from model import CausalSelfAttention, generate
from networks import build
from quill import hardware
from quill.log import read_log
from quill.settings import read_settings
from quill.terminal import run_main

ROOT = Path(__file__).resolve().parent.parent
CUDA = torch.cuda.is_available()
VOCAB_SIZE = 65  # of Tiny Shakespeare
# nanoGPT's recipe for a laptop.
SMALL = [
    *("--n_layer=4", "--n_head=4", "--n_embd=128", "--block_size=64", "--batch_size=12"),
    *("--max_iters=2000", "--learning_rate=1e-3", "--min_lr=1e-4"),
]
LARGER = [
    *("--n_layer=6", "--n_head=4", "--n_embd=256", "--block_size=256", "--batch_size=16"),
    "--dropout=0.1",
]
FAST, PLAIN = "config/shakespeare_fast.py", "config/shakespeare_plain.py"
CHAR = "config/shakespeare_char.py"  # 10.7 million parameters
TURNS = 5

# --- Showing ----------------------------------------------------------------------------------


def spread(values, digits=0):
    """'median (lowest to highest)' of several figures."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(columns, rows):
    """Print a Markdown table."""
    print("\n| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


# --- Processes that take turns ----------------------------------------------------------------


def in_turns(ways, amount, turns=TURNS):
    """Let each way do its work `amount` times in each of its turns, in a process of its own.

    A way is a function and its arguments; the function returns another, which does the work as
    often as it is told. Returns the seconds of the turns, a list for each way.
    """
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1)) for _ in ways]
        for pool, way in zip(pools, ways, strict=True):
            pool.submit(prepare, *way).result()
        seconds = [[pool.submit(work, amount).result() for pool in pools] for _ in range(turns)]
    return zip(*seconds, strict=True)


def prepare(way, *arguments):
    """Begin such a process: get its work, and do it once."""
    global do
    do = way(*arguments)
    do(1)


def work(amount):
    """The seconds of one turn of such a process."""
    return seconds_of(lambda: do(amount))


def seconds_of(work):
    """How long work() takes. Python starts a GPU's work and goes on, so it must be waited for."""
    wait = torch.cuda.synchronize if CUDA else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


# --- The plain way ----------------------------------------------------------------------------


def read_config(arguments):
    """The train.Config of a command line, which may name a recipe."""
    return train.Config(**read_settings(arguments, train.Config, "train.py")[0])


class PlainAttention(CausalSelfAttention):
    """Attention by PyTorch's fused kernel, on a CPU too."""

    def attend(self, q, k, v):
        p = self.attention_dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)


def plain_network(config, device):
    """The network that the settings ask for, in float32, with plain attention."""
    network = build(config, VOCAB_SIZE).to(device)
    for block in network.blocks:
        block.attention.__class__ = PlainAttention
    return network


def plain_training(arguments):
    """nanoGPT's training step."""
    config, device = read_config(arguments), hardware.pick_device()
    network, T = plain_network(config, device), config.block_size
    text = np.memmap("data/shakespeare_char/train.bin", dtype="<u2", mode="r")
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, fused=False)

    def steps(number):
        for _ in range(number):
            starts = torch.randint(len(text) - T, (config.batch_size,)).tolist()
            x = [torch.from_numpy(text[i : i + T].astype(np.int64)) for i in starts]
            y = [torch.from_numpy(text[i + 1 : i + 1 + T].astype(np.int64)) for i in starts]
            _, loss = network(torch.stack(x).to(device), torch.stack(y).to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def plain_sampling(arguments):
    """nanoGPT's generation: each token reads the whole window again, in float32."""
    config, device = read_config(arguments), hardware.pick_device()
    network = plain_network(config, device).eval()

    @torch.no_grad()
    def write(number):
        idx = torch.zeros(1, 1, dtype=torch.int64, device=device)
        for _ in range(number):
            logits, _ = network(idx[:, -config.block_size :])
            following = torch.multinomial(F.softmax(logits[:, -1] / 0.8, dim=1), 1)
            idx = torch.cat([idx, following], dim=1)

    return write


# --- Our way ----------------------------------------------------------------------------------


def our_training(arguments):
    """train.py's step."""
    given, _ = read_settings(arguments, train.Config, "train.py")
    with contextlib.redirect_stdout(sys.stderr):
        network, optimizer, data, config, _ = train.set_up(given)
    forward = hardware.compiled(network, train.get_batch(data.train, config, 0), config)
    numbers = count()

    def steps(number):
        for _ in range(number):
            step = next(numbers)
            optimizer.set_lr(train.lr_factor(step, config))
            windows = train.get_batch(data.train, config, step)
            train.train_step(forward, optimizer, windows, config, step)

    return steps


def our_sampling(arguments, texts, packed_from=hardware.PACKED_FROM, dtype="auto"):
    """sample.py's generation, of several texts at once. An untrained network is as fast as a
    trained one."""
    config, device = read_config(arguments), hardware.pick_device()
    hardware.PACKED_FROM = packed_from  # in this process only
    network = hardware.for_sampling(build(config, VOCAB_SIZE).eval(), device, dtype)
    idx = torch.zeros(texts, 1, dtype=torch.int64, device=device)
    return lambda number: generate(network, idx, number, temperature=0.8)


# --- Measurements -----------------------------------------------------------------------------


def measure_machine():
    """What this machine can do at best: the yardstick for all that follows."""
    name = torch.cuda.get_device_name() if CUDA else "CPU"
    print(f"{name}, {os.cpu_count()} cores, torch {torch.__version__}")
    device, size, rows = hardware.pick_device(), 8192 if CUDA else 1024, []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(size, size, device=device).to(dtype)
        fastest = min(seconds_of(lambda matrix=matrix: matrix @ matrix) for _ in range(20))
        speed = f"{2 * size**3 / fastest / 1e9:,.0f}"
        rows.append([f"matrix products in {dtype}, {size} x {size}, GFLOP/s", speed])
    numbers = torch.ones(1 << 26, device=device)  # 256 MB, more than any cache
    copy = torch.empty_like(numbers)
    fastest = min(seconds_of(lambda: copy.copy_(numbers)) for _ in range(20))
    rows.append(["memory, read and written, GB/s", f"{2 * numbers.nbytes / fastest / 1e9:,.0f}"])
    table(["this machine's limit", "measured"], rows)


TRAINED = [("0.8M, block 64, batch 12", SMALL, 50), ("6 x 256, dropout 0.1", LARGER, 3)]
TRAINED_ON_GPU = [("10.7M, shakespeare_char.py", [CHAR], 50)]
WRITTEN = [
    ("one text of 500, 10.7M parameters", [CHAR], 1),
    ("10 texts of 500, 10.7M parameters", [CHAR], 10),
    ("one text of 500, 0.8M parameters, block 64", SMALL, 1),
]


def measure_speed():
    """Tokens a second in training and in sampling, of the same network."""
    rows = []
    for name, arguments, steps in TRAINED_ON_GPU if CUDA else TRAINED:
        plain, ours = in_turns([(plain_training, arguments), (our_training, arguments)], steps)
        tokens = steps * train.tokens_per_step(read_config(arguments))
        rows.append([f"training, {name}", *compare(plain, ours, tokens, tokens)])
    for name, arguments, texts in WRITTEN:
        ways = [(plain_sampling, arguments), (our_sampling, arguments, texts)]
        plain, ours = in_turns(ways, 500)
        rows.append([f"sampling {name}", *compare(plain, ours, 500, 500 * texts)])
    table(["what, in tokens/s", "plain", "quillGPT", "ratio"], rows)


def compare(plain, ours, plain_tokens, our_tokens):
    """The speeds of two ways that have taken turns, and the ratios of the pairs, as cells."""
    plain = [plain_tokens / seconds for seconds in plain]
    ours = [our_tokens / seconds for seconds in ours]
    return spread(plain), spread(ours), spread([b / a for a, b in zip(plain, ours, strict=True)], 1)


LAYOUT_SIZES = [(1, 128, 64), (2, 128, 128), (4, 128, 64), (6, 256, 256), (6, 384, 256)]


def measure_layouts():
    """What hardware.for_sampling chooses between by n_embd: tokens a second of networks of several
    sizes, of one text / of ten."""
    layouts = {"plain, float32": (math.inf, "float32"), "packed, float32": (0, "float32")}
    if hardware.cpu_has_bfloat16():
        layouts["packed, bfloat16"] = (0, "bfloat16")
    rows = []
    for n_layer, n_embd, block_size in LAYOUT_SIZES:
        size = [f"--n_layer={n_layer}", f"--n_embd={n_embd}", f"--block_size={block_size}"]
        speeds = []
        for texts in (1, 10):
            ways = [(our_sampling, size, texts, *layout) for layout in layouts.values()]
            medians = [statistics.median(seconds) for seconds in in_turns(ways, 200)]
            speeds.append([f"{200 * texts / seconds:,.0f}" for seconds in medians])
        pairs = [f"{one} / {ten}" for one, ten in zip(*speeds, strict=True)]
        parameters = build(read_config(size), VOCAB_SIZE).parameters()
        millions = sum(parameter.numel() for parameter in parameters) / 1e6
        rows.append([f"{millions:.1f}M, n_embd {n_embd}", *pairs])
    table(["parameters", *layouts], rows)


BUSY = [
    (PLAIN, [PLAIN], 40),
    ("4 x 128, block 64", SMALL, 40),
    (FAST, [FAST], 40),
    ("6 x 256, dropout 0.1, Muon", [*LARGER, "--optimizer=muon"], 4),
]


def measure_busy():
    """How much longer a step takes beside other programs that each keep a core busy."""
    rows = []
    for name, arguments, steps in BUSY:
        cells = []
        for programs in range(3):
            with contextlib.ExitStack() as busy:
                for _ in range(programs):
                    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    busy.enter_context(loop)
                    busy.callback(loop.kill)
                [seconds] = in_turns([(our_training, arguments)], steps)
            cells.append(f"{statistics.median(seconds) / steps * 1e3:,.1f}")
        rows.append([name, *cells])
    table(["a step, ms", "alone", "beside one busy program", "beside two"], rows)


RECIPES = [FAST, "config/shakespeare_cpu.py", PLAIN, "config/shakespeare_laptop.py"]


def measure_recipes():
    """Whole processes with each seed, in turns; and nanoGPT's steps for a laptop, without its
    evaluations."""
    steps, rows = read_config(SMALL).max_iters, []
    for seed in (1337, 1, 2):
        for recipe in [CHAR] if CUDA else RECIPES:
            with tempfile.TemporaryDirectory() as out:
                words = [sys.executable, "train.py", recipe, f"--seed={seed}", f"--out_dir={out}"]
                seconds = seconds_of(lambda words=words: subprocess.check_output(words))
                loss = min(read_log(out)["val_loss"])
            rows.append([recipe, str(seed), f"{seconds:.1f} s", f"{loss:.4f}"])
        seconds = seconds_of(lambda: in_turns([(plain_training, SMALL)], steps - 1, turns=1))
        rows.append([f"plain, {steps:,} steps, no evaluation", "", f"{seconds:.1f} s", ""])
    table(["recipe", "seed", "whole process", "lowest loss"], rows)


MEASUREMENTS = {
    "machine": measure_machine,
    "speed": measure_speed,
    "layouts": measure_layouts,
    "busy": measure_busy,
    "recipes": measure_recipes,
}


def main(names):
    multiprocessing.set_start_method("spawn")  # each process begins as a program does
    os.chdir(ROOT)
    for name in names or MEASUREMENTS:
        MEASUREMENTS[name]()


if __name__ == "__main__":
    run_main(main)
