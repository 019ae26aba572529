"""Break runs on purpose while they go on, and count what is lost. Run by hand, on Linux:

    python tools/faults.py                 all of it, in a few minutes
    python tools/faults.py --kills=2 --fills=1 --flips=20 --every=40

Prints a table. A run is lost if it cannot go on after the fault, or does not end with the bytes of
an undisturbed one. A wrong result is a damaged file that is read as if it were sound. Both should
be 0.
"""

import argparse
import builtins
import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # where the programs and conftest.py are

from conftest import contents, outcome, prepare_small  # noqa: E402

import train  # noqa: E402
from quill import files, log  # noqa: E402
from quill.checkpoint import read_checkpoint  # noqa: E402
from quill.dataset import open_dataset  # noqa: E402
from quill.terminal import UserError  # noqa: E402
from train import get_batch  # noqa: E402

# A checkpoint after each step, so that many of the kills hit the moment in which one is written.
RUN = ["--dataset=small", "--device=cpu", "--n_layer=2", "--n_head=2", "--n_embd=64"]
RUN += ["--block_size=32", "--batch_size=4", "--dropout=0.1", "--max_iters=60"]
RUN += ["--lr_decay_iters=60", "--eval_interval=20", "--eval_iters=1", "--checkpoint_interval=1"]

# --- Runs in processes of their own -----------------------------------------------------------


