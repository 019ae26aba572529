"""How fast, against this machine's own limits and against the plain way, measured side by side.

    python tools/benchmark.py                      everything, which takes a while
    python tools/benchmark.py training sampling    only these (see MEASUREMENTS at the end)
    python tools/benchmark.py gpu                  all that concerns a GPU, in about ten minutes

It prints Markdown. "Plain" is what nanoGPT does, built below from the same network: float32,
PyTorch's fused attention kernel and its own dropout, unfused AdamW, one `randint` batch stacked
from slices, and generation that reads the whole window again for each token. Each way runs in a
process of its own; they take turns, so that a machine that slows down slows both. A figure is the
median of several runs, with the lowest and the highest in brackets. It needs data/shakespeare_char,
prepared from the real text.
"""

import contextlib
import csv
import functools
import math
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where the programs are

import numpy as np
import torch
from pictures import open_chromium, wait_for
from torch.nn import functional as F

import train
from model import CausalSelfAttention, generate
from networks import build
from page.page import SIZES
from quill import hardware
from quill.checkpoint import save
from quill.dataset import open_dataset
from quill.settings import read_settings
from quill.terminal import UserError, run_main

ROOT = Path(__file__).resolve().parent.parent
CUDA = torch.cuda.is_available()
VOCAB_SIZE = 65  # of Tiny Shakespeare
# nanoGPT's recipe for a laptop.
SMALL = ["--n_layer=4", "--n_head=4", "--n_embd=128", "--block_size=64", "--batch_size=12"]
SMALL += ["--max_iters=2000", "--learning_rate=1e-3", "--min_lr=1e-4"]
LARGER = [*SMALL, "--n_layer=6", "--n_embd=256", "--block_size=256", "--batch_size=16"]
LARGER += ["--dropout=0.1"]
CHAR = ["config/shakespeare_char.py"]  # 10.7 million parameters
TARGET = 1.4697  # nanoGPT's published validation loss for config/shakespeare_char.py, on an A100
TARGET_STEPS = 1750  # about when its run gets there
SEEDS = (1337, 1, 2)
LAYOUT_SIZES = [(1, 128, 64), (2, 128, 128), (4, 128, 64), (6, 256, 256), (6, 384, 256)]

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


def compare(what, plain, ours):
    """A row for two lists of speeds that were measured in turns, with the ratios of the pairs."""
    ratios = [b / a for a, b in zip(plain, ours, strict=True)]
    return [what, spread(plain), spread(ours), spread(ratios, 1)]


# --- Processes that take turns ----------------------------------------------------------------


def start_process(function, *arguments):
    """Start function(pipe, *arguments) in a fresh process; returns our end of the pipe."""
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.Process(target=function, args=(theirs, *arguments), daemon=True).start()
    theirs.close()  # so that the next line fails, instead of waiting, if the process has failed
    ours.recv()
    return ours


def in_turns(pipes, work, rounds):
    """Let each process do `work` in turn; returns a list of `rounds` answers for each."""
    answers = [[] for _ in pipes]
    for _ in range(rounds):
        for pipe, collected in zip(pipes, answers, strict=True):
            pipe.send(work)
            collected.append(pipe.recv())
    for pipe in pipes:
        pipe.send(None)
    return answers


def serve(pipe, do):
    """What a process does until it is sent None: the work it is sent, answered by the seconds."""
    do(1)
    pipe.send("ready")
    while work := pipe.recv():
        wait_for_gpu()
        start = time.perf_counter()
        do(work)
        wait_for_gpu()
        pipe.send(time.perf_counter() - start)


def wait_for_gpu():
    """Python starts a GPU's work and goes on: wait until the work is done."""
    if CUDA:
        torch.cuda.synchronize()


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


def plain_training(pipe, arguments):
    """nanoGPT's training step, as often as asked for."""
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

    serve(pipe, steps)


@torch.no_grad()
def plain_sampling(pipe, arguments):
    """nanoGPT's generation: each token reads the whole window again, in float32."""
    config, device = read_config(arguments), hardware.pick_device()
    network = plain_network(config, device).eval()

    def write(number):
        idx = torch.zeros(1, 1, dtype=torch.int64, device=device)
        for _ in range(number):
            logits, _ = network(idx[:, -config.block_size :])
            following = torch.multinomial(F.softmax(logits[:, -1] / 0.8, dim=1), 1)
            idx = torch.cat([idx, following], dim=1)

    serve(pipe, write)


