"""Break things while they run, and count what is lost. Run by hand, on Linux:

    python tests/faults.py                 all of it, about a quarter of an hour
    python tests/faults.py --kills=3 --fills=1 --flips=20 --every=40 --altered=50 --outputs=1

Prints a table: faults tried, runs lost (they could not go on, or ended with other weights than an
undisturbed run), wrong results accepted (damage that passed for sound). Both should be 0.
"""

import argparse
import contextlib
import copy
import fcntl
import functools
import io
import itertools
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from quill import hardware, terminal  # noqa: E402
from quill.checkpoint import load_checkpoint, network_from  # noqa: E402
from quill.dataset import open_dataset  # noqa: E402
from quill.settings import parse_command_line  # noqa: E402
from quill.terminal import UserError  # noqa: E402

import plots  # noqa: E402 (the path comes first)
import prepare_shakespeare  # noqa: E402
import train  # noqa: E402
from model import generate  # noqa: E402

STEPS = 120
# A checkpoint after each step: many of the kills hit the moment in which one is written.
RECIPE = f"""
dataset = "small"
device = "cpu"
n_layer = 2
n_head = 2
n_embd = 64
block_size = 32
batch_size = 4
dropout = 0.1
max_iters = {STEPS}
eval_interval = 40
eval_iters = 1
checkpoint_interval = 1
"""


