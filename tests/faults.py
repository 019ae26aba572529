"""Break things while they run, and count what is lost. Run by hand, on Linux:

    python tests/faults.py                 50 kills, 200 flipped bits a file, full disks
    python tests/faults.py --kills=3 --fills=1 --flips=20

Prints a table: faults tried, runs lost (they could not go on, or ended with other weights than an
undisturbed run), wrong results accepted (damage that passed for sound). Both should be 0.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import prepare_shakespeare  # noqa: E402 (the path comes first)
from quill.checkpoint import load_checkpoint  # noqa: E402
from quill.dataset import open_dataset  # noqa: E402
from quill.terminal import UserError  # noqa: E402

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


def start(out_dir, limit=None, **options):
    """Start train.py as a process that goes on where out_dir stands; `limit`: bytes a file."""

    def set_limit():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = ["recipe.py", "--init_from=auto", f"--out_dir={out_dir}"]
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
        clean = not list(Path(out_dir).glob(".*.tmp"))
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--fills", type=int, default=10, help="disks that fill up")
    parser.add_argument("--flips", type=int, default=200, help="in each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)

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
        os.chdir(ROOT)

    print("| " + " | ".join(table[0]) + " |")
    print("|---|---|---|---|")
    for row in table[1:]:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.exit(any(row[2] or row[3] for row in table[1:]))


if __name__ == "__main__":
    main()