# --- Our way ----------------------------------------------------------------------------------


def our_training(pipe, arguments):
    """train.py's step, as often as asked for."""
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

    serve(pipe, steps)


def our_sampling(pipe, arguments, streams):
    """sample.py's generation, `streams` texts at once."""
    config, device = read_config(arguments), hardware.pick_device()
    network = hardware.for_sampling(build(config, VOCAB_SIZE).eval(), device, "auto")
    idx = torch.zeros(streams, 1, dtype=torch.int64, device=device)
    serve(pipe, lambda number: generate(network, idx, number, temperature=0.8))


def whole_process(*command, until=None):
    """Run a program: the seconds it took, or those up to its first line with `until` in it."""
    start, seconds, last = time.perf_counter(), None, ""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, command)], **pipes)
    for last in process.stdout:  # noqa: B007 (the last line is the error, if there is one)
        if until and until in last and seconds is None:
            seconds = time.perf_counter() - start
    if process.wait():
        raise UserError(f"{command[0]} failed: {last}")
    return seconds or time.perf_counter() - start


def train_once(recipe, *changes, launcher=()):
    """Run train.py with a recipe: (seconds of the whole process, the rows of its log.csv)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, ROOT / "train.py", recipe, f"--out_dir={folder}", *changes]
        return whole_process(*command), log_rows(folder)


def log_rows(folder):
    """The rows of a run's log.csv, as dicts of numbers."""
    with open(f"{folder}/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items()} for row in rows]


# --- Measurements -----------------------------------------------------------------------------


def best_seconds(work, budget=0.5):
    """The shortest time that `work` takes in `budget` seconds of tries."""
    seconds = []
    while sum(seconds) < budget or len(seconds) < 3:
        wait_for_gpu()
        start = time.perf_counter()
        work()
        wait_for_gpu()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def processor():
    """The name of the processor."""
    info = Path("/proc/cpuinfo")  # of Linux
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return name[1] if name else platform.processor()


def measure_machine():
    """What this machine can do at best: the yardstick for all that follows."""
    device = hardware.pick_device()
    name = torch.cuda.get_device_name() if CUDA else processor()
    about = f"{os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"
    print(f"Machine: {name}, {about}")
    size, rows = 8192 if CUDA else 1024, []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(size, size, device=device).to(dtype)
        speed = 2 * size**3 / best_seconds(lambda matrix=matrix: matrix @ matrix) / 1e9
        rows.append([f"matrix products in {dtype}, {size} x {size}", f"{speed:,.0f} GFLOP/s"])
    numbers = torch.ones(1 << 26, device=device)  # 256 MB, more than any cache
    copy = torch.empty_like(numbers)
    rate = 2 * numbers.nbytes / best_seconds(lambda: copy.copy_(numbers)) / 1e9
    rows.append(["memory, read and written", f"{rate:,.0f} GB/s"])
    table(["this machine's limit", "measured"], rows)


def measure_training():
    """Tokens a second that the same network is trained on, in batches of the same size."""
    rows = []
    recipes = [("0.8M, block 64, batch 12", SMALL, 50), ("6 x 256, dropout 0.1", LARGER, 3)]
    if CUDA:
        recipes = [("10.7M, shakespeare_char.py", CHAR, 50)]
    for name, arguments, steps in recipes:
        pipes = [start_process(plain_training, arguments), start_process(our_training, arguments)]
        tokens = steps * train.tokens_per_step(read_config(arguments))
        plain, ours = ([tokens / s for s in seconds] for seconds in in_turns(pipes, steps, 7))
        rows.append(compare(f"training, {name}", plain, ours))
    table(["tokens/s", "plain", "quillGPT", "ratio"], rows)


def measure_quick():
    """The quick start and the plain Transformer, whole processes in turn."""
    rows = []
    for seed in SEEDS:
        cells = []
        for recipe in ("config/shakespeare_cpu.py", "config/shakespeare_plain.py"):
            seconds, log = train_once(recipe, f"--seed={seed}")
            cells += [f"{seconds:.1f} s", f"{min(row['val_loss'] for row in log):.4f}"]
        rows.append([f"seed {seed}", *cells, f"{float(cells[0][:-2]) / float(cells[2][:-2]):.0%}"])
    columns = ["shakespeare_cpu.py", "loss", "shakespeare_plain.py", "loss", "time"]
    table(["whole process", *columns], rows)


LOOP = "while True: pass"  # a busy program
BUSY = [
    ("config/shakespeare_plain.py", ["config/shakespeare_plain.py"], 40),
    ("4 x 128, block 64", SMALL, 40),
    ("config/shakespeare_fast.py", ["config/shakespeare_fast.py"], 40),
    ("6 x 256, dropout 0.1", [*LARGER, "--optimizer=muon"], 4),
]


def measure_busy():
    """How much longer a step takes beside other programs that each keep a core busy."""
    rows = []
    for name, arguments, steps in BUSY:
        cells = []
        for programs in range(3):
            loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(programs)]
            [seconds] = in_turns([start_process(our_training, arguments)], steps, 5)
            for loop in loops:
                loop.kill()
                loop.wait()
            cells.append(f"{statistics.median(seconds) / steps * 1e3:,.1f}")
        rows.append([name, *cells])
    table(["ms a step", "alone", "beside one busy program", "beside two"], rows)


