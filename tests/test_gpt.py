"""gpt.py is model.py and train.py on one page: the same network, the same steps."""

import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import gpt
import train
from ancestors import build
from quill.settings import read_settings


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_network_and_steps_equal_those_of_the_quick_start(one_thread):
    given = read_settings(train.Config, [f"{ROOT}/config/shakespeare_plain.py"], "", recipe=True)
    config = train.Config(**{name: value for name, value in given.items() if name != "recipe"})
    torch.manual_seed(1337)
    network = build(config, 65)
    torch.manual_seed(1337)
    page = gpt.GPT(65)
    ours, optimizer = train.configure_optimizers(network, config), gpt.new_optimizer(page)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        windows = torch.randint(65, (12, 129), generator=generator)
        ours.set_lr(train.get_lr(step, config))
        expected = train.train_step(network, ours, windows, config, step).item()
        assert gpt.train_step(page, optimizer, windows, step) == pytest.approx(expected, abs=1e-5)
    for (name, ours), theirs in zip(page.named_parameters(), network.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-3, name


def test_its_settings_are_those_of_the_quick_start():
    given = read_settings(train.Config, [f"{ROOT}/config/shakespeare_plain.py"], "", recipe=True)
    names = (asdict(train.Config()).keys() & vars(gpt).keys()) - {"device"}
    assert len(names) >= 9
    for name in names:
        assert getattr(gpt, name) == given.get(name, getattr(train.Config(), name)), name


@pytest.mark.parametrize("step", [0, 50, 99, 100, 1500, 2699])
def test_learning_rate_is_that_of_the_quick_start(step):
    given = read_settings(train.Config, [f"{ROOT}/config/shakespeare_plain.py"], "", recipe=True)
    config = train.Config(**{name: value for name, value in given.items() if name != "recipe"})
    network = gpt.GPT(5)
    optimizer = gpt.new_optimizer(network)
    gpt.train_step(network, optimizer, torch.zeros(1, 9, dtype=torch.int64), step)
    expected = config.learning_rate * train.get_lr(step, config)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def run_short(folder, *arguments):
    """Start gpt.py with few steps of a tiny network in a folder."""
    code = "import gpt; gpt.max_iters, gpt.n_layer, gpt.n_embd, gpt.block_size = 201, 1, 16, 16"
    code += "; gpt.main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def test_any_text_is_learned_and_continued(tmp_path):
    text = (ROOT / "data" / "pastiche.txt").read_text(encoding="utf-8")[:20000]
    Path(tmp_path, "my.txt").write_text(text, encoding="utf-8")
    out, err = run_short(tmp_path, "my.txt").communicate(timeout=60)
    assert not err
    losses = [float(loss) for loss in re.findall(r"step +\d+ +loss ([\d.]+)", out)]
    assert losses[0] == pytest.approx(math.log(len(set(text))), abs=0.2)
    assert losses[-1] < losses[0] - 0.5
    assert float(re.search(r"validation loss: ([\d.]+)", out)[1]) < losses[0] - 0.5
    assert len(out.split("validation loss")[1]) > 500


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_writes_a_text_with_what_it_has(tmp_path):
    Path(tmp_path, "my.txt").write_text("To be, or not to be. " * 1000)
    process = run_short(tmp_path, "my.txt")
    assert process.stdout.readline().startswith("step    0")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err
    assert len(out.split("validation loss")[1]) > 500


def test_page_has_at_most_200_lines():
    assert len((ROOT / "gpt.py").read_text(encoding="utf-8").splitlines()) <= 200
