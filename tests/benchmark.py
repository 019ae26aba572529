"""How fast, against this machine's own limits and against the plain way, measured side by side.

    python tests/benchmark.py                   everything, an hour or more on two CPU cores
    python tests/benchmark.py training sampling only these (see MEASUREMENTS at the end)
    python tests/benchmark.py gpu               all that concerns a GPU, in about ten minutes

prints Markdown. "Plain" is what nanoGPT does, built below from the same network: float32, PyTorch's
fused attention kernel and its own dropout, unfused AdamW, one `randint` batch stacked from slices,
and generation that reads the whole window again for each token. Each way runs in a process of its
own; they take turns, so that a machine that slows down slows both. A figure is the median of
several runs, with the lowest and the highest in brackets. Needs data/shakespeare_char, prepared
from the real text.
"""

import contextlib
import csv
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from quill.checkpoint import NETWORK_SETTINGS, save  # noqa: E402
from quill.dataset import checksum_of, load_meta  # noqa: E402
from quill.hardware import pick_attention, pick_device, pick_dtype, speed_up_sampling  # noqa: E402
from quill.settings import parse_command_line  # noqa: E402
from quill.terminal import UserError, keep_freed_memory, processor, run_main  # noqa: E402

import train  # noqa: E402 (the path comes first)
from ancestors import build  # noqa: E402
from model import NetworkConfig, generate  # noqa: E402
from studies import flops_per_token  # noqa: E402

CUDA = torch.cuda.is_available()
# nanoGPT's recipe for a laptop.
SMALL = ["--n_layer=4", "--n_head=4", "--n_embd=128", "--block_size=64", "--batch_size=12"]
SMALL += ["--max_iters=2000", "--learning_rate=1e-3", "--min_lr=1e-4"]
LARGER = [*SMALL, "--n_layer=6", "--n_embd=256", "--block_size=256", "--batch_size=16"]
LARGER += ["--dropout=0.1"]
CHAR = ["config/shakespeare_char.py"]  # 10.7 million parameters
TARGET = 1.4697  # nanoGPT's published validation loss for config/shakespeare_char.py, on an A100
TARGET_STEPS = 1750  # about when its run gets there
LONGER = ["--max_iters=3500", "--dropout=0.2"]  # shakespeare_laptop.py for less than half an hour
SEEDS = (1337, 1, 2)

# ---------------------------------------------------------------------------------------------
# Showing


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


def compare(what, unit, plain, ours, digits=0):
    """A row for two lists of figures that were taken in turns: the ratio is the median of pairs."""
    ratios = [b / a for a, b in zip(plain, ours, strict=True)]
    return [f"{what}, {unit}", spread(plain, digits), spread(ours, digits), spread(ratios, 1)]


# ---------------------------------------------------------------------------------------------
# Processes that take turns


def started(function, *arguments):
    """Start function(pipe, *arguments) in a fresh process; returns its end of the pipe."""
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.Process(target=function, args=(theirs, *arguments), daemon=True).start()
    if ours.recv() != "ready":
        raise UserError("a process of the benchmark did not start")
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
    """A process's life: do what comes out of the pipe and say how long it took, until None."""
    do(1)
    pipe.send("ready")
    while work := pipe.recv():
        wait_for_gpu()
        start = time.perf_counter()
        do(work)
        wait_for_gpu()
        pipe.send(time.perf_counter() - start)


def wait_for_gpu():
    """A GPU is handed its work long before it has done it."""
    if CUDA:
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------
# The network that both ways use


def fresh_network(config, attention, device):
    """The network that the settings ask for, with random weights in float32."""
    shape = {name: getattr(config, name) for name in NETWORK_SETTINGS}
    vocab = load_meta(Path("data/shakespeare_char/meta.json"))["vocab"]
    return build(NetworkConfig(len(vocab), **{**shape, "attention": attention})).to(device)


# ---------------------------------------------------------------------------------------------
# The plain way