def measure_fast():
    """Wall time of whole processes, start to a validation loss of 1.88."""
    rows, steps, start = [], read_config(SMALL).max_iters, time.perf_counter()
    in_turns([start_process(plain_training, SMALL)], steps - 1, 1)
    plain = time.perf_counter() - start
    results = [train_once("config/shakespeare_fast.py", f"--seed={seed}") for seed in SEEDS]
    for seed, (seconds, log) in zip(SEEDS, results, strict=True):
        rows.append([f"seed {seed}", f"{seconds:.1f} s", f"{log[-1]['val_loss']:.4f}"])
    middle = statistics.median(seconds for seconds, _ in results)
    ratio = f"{plain:.1f} s: the ratio is {plain / middle:.1f}"
    rows.append([f"plain, {steps} steps, no evaluation", ratio, ""])
    table(["config/shakespeare_fast.py", "whole process", "validation loss"], rows)


TARGET_COLUMNS = [f"to {TARGET}", "best loss", "whole process"]


def time_to_target(recipe, *changes):
    """Train: [the seconds to TARGET, the lowest loss, the seconds of the whole process]."""
    seconds, log = train_once(recipe, *changes)
    reached = [row["seconds"] for row in log if row["val_loss"] <= TARGET]
    reached = f"{reached[0]:.0f} s" if reached else "not reached"
    return [reached, f"{min(row['val_loss'] for row in log):.4f}", f"{seconds:.0f} s"]


def measure_laptop():
    """Training time to nanoGPT's published loss, evaluations included."""
    [seconds_a_step] = in_turns([start_process(plain_training, CHAR)], 1, 3)
    plain = statistics.median(seconds_a_step) * TARGET_STEPS
    rows = []
    for seed in SEEDS:
        row = time_to_target("config/shakespeare_laptop.py", f"--seed={seed}")
        rows.append([f"seed {seed}", *row])
    name = f"plain, {TARGET_STEPS} steps of {CHAR[0]}, from the time of three"
    rows.append([name, f"{plain / 60:.0f} min", "", ""])
    table(["config/shakespeare_laptop.py", *TARGET_COLUMNS], rows)


def measure_sampling():
    """Characters a second that 10.7 million parameters write, untrained (as fast as trained)."""
    many, rows = 100 if CUDA else 10, []
    networks = [("10.7M parameters", CHAR, (1, many)), ("0.8M parameters, block 64", SMALL, (1,))]
    for name, arguments, counts in networks:
        pipes = [start_process(plain_sampling, arguments)]
        pipes += [start_process(our_sampling, arguments, streams) for streams in counts]
        plain, *ours = in_turns(pipes, 500, 3)
        plain = [500 / seconds for seconds in plain]
        for streams, ways in zip(counts, ours, strict=True):
            texts = "one text" if streams == 1 else f"{streams} texts"
            speeds = [500 * streams / seconds for seconds in ways]
            rows.append(compare(f"sampling {texts} of 500, {name}", plain, speeds))
    table(["tokens/s", "plain", "quillGPT", "ratio"], rows)


