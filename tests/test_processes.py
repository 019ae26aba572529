"""quill/processes.py: several processes are one run, and a run that is stopped is saved."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, log_rows, outcome, stop_at, tiny_training

import train
from quill import processes
from quill.checkpoint import read_checkpoint
from quill.terminal import UserError

needs_torchrun = pytest.mark.skipif(
    sys.platform != "linux" or not torch.distributed.is_available(), reason="torchrun on Linux"
)
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def read_until(process, start):
    """Read what a program prints, until a line begins with `start`."""
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"no line begins with {start!r}: {process.stderr.read()}")


# --- Several processes ------------------------------------------------------------------------


def torchrun(*arguments, restarts=0):
    """train.py in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max-restarts={restarts}", str(ROOT / "train.py"), *TINY, *arguments]
    return subprocess.Popen(command, **PIPES)


def losses(folder):
    return [[float(row["train_loss"]), float(row["val_loss"])] for row in log_rows(folder)]


@needs_torchrun
def test_two_processes_equal_one_even_if_a_worker_is_killed(workspace):
    run = ["--gradient_accumulation_steps=2", "--optimizer=muon", "--max_iters=20"]
    run += ["--eval_interval=20", "--log_interval=1", "--checkpoint_interval=1"]
    process = torchrun(*run, "--out_dir=two", "--init_from=auto", restarts=3)
    read_until(process, "step 5/")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "from step 0 " not in out and out.count("done: ") == 1  # one of the two prints
    train.main([*TINY, *run, "--out_dir=one"])
    for folder in ("one", "two"):  # one process goes on with the run of two
        train.main([f"--out_dir={folder}", "--init_from=resume", "--max_iters=22"])
    assert [row["step"] for row in log_rows("two")] == ["0", "20", "22"]
    assert losses("two")[1][1] < losses("two")[0][1] - 0.1
    assert losses("two") == [pytest.approx(pair, abs=1e-5) for pair in losses("one")]


@needs_torchrun
def test_trouble_of_one_process_ends_both_with_one_line(workspace):
    Path("occupied").write_text("a file where the run's folder should be")
    process = torchrun("--out_dir=occupied")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("error: ") == 1 and "occupied" in err.split("error: ")[1].splitlines()[0]
    assert f'File "{ROOT / "train.py"}' not in err  # no traceback of ours


@pytest.mark.parametrize(("count", "batch", "nearest"), [(2, 7, 8), (4, 5, 4), (3, 1, 3)])
def test_a_batch_that_does_not_divide_is_refused(workspace, monkeypatch, count, batch, nearest):
    monkeypatch.setattr(processes, "WORLD", count)
    *parts, config = tiny_training(f"--batch_size={batch}")
    with pytest.raises(UserError, match=f"{batch} .*{count} .*{nearest}$"):
        train.train(*parts, {}, config, train.State(), stop=None)


def test_each_process_takes_an_equal_part_of_a_batch(monkeypatch):
    monkeypatch.setattr(processes, "WORLD", 3)
    processes.check_batch_size(12)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(processes, "RANK", rank)
        parts.append(processes.own_part(torch.arange(12)))
    assert torch.equal(torch.stack(parts), torch.arange(12).view(3, 4))


# --- A run that is stopped --------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_run_stopped_by_ctrl_c_and_then_by_head_ends_with_the_same_bytes(workspace):
    run = [*TINY, "--max_iters=200", "--eval_interval=100", "--log_interval=1", "--init_from=auto"]

    process = subprocess.Popen([sys.executable, ROOT / "train.py", *run], **PIPES)
    read_until(process, "step 10/")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "") and "--init_from=resume" in out
    assert 10 <= read_checkpoint("out/run/last.pt")["state"]["step"] < 100

    process = subprocess.Popen([sys.executable, ROOT / "train.py", *run], **PIPES)
    read_until(process, "step 110/")
    process.stdout.close()  # as `| head` does
    assert process.wait(60) != 0 and process.stderr.read() == ""
    assert read_checkpoint("out/run/last.pt")["state"]["step"] == 100

    train.main(run)
    train.main([*run, "--out_dir=undisturbed"])
    assert outcome("out/run") == outcome("undisturbed")


def test_a_second_ctrl_c_stops_at_once(workspace, monkeypatch):
    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it did not stop")

    monkeypatch.setattr(train, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.main(TINY)


@pytest.mark.parametrize("stopped", [True, False])
def test_signals_do_after_a_run_what_they_did_before(workspace, monkeypatch, stopped):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    if stopped:
        stop_at(monkeypatch, 3)
    with contextlib.suppress(SystemExit):
        train.main(TINY)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_in_the_last_step_lets_the_run_end(workspace, monkeypatch):
    stop_at(monkeypatch, 8)
    train.main(TINY)
    assert read_checkpoint("out/run/last.pt")["state"]["step"] == 9


# A step in two processes, with DistributedDataParallel in a cycle that Python does not look for.
STEP = """
import gc, os, torch
from quill import processes
gc.disable()
processes.join_processes()
network = processes.wrapped(torch.nn.Linear(2, 2))
network(torch.ones(1, 2)).sum().backward()
network.itself, network = network, None
processes.leave_processes()
print(*[open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")])
"""


@needs_torchrun
def test_no_thread_of_the_process_group_is_left_to_the_interpreters_end():
    """With some versions of PyTorch, they crashed one torchrun in six there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {**os.environ, "PYTHONPATH": str(ROOT)}
    ranks = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    command = [sys.executable, "-c", STEP]
    ended = [subprocess.Popen(command, **PIPES, env=environment) for environment in ranks]
    for process in ended:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, len(out.split())) == (0, 1), out + err


def test_half_of_torchruns_protocol_is_one_line(monkeypatch):
    monkeypatch.setattr(processes, "MISSING", ["MASTER_ADDR", "MASTER_PORT"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="MASTER_ADDR, MASTER_PORT[^\n]*torchrun"):
        processes.join_processes()
    monkeypatch.setenv("WORLD_SIZE", "1")  # one process needs nobody
    processes.join_processes()


def test_a_run_in_pythons_development_mode_warns_of_nothing(workspace):
    command = [sys.executable, "-X", "dev", ROOT / "train.py", *TINY, "--max_iters=1"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0 and "Warning" not in ended.stderr
