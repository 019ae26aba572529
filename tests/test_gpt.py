"""gpt.py is model.py and train.py on one page: the same network, the same steps."""

import math
import re
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
    for step in range(8):
        windows = torch.randint(65, (12, 129), generator=generator)
        ours.set_lr(train.lr_factor(step, config))
        expected = train.train_step(network, ours, windows, config, step).item()
        found = gpt.train_step(page, optimizer, windows[:, :-1], windows[:, 1:], step)
        assert found == pytest.approx(expected, abs=1e-5)
    for (name, ours), theirs in zip(page.named_parameters(), network.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-3, name


def test_its_settings_and_rates_are_those_of_the_plain_recipe(config):
    names = (asdict(config).keys() & vars(gpt).keys()) - {"device"}
    assert len(names) >= 8
    for name in names:
        assert getattr(gpt, name) == getattr(config, name), name
    for step in (0, 50, 99, 100, 1500, 2699):
        expected = config.learning_rate * train.lr_factor(step, config)
        assert gpt.get_lr(step) == pytest.approx(expected)


TINY = {"max_iters": 20, "n_layer": 1, "n_embd": 16, "block_size": 16}


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A folder in which gpt.main() takes few steps of a tiny network on my.txt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpt.py", "my.txt"])
    for name, value in TINY.items():
        monkeypatch.setattr(gpt, name, value)


def refusal():
    """What gpt.main() says as it ends the program."""
    with pytest.raises(SystemExit) as ended:
        gpt.main()
    return ended.value.code


@pytest.mark.parametrize("name", ["max_iters", "warmup_iters", "temperature", "n_head"])
def test_a_setting_of_any_value_runs_or_is_refused_in_one_line(short, name, monkeypatch, capsys):
    value = {"max_iters": 100, "warmup_iters": 0, "temperature": 0, "n_head": 3}[name]
    monkeypatch.setattr(gpt, name, value)
    Path("my.txt").write_text("To be, or not to be. " * 1000)
    if name == "n_head":
        assert refusal().startswith("error: ")
        return
    gpt.main()
    assert "validation loss" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"caf\xe9 " * 999, b"", None], ids=["cp1252", "short", "no"])
def test_a_text_that_cannot_be_learned_is_refused_by_name(short, content):
    if content is not None:
        Path("my.txt").write_bytes(content)
    error = refusal()
    assert error.startswith("error: ") and "\n" not in error and "my.txt" in error


def test_the_imitation_is_named_even_after_it_was_prepared(tmp_path, monkeypatch, capsys):
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


def test_any_text_is_learned_and_continued(short, monkeypatch, capsys):
    text = (ROOT / "data" / "pastiche.txt").read_text(encoding="utf-8")[:20000]
    Path("my.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(gpt, "max_iters", 201)
    gpt.main()
    out, err = capsys.readouterr()
    assert not err
    losses = [float(loss) for loss in re.findall(r"step +\d+ +loss ([\d.]+)", out)]
    assert losses[0] == pytest.approx(math.log(len(set(text))), abs=0.2)
    assert losses[-1] < losses[0] - 0.5
    assert float(re.search(r"validation loss: ([\d.]+)", out)[1]) < losses[0] - 0.5
    assert len(out.split("validation loss")[1]) > 500