def measure_layouts():
    """What hardware.for_sampling chooses between by n_embd: characters a second of networks of
    several sizes, of one text / of ten."""
    layouts = {"plain, float32": (math.inf, "float32"), "packed, float32": (0, "float32")}
    if hardware.cpu_has_bfloat16():
        layouts["packed, bfloat16"] = (0, "bfloat16")
    rows = []
    for n_layer, n_embd, block_size in LAYOUT_SIZES:
        config = train.Config(n_layer=n_layer, n_embd=n_embd, block_size=block_size)
        size = sum(parameter.numel() for parameter in build(config, VOCAB_SIZE).parameters())
        cells = []
        for hardware.PACKED_FROM, dtype in layouts.values():
            network = build(config, VOCAB_SIZE).eval()
            network = hardware.for_sampling(network, torch.device("cpu"), dtype)
            speeds = []
            for texts in (1, 10):
                idx = torch.zeros(texts, 1, dtype=torch.int64)
                write = functools.partial(generate, network, idx, 200)
                speeds.append(f"{200 * texts / best_seconds(write, budget=2):,.0f}")
            cells.append(" / ".join(speeds))
        rows.append([f"{size / 1e6:.1f}M, n_embd {n_embd}", *cells])
    table(["parameters", *layouts], rows)


# In the page from the start: note the time at which the network's first character is there.
FIRST_CHARACTER = """
addEventListener("DOMContentLoaded", () => {
  const text = document.getElementById("text");
  new MutationObserver(() => {
    const drawn = text.querySelector(".character:not(.prompt, .caret)");
    if (drawn) window.first_character ??= performance.now();
  }).observe(text, { childList: true, subtree: true });
});
"""
# Move the slider in every frame while the page writes; returns the milliseconds between frames.
MOVING = """
const done = arguments[0], slider = document.getElementById("temperature"), times = [];
document.getElementById("write").click();
requestAnimationFrame(function frame(time) {
  times.push(time);
  slider.value = 0.8 + 0.2 * Math.sin(time / 200);
  slider.dispatchEvent(new Event("input"));
  if (times.length < 90) requestAnimationFrame(frame);
  else done(times.slice(1).map((time, i) => time - times[i]));
});
"""


# Press Learn, and move the slider in every frame: count the late ones.
LEARNING = """
const slider = document.getElementById("temperature");
let before = performance.now();
window.late = 0;
document.getElementById("learn").click();
requestAnimationFrame(function frame(time) {
  window.late += time - before > 50;
  before = time;
  slider.value = 0.8 + 0.2 * Math.sin(time / 200);
  slider.dispatchEvent(new Event("input"));
  if (!document.getElementById("learn-status").textContent.includes("learned")) {
    requestAnimationFrame(frame);
  }
});
"""
# The three products of a linear layer of the quickest network.
PRODUCTS = """
return [
  ["x weight^T", 2048, 512, 128, false],
  ["d_y weight", 2048, 128, 512, false],
  ["d_y^T x", 512, 128, 2048, true],
].map(([name, M, N, K, transposed]) => {
  const memory = new Memory(M * K + K * N + M * N + 64);
  const [a, b, c] = [M * K, K * N, M * N].map((size) => memory.array(size).fill(0.5));
  const rate = () => {
    const began = performance.now();
    for (let i = 0; i < 20; i++) memory.product(a, b, M, N, K, c, transposed);
    return (2 * M * N * K * 20) / (performance.now() - began) / 1e6;
  };
  return [`${name}: ${M} x ${K} x ${N}`, Math.max(...Array.from({ length: 6 }, rate))];
});
"""


def measure_page():
    """A page of `python -m page` in Chromium: from the address to the first character, its speed,
    and the frames of the screen that come late while it writes."""
    driver, rows = open_chromium(), []
    if driver is None:
        print("\nThe page: not measured, there is no Chromium with chromedriver here.")
        return
    script = {"source": FIRST_CHARACTER}
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    for name, arguments in (("0.8M, block 64", SMALL), ("4.7M, block 256", LARGER)):
        with tempfile.TemporaryDirectory() as folder:
            config = read_config([*arguments, f"--out_dir={folder}"])
            meta, state = open_dataset("shakespeare_char").meta, train.State(best_val_loss=4.17)
            save("ckpt.pt", build(config, VOCAB_SIZE), config, meta, state)
            whole_process("-m", "page", f"--out_dir={folder}")
            page = Path(folder) / "page.html"
            size, loads, speeds = page.stat().st_size / 1e6, [], []
            for _ in range(5):
                driver.get(page.as_uri())
                wait_for(driver, "Wrote 200")  # by itself
                loads.append(driver.execute_script("return first_character / 1000"))
                driver.find_element("id", "write").click()
                wait_for(driver, "Wrote 500")
                rate = driver.find_element("id", "status").text.split()[3]
                speeds.append(int(rate.replace(",", "")))
            frames = driver.execute_async_script(MOVING)
        late = f"{sum(milliseconds > 25 for milliseconds in frames)} of {len(frames)}"
        rows.append([name, f"{size:.1f} MB", spread(loads, 2), spread(speeds), late])
    columns = ["file", "first character, s", "characters/s", "frames later than 25 ms"]
    table(["page of a network with", *columns], rows)
    driver.get((ROOT / "docs" / "quillgpt.html").as_uri())
    wait_for(driver, "Wrote 200")
    products = driver.execute_script(PRODUCTS)
    rows = [[name, f"{rate:.1f}"] for name, rate in products]
    table(["product of matrices", "GFLOP/s on one core"], rows)
    rows = [[name, *learn_in_page(driver, number)] for number, (name, _) in enumerate(SIZES)]
    driver.quit()
    columns = ["s from the click", "validation loss", "frames later than 50 ms"]
    table(["docs/quillgpt.html learns Tiny Shakespeare for", *columns], rows)