def start(out_dir, *changes, limit=None, **options):
    """Start train.py as a process that goes on where out_dir stands; `limit`: bytes a file."""

    def set_limit():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = ["recipe.py", "--init_from=auto", f"--out_dir={out_dir}", *changes]
    return subprocess.Popen(
        [sys.executable, "-u", ROOT / "train.py", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_limit,
        **options,
    )


def finish(out_dir):
    """Let a run go on to its end; returns its checkpoint, or None if it could not."""
    process = start(out_dir)
    process.communicate()
    return load_checkpoint(Path(out_dir) / "last.pt") if process.returncode == 0 else None


def same(a, b):
    """Whether two checkpoints hold the same: the same bytes in every tensor, equal values."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def same_end(checkpoint, undisturbed):
    """Whether a run ended as the undisturbed one did: weights and log, but for the seconds."""
    if checkpoint is None:
        return False

    def rows(of):
        return [row[:2] + row[3:] for row in of["progress"]["log"]]

    return same(checkpoint["weights"], undisturbed["weights"]) and rows(checkpoint) == rows(
        undisturbed
    )


def kill_at_random_moments(kills, undisturbed, seconds_a_run):
    """SIGKILL a run again and again, wherever it is; returns (kills, runs lost)."""
    killed = lost = runs = 0
    while killed < kills:
        runs += 1
        out_dir = f"killed{runs}"
        while killed < kills:
            process = start(out_dir)
            for line in process.stdout:
                if line.startswith("run:"):  # set up, about to train
                    break
            time.sleep(random.uniform(0, seconds_a_run / 3))
            if process.poll() is not None:
                break  # it came to its end before the blow
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
        lost += not same_end(finish(out_dir), undisturbed)
    return killed, lost


def fail_to_write(fills, undisturbed):
    """Let the disk refuse large files half-way through a run; returns (faults, runs lost)."""
    lost = 0
    whole = Path("undisturbed/last.pt").stat().st_size
    for number in range(fills):
        fraction = random.uniform(0.01, 0.99)  # of last.pt: how much the disk still takes
        out_dir = f"full{number}"
        process = start(out_dir)
        for line in process.stdout:
            if line.startswith("step 40/"):
                break
        process.send_signal(signal.SIGTERM)
        process.communicate()
        before = load_checkpoint(Path(out_dir) / "last.pt")
        process = start(out_dir, limit=int(fraction * whole))
        _, complaint = process.communicate()
        told = process.returncode == 1 and complaint.startswith("error: cannot write")
        kept = same(load_checkpoint(Path(out_dir) / "last.pt"), before)
        clean = not list(Path(out_dir).glob(".quillgpt-*"))
        lost += not (told and kept and clean and same_end(finish(out_dir), undisturbed))
    return fills, lost


def flipped(data):
    """The bytes with one random bit turned over, or one random byte replaced."""
    damaged = bytearray(data)
    position = random.randrange(len(data))
    change = random.choice([1 << random.randrange(8), random.randrange(1, 256)])
    damaged[position] ^= change
    return bytes(damaged)


def flip_bits(path, flips, read, sound):
    """Damage a file `flips` times; returns how often what `read` then gives was wrong.

    A flip may pass where it changes nothing (in padding); what counts is what is read.
    """
    data, accepted = Path(path).read_bytes(), 0
    for _ in range(flips):
        Path(path).write_bytes(flipped(data))
        with contextlib.suppress(UserError):
            accepted += not same(read(), sound)
    Path(path).write_bytes(data)
    return accepted


def read_data():
    """The dataset as training sees it."""
    meta, paths = open_dataset("small", 32)
    return {"vocab": meta["vocab"], **{name: path.read_bytes() for name, path in paths.items()}}


# --- A kill at every file operation -----------------------------------------------------------

SHORT = ["recipe.py", "--n_layer=1", "--n_embd=16", "--max_iters=6", "--eval_interval=3"]
SHORT += ["--checkpoint_interval=2"]
OPERATIONS = [
    "open",
    "write",
    "fsync",
    "replace",
    "rename",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
    "chmod",
]


def in_a_child(work):
    """Call `work()` in a forked process, silently; returns its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            work()
            status = 0
        except SystemExit as error:
            status = error.code if type(error.code) is int else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_after(number):
    """From now on, count this process's file operations, and end it, as SIGKILL would, right after
    operation `number`. A file that train.py writes is written in two halves."""
    left = number

    def counted(function):
        def count(*arguments, **options):
            nonlocal left
            result = function(*arguments, **options)
            left -= 1
            if left == 0:
                os._exit(137)
            return result

        return count

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    counted_open = counted(open)

    def in_halves(path, mode="r", **options):
        file = counted_open(path, mode, **options)
        write_now = counted(lambda data: (type(file).write(file, data), file.flush()))

        def both(data):
            data = bytes(data)
            write_now(data[: len(data) // 2])
            write_now(data[len(data) // 2 :])

        if mode == "wb":
            file.write = both
        return file

    terminal.open = in_halves


def run_state(folder):
    """What a run has come to: weights, the best weights, and the log but for the seconds."""
    last, best = (load_checkpoint(Path(folder) / name) for name in ("last.pt", "ckpt.pt"))
    rows = [row[:2] + row[3:] for row in last["progress"]["log"]]
    lines = (Path(folder) / "log.csv").read_text().splitlines()
    return [last["weights"], best["weights"], rows, len(lines)]


def starts_of_runs():
    """{name: (command, what to copy to its folder first, the states that it may end in)}."""
    commands = {
        "a new run": ([*SHORT, "--init_from=auto"], None),
        "a resumed run": (["--init_from=auto", "--max_iters=9"], "new"),
        "a fine-tuned run": ([*SHORT, "--init_from=new/ckpt.pt", "--seed=3"], None),
        "a replaced run": ([*SHORT, "--overwrite", "--seed=2"], "new"),
    }
    train.main([*SHORT, "--out_dir=new"])
    starts = {}
    for name, (command, before) in commands.items():
        folder = name.replace(" ", "_")
        if before:
            shutil.copytree(before, folder)
        train.main([*command, f"--out_dir={folder}"])
        starts[name] = (command, before, run_state(folder))
    return starts


def kill_at_every_operation(every):
    """Kill four kinds of runs after each file operation in turn (or after every few of them), let
    them go on, and compare their ends; yields (name, kills, runs lost)."""
    plots.draw_loss = lambda columns, rows, file, resumes: file.write(b"a plot")
    for name, (command, before, end) in starts_of_runs().items():
        ends = [end, run_state(before)] if name == "a replaced run" else [end]
        killed = lost = 0
        for number in itertools.count(1, every):
            folder = f"operation{number}"
            if before:
                shutil.copytree(before, folder)

            def until_killed(command=command, folder=folder, number=number):
                die_after(number)
                train.main([*command, f"--out_dir={folder}"])

            status = in_a_child(until_killed)
            if status == 137:
                killed += 1
                again = [*command, f"--out_dir={folder}"]
                if (Path(folder) / "last.pt").exists():
                    again = ["--init_from=auto", *command[-1:], f"--out_dir={folder}"]
                status = in_a_child(functools.partial(train.main, again))
            kept = status == 0 and any(same(run_state(folder), state) for state in ends)
            lost += not (kept and not list(Path(folder).glob(".quillgpt-*")))
            shutil.rmtree(folder)
            if killed < (number - 1) // every + 1:  # it came to its end
                break
        yield f"kill after a file operation: {name}", killed, lost


# --- Checkpoints altered at random ------------------------------------------------------------

numbers = st.sampled_from(
    [0, 1, -1, 2, 3, 0.5, math.nan, math.inf, -math.inf, 10**7, 2**62, -(2**62)]
)
tensors = st.sampled_from(
    [
        torch.zeros(0),
        torch.ones(()),
        torch.full((58, 16), math.nan),
        torch.ones(16, dtype=torch.int64),
        torch.ones(1).expand(10**9),
        torch.ones(16, 16).to_sparse(),
        torch.ones(3, 16).T,
        torch.ones(16) * 1e38,
    ]
)
values = numbers | tensors | st.none() | st.booleans() | st.text(max_size=5)
values |= st.sampled_from(["gpt", "mlp", "bigram", "rotary", "fused", "resume", "a" * 58, "\ud800"])
values |= st.lists(numbers, max_size=3) | st.dictionaries(st.text(max_size=3), numbers, max_size=2)


def parts(tree, path=()):
    """The paths to everything inside nested dicts and lists."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield (*path, key)
        if isinstance(tree[key], (dict, list)):
            yield from parts(tree[key], (*path, key))


def alter(checkpoint, path, value):
    """Put a value in the place of a part of a checkpoint; the value "remove" removes the part."""
    *above, last = path
    for key in above:
        checkpoint = checkpoint[key]
    if isinstance(value, str) and value == "remove":
        del checkpoint[last]
    else:
        checkpoint[last] = value


def use(path):
    """Sample from a checkpoint and resume it, as a person would. Returns whether it was accepted;
    an error that is not explained in one line passes through, as does text from broken weights."""
    folder = Path("altered")
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path, folder / "last.pt")
    accepted = False
    with contextlib.suppress(UserError):
        checkpoint = load_checkpoint(path)
        network = network_from(checkpoint, attention="written_out").eval()
        logits, _ = network(torch.zeros(1, 4, dtype=torch.int64))
        assert logits.isfinite().all(), "weights beyond use were accepted"
        generate(network, torch.zeros(1, 1, dtype=torch.int64), 20)
        accepted = True
    with contextlib.suppress(UserError), hardware.errors_explained():
        config, given = parse_command_line(["--init_from=resume", f"--out_dir={folder}"])
        run = train.build_run(config, given)
        config.max_iters = min(run.progress.step + 1, 2**40)
        train.train_step(run, run.network, train.training_windows(run))
    return accepted


def alter_checkpoints(count):
    """Use checkpoints altered at random: (tried, how many were accepted wrongly or unexplained)."""
    train.main([*SHORT, "--out_dir=sound"])
    sound = load_checkpoint("sound/last.pt")
    where = st.sampled_from(list(parts(sound)))
    tried, errors = 0, []

    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=True, print_blob=False
    )
    @hypothesis.given(where, values | st.just("remove"))
    def try_one(path, value):
        nonlocal tried
        tried += 1
        altered = copy.deepcopy(sound)
        alter(altered, path, value)
        try:
            torch.save(altered, "altered.pt")
            with contextlib.redirect_stdout(io.StringIO()):
                use("altered.pt")
        except Exception as error:
            errors.append((path, value, repr(error)))

    try_one()
    for path, value, error in errors[:10]:
        print(f"{path} = {value!r}: {error}", file=sys.stderr)
    return tried, len(errors)


# --- Output that nobody reads -----------------------------------------------------------------


def stop_reading(times, how, undisturbed):
    """Let a run print to a pipe that is full, or closed; end it; returns (times, runs lost)."""
    lost = 0
    for number in range(times):
        out_dir = f"output_{how}{number}"
        process = start(out_dir, "--log_interval=1")
        fcntl.fcntl(process.stdout, 1031, 4096)  # F_SETPIPE_SZ: full after about 50 lines
        process.stdout.readline()
        if how == "closed":
            time.sleep(random.uniform(0, 0.5))
            process.stdout.close()
        else:
            time.sleep(random.uniform(1, 3))
            process.send_signal(random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
        told = process.wait() != 0
        if not (told and same_end(finish(out_dir), undisturbed)):
            lost += 1
            print(f"{out_dir}: status {process.returncode}", process.stderr.read(), file=sys.stderr)
    return times, lost


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--fills", type=int, default=10, help="disks that fill up")
    parser.add_argument("--flips", type=int, default=200, help="in each file")
    parser.add_argument("--every", type=int, default=1, help="kill after every N-th operation")
    parser.add_argument("--altered", type=int, default=1000, help="checkpoints altered at random")
    parser.add_argument("--outputs", type=int, default=10, help="full pipes, and closed ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    torch.set_num_threads(1)

    table = [("fault", "tried", "runs lost", "wrong results accepted")]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("small.txt").write_text(prepare_shakespeare.BUNDLED.read_text()[:12000])
        prepare_shakespeare.prepare(
            "small.txt", "small", prepare_shakespeare.parse_split("0.9,0.1")
        )
        Path("recipe.py").write_text(RECIPE)
        began = time.monotonic()
        undisturbed = finish("undisturbed")
        seconds = time.monotonic() - began

        killed, lost = kill_at_random_moments(options.kills, undisturbed, seconds)
        table.append(("SIGKILL at a random moment", killed, lost, 0))
        tried, lost = fail_to_write(options.fills, undisturbed)
        table.append(("disk refuses to write", tried, lost, 0))
        for path, read in (
            ("undisturbed/last.pt", lambda: load_checkpoint("undisturbed/last.pt")),
            ("undisturbed/ckpt.pt", lambda: load_checkpoint("undisturbed/ckpt.pt")),
            ("data/small/train.bin", read_data),
            ("data/small/val.bin", read_data),
            ("data/small/meta.json", read_data),
        ):
            accepted = flip_bits(path, options.flips, read, read())
            table.append((f"bit or byte flipped in {Path(path).name}", options.flips, 0, accepted))
        for how, name in (
            ("full", "output that nobody reads"),
            ("closed", "output that is closed"),
        ):
            table.append((name, *stop_reading(options.outputs, how, undisturbed), 0))
        for name, tried, lost in kill_at_every_operation(options.every):
            table.append((name, tried, lost, 0))
        tried, errors = alter_checkpoints(options.altered)
        table.append(("checkpoint altered in value, type or shape", tried, 0, errors))
        os.chdir(ROOT)

    print("| " + " | ".join(table[0]) + " |")
    print("|---|---|---|---|")
    for row in table[1:]:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.exit(any(row[2] or row[3] for row in table[1:]))


if __name__ == "__main__":
    main()