def plain_training(pipe, arguments):
    """nanoGPT's training step, as often as asked for."""
    config, _ = parse_command_line(arguments)
    device = pick_device()
    network = fresh_network(config, "fused", device)
    text = np.memmap("data/shakespeare_char/train.bin", dtype="<u2", mode="r")
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, fused=False)

    def steps(count):
        for _ in range(count):
            starts = torch.randint(len(text) - config.block_size, (config.batch_size,)).tolist()
            sizes = [(start, start + config.block_size) for start in starts]
            x = torch.stack([torch.from_numpy(text[a:b].astype(np.int64)) for a, b in sizes])
            y = [torch.from_numpy(text[a + 1 : b + 1].astype(np.int64)) for a, b in sizes]
            _, loss = network(x.to(device), torch.stack(y).to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    serve(pipe, steps)


@torch.no_grad()
def plain_sampling(pipe, arguments):
    """nanoGPT's generation: each token reads the whole window again, in float32."""
    config, _ = parse_command_line(arguments)
    device = pick_device()
    network = fresh_network(config, "fused", device).eval()

    def write(count):
        idx = torch.zeros(1, 1, dtype=torch.int64, device=device)
        for _ in range(count):
            logits, _ = network(idx[:, -config.block_size :])
            following = torch.multinomial(F.softmax(logits[:, -1] / 0.8, dim=1), 1)
            idx = torch.cat([idx, following], dim=1)

    serve(pipe, write)


def plain_prepare(path, folder):
    """nanoGPT's data/shakespeare_char/prepare.py: a list of numbers, through a dict."""
    text = Path(path).read_text()
    ids = {character: number for number, character in enumerate(sorted(set(text)))}
    for name, part in (
        ("train", text[: len(text) * 9 // 10]),
        ("val", text[len(text) * 9 // 10 :]),
    ):
        np.array([ids[character] for character in part], dtype=np.uint16).tofile(f"{folder}/{name}")


# ---------------------------------------------------------------------------------------------
# Our way


def our_training(pipe, arguments):
    """train.py's step, as often as asked for."""
    keep_freed_memory()
    config, _ = parse_command_line(arguments)
    run = train.Run(config, None, pick_device())
    forward = train.forward_of(run)

    def steps(count):
        for _ in range(count):
            torch.manual_seed(run.progress.step)
            rate = train.learning_rate_at(run.progress.step, config)
            train.set_learning_rate(run.optimizers, rate)
            train.train_step(run, forward, train.training_windows(run))
            run.progress.step += 1

    serve(pipe, steps)


def our_sampling(pipe, arguments, streams):
    """sample.py's generation, `streams` texts at once."""
    keep_freed_memory()
    config, _ = parse_command_line(arguments)
    device = pick_device()
    network = fresh_network(config, pick_attention("auto", device), device).eval()
    network = speed_up_sampling(network, "auto", device, streams)
    idx = torch.zeros(streams, 1, dtype=torch.int64, device=device)
    serve(pipe, lambda count: generate(network, idx, count, temperature=0.8))


# Runs a program and says what memory it took at most. (What the system tells of a child counts in
# its parent's, from before the child became another program.)
TELLING = """
import os, re, runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
print(re.search("VmHWM.*", open("/proc/self/status").read()).group())
"""


def whole_process(*command, until=None):
    """Run a program: the seconds it took, or those up to its first line with `until` in it."""
    return watched(*command, until=until)[0]


def whole_process_and_memory(*command):
    """Run a Python program on Linux: (seconds, peak memory in MB)."""
    seconds, last = watched("-c", TELLING, *command)
    return seconds, int(re.search(r"VmHWM:\s+(\d+) kB", last).group(1)) / 1024


def watched(*command, until=None):
    """Run a program: (seconds, its last line)."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds, last = None, ""
    for line in process.stdout:
        last = line
        if until and until in line and seconds is None:
            seconds = time.perf_counter() - start
    process.wait()
    if process.returncode:
        raise UserError(f"{command[0]} failed: {last}")
    return seconds or time.perf_counter() - start, last


def trained(recipe, *changes, launcher=()):
    """Run train.py with a recipe: (seconds of the whole process, the rows of its log.csv)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, ROOT / "train.py", recipe, f"--out_dir={folder}", *changes]
        return whole_process(*command), log_rows(folder)


def log_rows(folder):
    """The rows of a run's log.csv, as dicts of numbers."""
    with open(f"{folder}/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items()} for row in rows]


# ---------------------------------------------------------------------------------------------
# Measurements


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


def matrix_speed(dtype, device, size):
    """GFLOP/s of the product of two square matrices."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / best_seconds(lambda: matrix @ matrix) / 1e9


def measure_machine():
    """What this machine can do at best: the yardstick for all that follows."""
    device = pick_device()
    name = torch.cuda.get_device_name() if CUDA else processor()
    print(
        f"Machine: {name}, {os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"
    )
    size = 8192 if CUDA else 1024
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        speed = matrix_speed(dtype, device, size)
        rows.append([f"matrix products in {dtype}, {size} x {size}", f"{speed:,.0f} GFLOP/s"])
    numbers = torch.ones(1 << 26, device=device)  # 256 MB, more than any cache
    copy = torch.empty_like(numbers)
    rate = 2 * numbers.nbytes / best_seconds(lambda: copy.copy_(numbers)) / 1e9
    rows.append(["memory, read and written", f"{rate:,.0f} GB/s"])
    table(["this machine's limit", "measured"], rows)


def measure_training():
    """Tokens a second of the same network on the same batches' sizes."""
    rows = []
    recipes = [("0.8M, block 64, batch 12", SMALL, 50), ("6 x 256, dropout 0.1", LARGER, 3)]
    if CUDA:
        recipes = [("10.7M, shakespeare_char.py", CHAR, 50)]
    device = pick_device()
    speed = matrix_speed(pick_dtype("auto", device), device, 8192 if CUDA else 1024)
    for name, arguments, steps in recipes:
        config, _ = parse_command_line(arguments)
        pipes = [started(plain_training, arguments), started(our_training, arguments)]
        tokens = steps * train.tokens_per_step(config)
        plain, ours = ([tokens / s for s in seconds] for seconds in in_turns(pipes, steps, 7))
        row = compare(f"training, {name}", "tokens/s", plain, ours)
        network = build(
            NetworkConfig(65, config.block_size, config.n_layer, config.n_head, config.n_embd)
        )
        fraction = statistics.median(ours) * flops_per_token(network) / (speed * 1e9)
        rows.append([*row, f"{fraction:.0%} of the matrix products' peak"])
    table(["what", "plain", "here", "ratio", "of the limit"], rows)


def measure_fast():
    """Wall time of whole processes, start to a validation loss of 1.88."""
    rows = []
    start = time.perf_counter()
    config, _ = parse_command_line(SMALL)
    pipe = started(plain_training, SMALL)
    in_turns([pipe], config.max_iters - 1, 1)
    plain = time.perf_counter() - start
    results = [trained("config/shakespeare_fast.py", f"--seed={seed}") for seed in SEEDS]
    for seed, (seconds, log) in zip(SEEDS, results, strict=True):
        rows.append([f"seed {seed}", f"{seconds:.1f} s", f"{log[-1]['val_loss']:.4f}"])
    middle = statistics.median(seconds for seconds, _ in results)
    rows.append([f"plain, {config.max_iters} steps, no evaluation", f"{plain:.1f} s", ""])
    rows.append(["ratio", f"1/{plain / middle:.1f}", ""])
    table(["config/shakespeare_fast.py, the whole process", "wall time", "validation loss"], rows)


def measure_laptop():
    """Training time to nanoGPT's published loss, evaluations included."""
    config, _ = parse_command_line(CHAR)
    pipe = started(plain_training, CHAR)
    [seconds_a_step] = in_turns([pipe], 1, 3)
    plain = statistics.median(seconds_a_step) * TARGET_STEPS
    rows = []
    runs = [(f"seed {seed}", [f"--seed={seed}"]) for seed in SEEDS]
    runs.append((" ".join(LONGER), LONGER))
    for name, changes in runs:
        seconds, log = trained("config/shakespeare_laptop.py", *changes)
        reached = [row["seconds"] for row in log if row["val_loss"] <= TARGET]
        best = min(row["val_loss"] for row in log)
        reached = f"{reached[0] / 60:.1f} min" if reached else "not reached"
        rows.append([name, reached, f"{best:.4f}", f"{seconds / 60:.1f} min"])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)  # each takes minutes
    rows.append([f"plain, {TARGET_STEPS} steps of its own", f"{plain / 60:.0f} min", "", ""])
    columns = ["config/shakespeare_laptop.py", f"to {TARGET}", "best loss", "whole process"]
    table(columns, rows)


def measure_sampling():
    """Characters a second that 10.7 million parameters write, untrained (as fast as trained)."""
    many, rows = 100 if CUDA else 10, []
    networks = [("10.7M parameters", CHAR, (1, many)), ("0.8M parameters, block 64", SMALL, (1,))]
    for name, arguments, counts in networks:
        pipes = [started(plain_sampling, arguments)]
        pipes += [started(our_sampling, arguments, streams) for streams in counts]
        plain, *ours = in_turns(pipes, 500, 3)
        plain = [500 / seconds for seconds in plain]
        for streams, ways in zip(counts, ours, strict=True):
            texts = "one text" if streams == 1 else f"{streams} texts"
            speeds = [500 * streams / seconds for seconds in ways]
            rows.append(compare(f"{texts} of 500, {name}", "tokens/s", plain, speeds))
    table(["sampling", "plain", "here", "ratio"], rows)


@contextlib.contextmanager
def working_in(folder):
    """Make a folder the current one for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def repeated(path, text, size):
    """Write `text`, over and over, up to `size` bytes."""
    with open(path, "wb") as file:
        while file.tell() < size:
            file.write(text)
    return path


def measure_prepare():
    """Megabytes a second from a text to its tokens, and the memory that it took."""
    shakespeare = Path("data/shakespeare_char/input.txt").read_bytes()
    # Latin, Cyrillic, Chinese and emoji: one, two, three and four bytes a character.
    mixed = shakespeare + ("Тварь ли я дрожащая, или право имею? 床前明月光 🌙\n" * 2000).encode()
    rows = []
    with tempfile.TemporaryDirectory() as folder, working_in(folder):
        for name, text in (("ASCII", shakespeare), ("mixed UTF-8", mixed)):
            source = repeated("text.txt", text, 10**8)
            plain = multiprocessing.Process(target=plain_prepare, args=(source, folder))
            start = time.perf_counter()
            plain.start()
            plain.join()
            plain = 100 / (time.perf_counter() - start)
            source = repeated("text.txt", text, 10**9)
            command = [ROOT / "prepare_shakespeare.py", "--source", source, "--dataset", "large"]
            runs = [whole_process_and_memory(*command) for _ in range(3)]
            speeds = [1000 / seconds for seconds, _ in runs]
            rows.append(
                [
                    f"1 GB of {name}",
                    f"{plain:,.1f} (100 MB)",
                    spread(speeds),
                    f"{statistics.median(speeds) / plain:.0f}",
                    f"{max(memory for _, memory in runs):,.0f} MB",
                ]
            )
    table(["prepare, MB/s", "plain", "here", "ratio", "memory"], rows)


def measure_large():
    """Training from 20 GB of tokens (a file with holes) and from Shakespeare: speed and memory."""
    rows = []
    original = Path("data/shakespeare_char").resolve()
    with tempfile.TemporaryDirectory() as folder, working_in(folder):
        for name in ("small", "large"):
            target = Path("data") / name
            target.mkdir(parents=True)
            for file in original.glob("*.bin"):
                (target / file.name).write_bytes(file.read_bytes())
            meta = load_meta(original / "meta.json")
            if name == "large":
                meta["tokens"]["train"] = 10**10
                os.truncate(target / "train.bin", 2 * 10**10)
                meta["checksums"]["meta.json"] = checksum_of(meta)
            (target / "meta.json").write_text(json.dumps(meta))
        speeds, memories = {"small": [], "large": []}, {"small": 0, "large": 0}
        for _ in range(3):
            for name in speeds:
                command = [ROOT / "train.py", *SMALL, f"--dataset={name}"]
                command += [f"--out_dir={name}", "--overwrite", "--max_iters=400"]
                seconds, memory = whole_process_and_memory(*command)
                with open(f"{name}/log.csv", newline="") as file:
                    last = list(csv.DictReader(file))[-1]
                speeds[name].append(float(last["tokens"]) / float(last["seconds"]))
                memories[name] = max(memories[name], memory)
    for name, size in (("small", "2 MB"), ("large", "20 GB")):
        rows.append([f"train.bin of {size}", spread(speeds[name]), f"{memories[name]:,.0f} MB"])
    table(["training from", "tokens/s", "memory"], rows)


def measure_startup():
    """From the command to the end of the first step."""
    torch_alone, first_step = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(7):
            alone = "import torch; print('imported', flush=True)"
            torch_alone.append(whole_process("-c", alone, until="imported"))
            command = [ROOT / "train.py", *SMALL, "--max_iters=3", "--log_interval=1"]
            command += [f"--out_dir={folder}", "--overwrite"]
            first_step.append(whole_process(*command, until="step 1/"))
    more = [b - a for a, b in zip(torch_alone, first_step, strict=True)]
    rows = [[spread(torch_alone, 2), spread(first_step, 2), spread(more, 2)]]
    table(["import torch, s", "train.py to its first step, s", "difference, s"], rows)


PARTS = [
    ("the recipe", []),
    ("no token shift", ["--token_shift=False"]),
    ("learned positions", ["--position=learned"]),
    ("queries and keys not normalized", ["--qk_norm=False"]),
    ("AdamW for all, at 2e-3 (its best of five)", ["--optimizer=adamw", "--learning_rate=2e-3"]),
    ("cosine decay", ["--lr_schedule=cosine"]),
    ("rates halved", ["--learning_rate=8e-3", "--muon_learning_rate=0.02"]),
    ("rates doubled", ["--learning_rate=32e-3", "--muon_learning_rate=0.08"]),
    ("two layers", ["--n_layer=2"]),
    ("float32", ["--dtype=float32"]),
]


def measure_parts():
    """config/shakespeare_fast.py with one part taken away: its loss after the same steps."""
    rows = []
    for name, changes in PARTS:
        runs = [trained("config/shakespeare_fast.py", *changes, f"--seed={s}") for s in SEEDS]
        losses = [log[-1]["val_loss"] for _, log in runs]
        rows.append([name, spread(losses, 3), spread([seconds for seconds, _ in runs], 1)])
    table(["config/shakespeare_fast.py with", "validation loss", "whole process, s"], rows)


# Moves the slider in every frame while the page writes; returns the milliseconds between frames.
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


def open_chromium():
    """Chromium, without a window, driven by Selenium."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    return driver, WebDriverWait(driver, 60, poll_frequency=0.2)


def measure_page():
    """A page of page.py in Chromium: from the address to the first character, and its speed."""
    if not shutil.which("chromedriver"):
        print("\nThe page: not measured, there is no chromium with chromedriver here.")
        return
    driver, wait = open_chromium()
    rows = []
    for name, arguments in (("0.8M, block 64", SMALL), ("4.7M, block 256", LARGER)):
        with tempfile.TemporaryDirectory() as folder:
            config, _ = parse_command_line([*arguments, f"--out_dir={folder}"])
            save(train.Run(config, None, torch.device("cpu")), "ckpt.pt")
            whole_process(ROOT / "page.py", f"--out_dir={folder}")
            page = Path(folder) / "page.html"
            size = page.stat().st_size / 1e6
            loads, speeds, frames = [], [], []
            for _ in range(5):
                driver.get(page.as_uri())
                wait.until(lambda _: "Wrote 200" in driver.find_element("id", "status").text)
                loads.append(
                    driver.execute_script(
                        "return performance.getEntriesByName('first character')[0].startTime / 1000"
                    )
                )
                driver.execute_script("delete document.body.dataset.rate")
                driver.find_element("id", "write").click()
                rate = "return +document.body.dataset.rate"
                speeds.append(wait.until(lambda _, rate=rate: driver.execute_script(rate)))
            frames = driver.execute_async_script(MOVING)
        late = sum(milliseconds > 25 for milliseconds in frames)
        row = [name, f"{size:.1f} MB", spread(loads, 2), spread(speeds)]
        rows.append([*row, f"{late} of {len(frames)}"])
    driver.quit()
    columns = ["page.py, in Chromium", "file", "to the first character, s", "characters/s of 500"]
    table([*columns, "frames later than 25 ms"], rows)


def killed_and_resumed(*arguments):
    """Run train.py, kill it in the middle, resume it: the rows of its log.csv."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "train.py", *arguments, f"--out_dir={folder}"]
        with subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                if line.startswith(f"step {GPU_STEPS // 2}/"):
                    process.kill()
        whole_process(ROOT / "train.py", "--init_from=resume", f"--out_dir={folder}")
        return log_rows(folder)


GPU_STEPS = 300  # of the runs that show only that something works
GPU_SHORT = [f"--max_iters={GPU_STEPS}", f"--eval_interval={GPU_STEPS // 3}"]
# The recipe with what gives shakespeare_fast.py its speed, in a third of the steps.
GPU_TRICKS = "--optimizer=muon --qk_norm --token_shift --position=rotary --max_iters=1500"


def measure_gpu():
    """On one GPU: speed, the time to a loss, Muon, a kill and a resume, torchrun."""
    if not CUDA:
        raise UserError("there is no CUDA device here: leave gpu out")
    measure_machine()
    measure_training()
    measure_sampling()
    rows = []
    for changes in ([], GPU_TRICKS.split()):
        seconds, log = trained(*CHAR, *changes)
        reached = [row["seconds"] for row in log if row["val_loss"] <= TARGET]
        reached = f"{reached[0]:.0f} s" if reached else "not reached"
        best = min(row["val_loss"] for row in log)
        rows.append([" ".join(changes) or "the recipe", reached, f"{best:.4f}", f"{seconds:.0f} s"])
    table([CHAR[0], f"to {TARGET}", "best loss", "whole process"], rows)

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    _, whole = trained(*CHAR, *GPU_SHORT)
    _, wrapped = trained(*CHAR, *GPU_SHORT, launcher=torchrun)
    checkpoints = ["--checkpoint_interval=50", "--log_interval=10"]
    resumed = killed_and_resumed(*CHAR, *GPU_SHORT, *checkpoints)
    rows = [
        [name, f"{log[-1]['val_loss']:.6f}"]
        for name, log in (
            ("one process", whole),
            ("torchrun, one process on nccl", wrapped),
            ("killed in the middle and resumed", resumed),
        )
    ]
    table([f"{CHAR[0]}, {GPU_STEPS} steps", "validation loss"], rows)


MEASUREMENTS = {
    "machine": measure_machine,
    "startup": measure_startup,
    "training": measure_training,
    "sampling": measure_sampling,
    "large": measure_large,
    "prepare": measure_prepare,
    "fast": measure_fast,
    "parts": measure_parts,
    "laptop": measure_laptop,
    "page": measure_page,
    "gpu": measure_gpu,
}


def main(names):
    multiprocessing.set_start_method("spawn")  # each process begins as a program does
    unknown = set(names) - set(MEASUREMENTS)
    if unknown:
        raise UserError(f"{', '.join(unknown)}? There are: {', '.join(MEASUREMENTS)}")
    os.chdir(ROOT)
    for name in names or [name for name in MEASUREMENTS if name != "gpu"]:
        MEASUREMENTS[name]()
    if not CUDA:
        print("\nCUDA: not measured, there is none here.")


if __name__ == "__main__":
    run_main(main)
