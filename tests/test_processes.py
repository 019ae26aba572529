"""quill/processes.py: several processes are one run, with one voice and no hang; and signals."""

from quill import processes
from quill.checkpoint import load_checkpoint
from quill.processes import StopRequest, batch_per_process
from quill.terminal import UserError

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, log_rows, stop_at, tiny_run

import prepare_shakespeare
import train

needs_torchrun = pytest.mark.skipif(
    sys.platform != "linux" or not torch.distributed.is_available(), reason="torchrun on Linux"
)

# --- Several processes ------------------------------------------------------------------------


def torchrun(*arguments, restarts=0, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", f"--max-restarts={restarts}", ROOT / "train.py"]
    return subprocess.Popen(
        [*command, *TINY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def losses(folder):
    return [[float(row["train_loss"]), float(row["val_loss"])] for row in log_rows(folder)]


@needs_torchrun
def test_two_processes_lose_what_one_does_and_either_goes_on_for_the_other(workspace):
    shape = ["--gradient_accumulation_steps=2", "--optimizer=muon"]
    train.main([*TINY, *shape, "--out_dir=one"])
    out, err = torchrun(*shape, "--out_dir=two").communicate(timeout=120)
    assert losses("two") == [pytest.approx(pair, abs=1e-5) for pair in losses("one")], err
    assert out.count("done: 9 steps") == 1

    longer = ["--init_from=resume", "--max_iters=12"]
    shutil.copytree("two", "two_then_one")
    train.main(["--out_dir=two_then_one", *longer])
    train.main(["--out_dir=one", *longer])
    assert losses("two_then_one")[3] == pytest.approx(losses("one")[3], abs=1e-5)


@needs_torchrun
def test_a_killed_worker_is_restarted_and_the_run_ends_as_if_nothing_had_been(workspace):
    slow = ["--max_iters=90", "--eval_interval=30", "--checkpoint_interval=1", "--dropout=0.1"]
    torchrun(*slow, "--out_dir=whole").communicate(timeout=120)
    process = torchrun(*slow, "--out_dir=hurt", "--init_from=auto", restarts=3)
    while not Path("hurt/last.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "resumed at step" in out
    whole, hurt = load_checkpoint("whole/last.pt"), load_checkpoint("hurt/last.pt")
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, hurt["weights"][name]), name


@needs_torchrun
def test_trouble_of_one_process_ends_all_with_one_error(workspace):
    Path("occupied").write_text("a file where the run's folder should be")
    process = torchrun("--out_dir=occupied")
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("error: cannot write into occupied") == 1
    assert "train.py" not in [line.split('"')[1] for line in err.splitlines() if 'File "' in line]


@pytest.mark.parametrize(("count", "batch", "nearest"), [(2, 7, 8), (4, 5, 4), (3, 1, 3)])
def test_a_batch_that_does_not_divide_is_refused(workspace, monkeypatch, count, batch, nearest):
    monkeypatch.setattr(processes, "WORLD", count)
    with pytest.raises(UserError, match=f"the nearest that can is {nearest}$"):
        tiny_run(f"--batch_size={batch}")
    assert not Path("out").exists()


@pytest.mark.parametrize(("count", "batch"), [(1, 7), (2, 8), (3, 12)])
def test_a_batch_that_divides_is_divided_evenly(monkeypatch, count, batch):
    monkeypatch.setattr(processes, "WORLD", count)
    assert batch_per_process(batch) * count == batch


# --- Signals ----------------------------------------------------------------------------------


def test_a_second_ctrl_c_stops_at_once(workspace, monkeypatch):
    def interrupted(run):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, "training_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.main(TINY)


def test_a_signal_between_two_steps_ends_the_next_one_saved(workspace, monkeypatch, capsys):
    synchronize = StopRequest.synchronize

    def synchronize_then_receive(stop, device):
        synchronize(stop, device)
        if not stop.received:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StopRequest, "synchronize", synchronize_then_receive)
    with pytest.raises(SystemExit, match="130"):
        train.main(TINY)
    assert "stopped after step 2, and saved" in capsys.readouterr().out
    assert load_checkpoint("out/run/last.pt")["progress"]["step"] == 2


# Training that would go on for hours, and prints after each step.
ENDLESS = [*TINY, "--max_iters=1000000", "--log_interval=1", "--eval_interval=1000000"]
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")


def started(**options):
    command = [sys.executable, ROOT / "train.py", *ENDLESS]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen(command, **options)
    wait_for(lambda: Path("out/run/last.pt").exists())
    return process


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def saved_steps():
    return load_checkpoint("out/run/last.pt")["progress"]["step"]


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_nobody_reads_the_output_ends_the_run_saved(workspace, number):
    process = started()  # its pipe fills up and blocks it, as Ctrl-S blocks a terminal
    time.sleep(3)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert saved_steps() > 10
    assert process.stderr.read() == b""


@needs_posix
def test_a_reader_that_goes_away_ends_the_run_saved(workspace):
    process = started()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 128 + 13  # as SIGPIPE would
    assert saved_steps() > 0
    assert process.stderr.read() == b""


@needs_posix
def test_a_terminal_that_is_closed_ends_the_run_saved(workspace):
    ours, theirs = os.openpty()
    process = started(stdout=theirs, stderr=theirs, stdin=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)
    process.send_signal(signal.SIGHUP)  # from the terminal, if it were the controlling one
    assert process.wait(30) in (128 + signal.SIGHUP, 128 + 13)
    assert saved_steps() > 0


@needs_posix
def test_nohup_protects_a_run_from_a_closed_terminal(workspace):
    ignore = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"']
    command = [*ignore, sys.executable, ROOT / "train.py", *ENDLESS, "--max_iters=200"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: Path("out/run/last.pt").exists())
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
@needs_posix
def test_a_closed_output_ends_the_program_before_it_begins(workspace, closed):
    number = {"stdout": 1, "stderr": 2}[closed]
    command = ["sh", "-c", f'exec "$0" "$@" {number}>&-', sys.executable, ROOT / "train.py", *TINY]
    assert subprocess.run(command, capture_output=True).returncode == 1
    assert not Path("out").exists()


def test_a_stop_asked_for_in_the_last_step_comes_too_late(workspace, monkeypatch, capsys):
    prepare_shakespeare.main(["--source=small.txt", "--dataset=small", "--split=0.6,0.2,0.2"])
    stop_at(monkeypatch, 8)
    train.main(TINY)
    said = capsys.readouterr().out
    assert "done: 9 steps" in said and "test loss" in said and "stopped" not in said


@pytest.mark.parametrize(
    "variables",
    [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "abc"}]
    + [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}],
)
def test_half_of_torchruns_variables_are_refused_in_one_line(workspace, variables):
    environment = {**os.environ, **variables}
    ended = subprocess.run(
        [sys.executable, ROOT / "train.py", *TINY], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 1
    if environment.get("RANK", "0") in "0" or "WORLD_SIZE" not in environment:
        assert ended.stderr.startswith("error: RANK is") and ended.stderr.count("\n") == 1
