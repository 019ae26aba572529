"""quill/parallel.py: several processes are one run, and a run that is stopped is saved."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, outcome, stop_at, tiny_training

import train
from quill import hardware, parallel
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
    """Start train.py in two processes, with one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max-restarts={restarts}", str(ROOT / "train.py"), *TINY, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, **PIPES)


@needs_torchrun
def test_trouble_of_one_process_ends_both_with_one_line(workspace):
    Path("occupied").write_text("a file where the run's folder should be")
    process = torchrun("--out_dir=occupied")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("error: ") == 1 and "occupied" in err.split("error: ")[1].splitlines()[0]
    assert f'File "{ROOT / "train.py"}' not in err  # no traceback of ours


# --- Parts ------------------------------------------------------------------------------------


@needs_torchrun
def test_two_processes_equal_two_threads_though_one_is_killed(workspace, monkeypatch):
    run = ["--dropout=0.2", "--optimizer=muon", "--gradient_accumulation_steps=2"]
    run += ["--log_interval=1", "--checkpoint_interval=1"]
    process = torchrun(*run, "--out_dir=processes", "--init_from=auto", restarts=3)
    read_until(process, "step 5/")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "from step 0 " not in out and out.count("done: ") == 1  # one of the two prints
    monkeypatch.setattr(parallel, "THREADS", 2)
    train.main([*TINY, *run, "--out_dir=threads"])
    assert outcome("threads") == outcome("processes")


def test_a_batch_that_divides_unevenly_equals_one_part(workspace, monkeypatch):
    found = []
    for count in (1, 8):
        monkeypatch.setattr(parallel, "THREADS", count)
        network, optimizer, data, config = tiny_training("--batch_size=13")
        windows = train.get_batch(data.train, config, 0)
        loss = train.train_step(network, optimizer, windows, config, 0).item()
        grads = [parameter.grad for parameter in network.parameters()]
        whole = train.estimate_loss(network, data.val.in_order(16))
        found.append([torch.tensor([loss, whole]), *grads])
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, atol=1e-6, rtol=1e-5)


def test_each_part_of_each_step_and_seed_has_dropout_of_its_own():
    draws, dropout = set(), hardware.FastDropout(0.5)
    places = list(itertools.product(range(3), range(3), range(3)))
    for seed, step, part in places + places:
        hardware.seed_dropout(torch.device("cpu"), seed, step, part)
        draws.add(tuple(dropout(torch.ones(64)).tolist()))
    assert len(draws) == len(places)


def test_the_parts_of_all_processes_are_the_batch(monkeypatch):
    monkeypatch.setattr(parallel, "THREADS", 2)
    monkeypatch.setattr(parallel, "WORLD", 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "RANK", rank)
        parts += parallel.split(torch.arange(13))
    assert [number for number, _ in parts] == list(range(6))
    assert torch.equal(torch.cat([part for _, part in parts]), torch.arange(13))
    with pytest.raises(UserError, match="2 .*3 "):
        parallel.split(torch.arange(2))


# --- A run that is stopped --------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_and_then_head_leave_a_run_with_the_same_bytes(workspace):
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


def test_a_run_in_a_thread_of_another_program_trains(workspace):
    thread = threading.Thread(target=train.main, args=[TINY])
    thread.start()
    thread.join(60)
    assert read_checkpoint("out/run/last.pt")["state"]["step"] == 9


def test_a_signal_in_the_last_step_lets_the_run_end(workspace, monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop_at(monkeypatch, 8)
    train.main(TINY)
    assert read_checkpoint("out/run/last.pt")["state"]["step"] == 9
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
