"""gpt.py is model.py and train.py on one page: the same network, the same steps."""

import math
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import gpt
import train
from networks import build
from quill.settings import read_settings

PLAIN = [f"{ROOT}/config/shakespeare_plain.py", "--position=learned"]


@pytest.fixture
def config():
    return train.Config(**read_settings(PLAIN, train.Config, "train.py")[0])


def test_network_and_steps_equal_those_of_train_py(config):
    torch.manual_seed(1337)
    network = build(config, 65)
    torch.manual_seed(1337)
    page = gpt.GPT(65)
    ours, optimizer = train.configure_optimizers(network, config), gpt.new_optimizer(page)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        windows = torch.randint(65, (12, 129), generator=generator)
        ours.set_lr(train.lr_factor(step, config))
        expected = train.train_step(network, ours, windows, config, step).item()
        found = gpt.train_step(page, optimizer, windows[:, :-1], windows[:, 1:], step)
        assert found == pytest.approx(expected, abs=1e-5)
    for (name, ours), theirs in zip(page.named_parameters(), network.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-3, name


def test_its_settings_are_those_of_the_plain_recipe(config):
    names = (asdict(config).keys() & vars(gpt).keys()) - {"device"}
    assert len(names) >= 8
    for name in names:
        assert getattr(gpt, name) == getattr(config, name), name


def test_learning_rate_is_that_of_the_plain_recipe(config):
    for step in (0, 50, 99, 100, 1500, 2699):
        expected = config.learning_rate * train.lr_factor(step, config)
        assert gpt.get_lr(step) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["max_iters", "warmup_iters", "temperature", "n_head"])
def test_a_setting_of_any_value_runs_or_is_refused_in_one_line(tmp_path, name):
    value = {"max_iters": 100, "warmup_iters": 0, "temperature": 0, "n_head": 3}[name]
    Path(tmp_path, "my.txt").write_text("To be, or not to be. " * 1000)
    process = run_short(tmp_path, "my.txt", change=f"gpt.max_iters = 20; gpt.{name} = {value}")
    out, err = process.communicate(timeout=60)
    refused = name == "n_head"
    assert "Traceback" not in err and ("validation loss" in out) != refused
    assert not refused or err.startswith("error: ")


BAD_TEXTS = {
    "utf16": "To be".encode("utf-16"),
    "cp1252": b"caf\xe9 " * 999,
    "short": b"To be",
    "": b"",
}


@pytest.mark.parametrize("name", [*BAD_TEXTS, "missing", "folder"])
def test_a_text_that_cannot_be_learned_is_refused_in_one_line_with_its_name(tmp_path, name):
    path = tmp_path / f"{name}.txt"
    if name == "folder":
        path.mkdir()
    elif name != "missing":
        path.write_bytes(BAD_TEXTS[name])
    _, err = run_short(tmp_path, path.name).communicate(timeout=60)
    assert err.startswith("error: ") and err.count("\n") == 1 and path.name in err


def test_the_imitation_is_named_even_if_it_has_been_prepared_as_shakespeare(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "pastiche.txt").write_text("To be, or not to be. " * 100)
    monkeypatch.setattr(gpt, "DATA", tmp_path)
    monkeypatch.setattr(gpt, "URL", "http://127.0.0.1:9/nobody")
    for _ in range(2):
        assert gpt.read_text("").startswith("To be")
        assert "pastiche.txt" in capsys.readouterr().out
        (tmp_path / "shakespeare_char").mkdir(exist_ok=True)
        (tmp_path / "shakespeare_char" / "input.txt").write_text("To be, or not to be. " * 100)


def test_a_download_is_kept(tmp_path, monkeypatch):
    served = tmp_path / "served.txt"
    served.write_text("Good morrow. " * 200)
    (tmp_path / "pastiche.txt").write_text("no")
    monkeypatch.setattr(gpt, "DATA", tmp_path)
    monkeypatch.setattr(gpt, "URL", served.as_uri())
    assert gpt.read_text("") == served.read_text()
    served.unlink()
    assert gpt.read_text("").startswith("Good morrow")


def run_short(folder, *arguments, change="pass"):
    """Start gpt.py with few steps of a tiny network in a folder."""
    code = "import gpt; gpt.max_iters, gpt.n_layer, gpt.n_embd, gpt.block_size = 201, 1, 16, 16"
    code += f"; {change}; gpt.main()"
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