def start(arguments, before=lambda: None):
    """Start train.py in a forked process, which first calls before(); returns the process's id."""
    child = os.fork()
    if child:
        return child
    status = 2
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        before()
        train.main(arguments)
        status = 0
    except UserError:
        status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child):
    """Wait for a process. 0: all went well. 1: a UserError. 2: another error. -9: it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ends_like(folder, ends, arguments):
    """Whether a run goes on to its end, which is one of `ends`, and leaves no temporary files."""
    if ended(start([*arguments, f"--out_dir={folder}"])) != 0:
        return False
    return outcome(folder) in ends and not list(Path(folder).glob(f"{files.TEMPORARY}*"))


# --- Faults at random moments -----------------------------------------------------------------


def kill_at_random_moments(kills, end, seconds):
    """SIGKILL runs again and again, wherever they are; returns (kills, runs lost)."""
    killed = lost = 0
    for number in itertools.count():
        folder, status = f"killed{number}", -9
        while status == -9 and killed < kills:
            child = start([*RUN, "--init_from=auto", f"--out_dir={folder}"])
            time.sleep(random.uniform(0, seconds / 2))
            os.kill(child, signal.SIGKILL)
            status = ended(child)
            killed += status == -9
        lost += not ends_like(folder, [end], [*RUN, "--init_from=auto"])
        if killed == kills:
            return killed, lost


def fill_the_disk(fills, end):
    """Let the disk take no file beyond a size from the middle of a run on; returns (fills, runs
    lost)."""
    lost, whole = 0, Path("undisturbed/last.pt").stat().st_size
    for number in range(fills):
        limit = int(whole * random.uniform(0.01, 0.99))

        def draw(tokens, config, step, limit=limit):
            if step == 30:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return get_batch(tokens, config, step)

        folder = f"full{number}"
        child = start(
            [*RUN, f"--out_dir={folder}"], lambda draw=draw: setattr(train, "get_batch", draw)
        )
        kept = ended(child) == 1 and read_checkpoint(f"{folder}/last.pt")["state"]["step"] == 30
        lost += not (kept and ends_like(folder, [end], [*RUN, "--init_from=resume"]))
    return fills, lost


def read_dataset():
    """The token ids of each split, as training sees them."""
    return {split: tokens.ids.tobytes() for split, tokens in open_dataset("small").splits.items()}


def flip(path, flips, read):
    """Change one bit or one byte of a file at random, `flips` times; returns how often what `read`
    then gives was wrong. A change may pass where nothing is stored: in padding, say."""
    sound, data, wrong = read(), Path(path).read_bytes(), 0
    for _ in range(flips):
        damaged = bytearray(data)
        change = random.choice([1 << random.randrange(8), random.randrange(1, 256)])
        damaged[random.randrange(len(data))] ^= change
        Path(path).write_bytes(damaged)
        with contextlib.suppress(UserError):
            wrong += read() != sound
    Path(path).write_bytes(data)
    return wrong


# --- A kill after every file operation --------------------------------------------------------

OPERATIONS = ["open", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir"]
SHORT = [*RUN, "--n_layer=1", "--n_embd=16", "--max_iters=6", "--eval_interval=3"]
SHORT += ["--checkpoint_interval=2"]


def die_after(number):
    """From now on, count this process's file operations, and kill it right after operation
    `number`. A file that the program writes is written in two halves."""
    left = number

    def counted(function):
        def count(*arguments, **options):
            nonlocal left
            result = function(*arguments, **options)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return count

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))

    def open_for_halves(path, mode="r", **options):
        file = counted_open(path, mode, **options)
        if mode == "wb":
            write = counted(lambda data: (type(file).write(file, data), file.flush()))
            file.write = lambda data: [
                write(half) for half in (data[: len(data) // 2], data[len(data) // 2 :])
            ]
        return file

    counted_open = counted(builtins.open)
    files.open = open_for_halves


def kinds_of_runs():
    """Yield a name, a command, a folder to start from or None, and the ends that are right."""
    kinds = [
        ("a new run", [*SHORT, "--init_from=auto"], None),
        ("a resumed run", ["--init_from=resume", "--max_iters=9"], "new"),
        ("a fine-tuned run", [*SHORT, "--init_from=new/ckpt.pt", "--seed=3"], None),
        ("a replaced run", [*SHORT, "--overwrite", "--seed=2"], "new"),
    ]
    ended(start([*SHORT, "--out_dir=new"]))
    for name, command, source in kinds:
        folder = name.replace(" ", "_")
        if source:
            shutil.copytree(source, folder)
        ended(start([*command, f"--out_dir={folder}"]))
        ends = [outcome(folder)]
        if "--overwrite" in command:  # killed at its start, it leaves the old run as it was
            ends.append(outcome(source))
        yield name, command, source, ends


def kill_after_every_operation(every):
    """Kill four kinds of runs after each file operation in turn, or after every few of them, and
    let them go on; yields (fault, kills, runs lost)."""
    for name, command, source, ends in kinds_of_runs():
        killed = lost = 0
        for number in itertools.count(1, every):
            folder = f"operation{number}"
            if source:
                shutil.copytree(source, folder)
            child = start([*command, f"--out_dir={folder}"], lambda n=number: die_after(n))
            if ended(child) != -9:  # it came to its end
                shutil.rmtree(folder)
                break
            killed += 1
            resumable = Path(folder, "last.pt").exists() and "--max_iters=9" not in command
            lost += not ends_like(folder, ends, ["--init_from=resume"] if resumable else command)
            shutil.rmtree(folder)
        yield f"kill after a file operation: {name}", killed, lost


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="at random moments")
    parser.add_argument("--fills", type=int, default=10, help="disks that fill up")
    parser.add_argument("--flips", type=int, default=200, help="in each file")
    parser.add_argument("--every", type=int, default=1, help="kill after every N-th operation")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    random.seed(options.seed)

    def plot(folder, rows):
        """A file in the place of the plot, which would take most of the time."""
        with files.replacing(Path(folder) / "loss.png") as file:
            file.write(b"a plot")

    log.plot_loss = plot
    table = [("fault", "tried", "runs lost", "wrong results accepted")]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare_small()
        began = time.monotonic()
        ended(start([*RUN, "--out_dir=undisturbed"]))
        seconds, end = time.monotonic() - began, outcome("undisturbed")

        tried, lost = kill_at_random_moments(options.kills, end, seconds)
        table.append(("SIGKILL at a random moment", tried, lost, 0))
        tried, lost = fill_the_disk(options.fills, end)
        table.append(("a full disk", tried, lost, 0))
        for path in ("undisturbed/last.pt", "undisturbed/ckpt.pt"):
            wrong = flip(path, options.flips, lambda path=path: contents(path))
            table.append((f"a bit or a byte flipped in {path}", options.flips, 0, wrong))
        for name in ("train.bin", "val.bin", "meta.json"):
            wrong = flip(f"data/small/{name}", options.flips, read_dataset)
            table.append((f"a bit or a byte flipped in {name}", options.flips, 0, wrong))
        for fault, tried, lost in kill_after_every_operation(options.every):
            table.append((fault, tried, lost, 0))
        os.chdir(ROOT)

    print("| " + " | ".join(table[0]) + " |\n|---|---|---|---|")
    for row in table[1:]:
        print("| " + " | ".join(map(str, row)) + " |")
    sys.exit(any(row[2] or row[3] for row in table[1:]))


if __name__ == "__main__":
    main()
