"""Break runs on purpose while they go on, and count what is lost. The test does so a few times;
after every file operation of four kinds of runs, it takes some minutes, on Linux:

    python tests/test_faults.py

Prints a table. A run is lost if it cannot go on after the fault, or does not end with the bytes of
an undisturbed one.
"""

import builtins
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import outcome, prepare_small

import train
from quill import files, log
from quill.terminal import UserError

resource = pytest.importorskip("resource")  # Windows has none

RUN = [
    *("--dataset=small", "--device=cpu", "--n_layer=1", "--n_head=2", "--n_embd=16"),
    *("--block_size=32", "--batch_size=4", "--dropout=0.1", "--max_iters=6", "--lr_decay_iters=6"),
    *("--eval_interval=3", "--eval_iters=1", "--checkpoint_interval=2"),
]
RESUME = ["--init_from=resume"]


# --- A run in a process of its own ------------------------------------------------------------


def run(arguments, before=lambda: None):
    """Run train.py in a forked process, which first calls before(). Returns 0: all went well; 1: an
    error that is not explained; 2: a UserError; -9: it was killed."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(arguments, before))
    process.start()
    process.join()
    return process.exitcode


def work(arguments, before):
    """What that process does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    before()
    try:
        train.main(arguments)
    except UserError:
        sys.exit(2)


# --- A fault after each file operation --------------------------------------------------------

OPERATIONS = ["open", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir"]


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can grow


def break_after(number, fault):
    """From now on, count this process's file operations, and call fault() right after operation
    `number`. A file that the program writes is written in two halves."""
    left = number

    def counted(function):
        def count(*arguments, **options):
            nonlocal left
            result = function(*arguments, **options)
            left -= 1
            if left == 0:
                fault()
            return result

        return count

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    counted_open = counted(builtins.open)

    def open_for_halves(path, mode="r", **options):
        file = counted_open(path, mode, **options)
        if mode == "wb":
            write = counted(lambda data: (type(file).write(file, data), file.flush()))
            file.write = lambda data: (write(data[: len(data) // 2]), write(data[len(data) // 2 :]))
        return file

    files.open = open_for_halves


def kinds_of_runs():
    """Yield a name, a command, a folder to start from or None, and the ends that are right."""
    run([*RUN, "--out_dir=new"])
    for name, command, source in (
        ("a new run", [*RUN, "--init_from=auto"], None),
        ("a resumed run", [*RESUME, "--max_iters=9"], "new"),
        ("a fine-tuned run", [*RUN, "--init_from=new/ckpt.pt", "--seed=3"], None),
        ("a replaced run", [*RUN, "--overwrite", "--seed=2"], "new"),
    ):
        folder = name.replace(" ", "_")
        if source:
            shutil.copytree(source, folder)
        run([*command, f"--out_dir={folder}"])
        ends = [outcome(folder)]
        if "--overwrite" in command:  # broken at its start, it leaves the old run as it was
            ends.append(outcome(source))
        yield name, command, source, ends


def survives(fault, number, command, source, ends):
    """Break a run after a file operation, and let it go on. Returns its first status, and whether
    it then comes to its end, one of `ends`, and leaves no temporary files."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place, "run")
        if source:
            shutil.copytree(source, folder)
        status = run([*command, f"--out_dir={folder}"], lambda: break_after(number, fault))
        resumable = (folder / "last.pt").exists() and "--max_iters=9" not in command
        again = run([*(RESUME if resumable else command), f"--out_dir={folder}"])
        clean = not list(folder.glob(f"{files.TEMPORARY}*"))
        return status, status != 1 and again == 0 and outcome(folder) in ends and clean


def break_after_every_operation(every):
    """Kill four kinds of runs after each file operation in turn, or after every few of them, and
    fill the disk there; yields (fault, how often, runs lost)."""
    for name, command, source, ends in kinds_of_runs():
        survived = {"a kill": [], "a full disk": []}
        for number in itertools.count(every, every):
            status, sound = survives(kill, number, command, source, ends)
            if status != -9:  # it has no such operation
                break
            survived["a kill"].append(sound)
            _, sound = survives(fill_the_disk, number, command, source, ends)
            survived["a full disk"].append(sound)
        for fault, all_of_them in survived.items():
            lost = all_of_them.count(False)
            yield f"{fault} after a file operation: {name}", len(all_of_them), lost


def quick_plot(folder, rows, batches):
    """A file in the place of the plot, which would take most of the time."""
    with files.replacing(Path(folder) / "loss.png") as file:
        file.write(b"a plot")


def main(every=1):
    log.plot_loss = quick_plot
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare_small()
        rows = list(break_after_every_operation(every))
    print("| fault | tried | runs lost |\n|---|---|---|")
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")
    sys.exit(any(lost for _, _, lost in rows))


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and sets limits, as on Linux")
def test_no_run_is_lost_by_a_kill_or_a_full_disk():
    program = [sys.executable, __file__, "60"]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("| 0 |") == 8


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