def learn_in_page(driver, number):
    """Let the page learn Tiny Shakespeare, at the size with this number, while a slider moves in
    every frame: the cells of a row."""
    text = (ROOT / "data" / "shakespeare_char" / "input.txt").read_text(encoding="utf-8")
    figures = []
    for _ in range(3 if number == 0 else 1):
        driver.refresh()
        wait_for(driver, "Wrote 200")
        driver.execute_script("document.getElementById('learn-text').value = arguments[0]", text)
        driver.execute_script(f"document.querySelectorAll('[name=size]')[{number}].click()")
        driver.execute_script(LEARNING)
        wait_for(driver, "learned", "learn-status")
        seconds, loss = (driver.find_element("id", f"learn-{x}").text for x in ("seconds", "loss"))
        figures.append((float(seconds), float(loss), driver.execute_script("return late")))
    seconds, losses, late = zip(*figures, strict=True)
    return spread(seconds, 1), spread(losses, 3), spread(late)


GPU_SHORT = ["--max_iters=300", "--eval_interval=100"]  # only to see that something works
# The recipe with what gives shakespeare_fast.py its speed, in a third of the steps.
GPU_TRICKS = "--optimizer=muon --qk_norm --token_shift --position=rotary --max_iters=1500"


def train_with_resume(*arguments):
    """Stop halfway and resume: the rows of the run's log.csv."""
    with tempfile.TemporaryDirectory() as folder:
        command, half = [ROOT / "train.py", f"--out_dir={folder}"], ["--max_iters=150"]
        whole_process(*command, *arguments, *half, "--lr_decay_iters=300")
        whole_process(*command, "--init_from=resume", "--max_iters=300")
        return log_rows(folder)


def measure_gpu():
    """On one GPU: speed, the time to a loss, Muon, a resume, torchrun."""
    if not CUDA:
        raise UserError("there is no CUDA device here: leave gpu out")
    measure_machine()
    measure_training()
    measure_sampling()
    rows = []
    for changes in ([], GPU_TRICKS.split()):
        rows.append([" ".join(changes) or "the recipe", *time_to_target(*CHAR, *changes)])
    table([CHAR[0], *TARGET_COLUMNS], rows)

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    logs = {
        "one process": train_once(*CHAR, *GPU_SHORT)[1],
        "torchrun, one process on nccl": train_once(*CHAR, *GPU_SHORT, launcher=torchrun)[1],
        "stopped halfway and resumed": train_with_resume(*CHAR, *GPU_SHORT),
    }
    rows = [[name, f"{log[-1]['val_loss']:.6f}"] for name, log in logs.items()]
    table([f"{CHAR[0]}, 300 steps", "validation loss"], rows)


MEASUREMENTS = {
    "machine": measure_machine,
    "training": measure_training,
    "sampling": measure_sampling,
    "layouts": measure_layouts,
    "fast": measure_fast,
    "quick": measure_quick,
    "busy": measure_busy,
    "laptop": measure_laptop,
    "page": measure_page,
    "gpu": measure_gpu,
}


def main(names):
    multiprocessing.set_start_method("spawn")  # each process begins as a program does
    unknown = set(names) - set(MEASUREMENTS)
    if unknown:
        raise UserError(f"unknown: {', '.join(unknown)}; known: {', '.join(MEASUREMENTS)}")
    os.chdir(ROOT)
    for name in names or [name for name in MEASUREMENTS if name != "gpu"]:
        MEASUREMENTS[name]()
    if not CUDA:
        print("\nCUDA: not measured, there is none here.")


if __name__ == "__main__":
    run_main(main)
