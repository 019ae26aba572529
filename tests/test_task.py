"""study/task.py: a right solution passes, and the mistake in a wrong one is named."""

import csv
import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

import model
import train
from quill.muon import nearly_orthogonal
from quill.terminal import UserError
from study import solutions, task
from study.__main__ import main
from study.mistakes import MISTAKES


def adamw_step(w, g, m, s, step, lr, beta1, beta2, weight_decay):
    w, m, s, count = w.clone(), m.clone(), s.clone(), torch.tensor(step - 1.0)
    settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay, "eps": 1e-8}
    adamw([w], [g], [m], [s], [], [count], amsgrad=False, maximize=False, **settings)
    return w, m, s


LINEAR = train.Config(lr_schedule="linear", min_lr=0.0, warmup_iters=10, max_iters=110)
REFERENCES = {
    "softmax": lambda z: F.softmax(z, dim=0),
    "cross_entropy": F.cross_entropy,
    "embed": F.embedding,
    "layer_norm": lambda x, gains: F.layer_norm(x, x.shape[2:], gains),
    "rotate": lambda x: model.rotate(x, *model.rotary_tables(*x.shape)),
    "attention": lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True),
    "split_into_heads": lambda x, n: model.split_heads(torch.cat([x, x, x], dim=2), n)[0],
    "feed_forward": lambda x, a, b: F.linear(F.gelu(F.linear(x, a)), b),
    "learning_rate": lambda step, peak, *_: peak * train.lr_factor(step, LINEAR),
    "adamw_step": adamw_step,
    "top_k_top_p": lambda x, k, p: model.next_probabilities(x.log()[None], top_k=k, top_p=p)[0],
    "newton_schulz": lambda x: nearly_orthogonal(x[None], torch.float32, iterations=1)[0],
}
SENTENCES = {  # {a solution of softmax: what is said about it}
    "def softmax(z): torch.exp(z)": "for 5 scores, it returns None: is a return missing?",
    "def softmax(z): return torch.softmax(z, 0)": "line 7: softmax is what you should write",
    "def soft_max(z): return z": "there is no function softmax in ",
    "def softmax(z): exit()": "for 5 scores, it ends the program",
    "def softmax(z): return z[": "line 7: SyntaxError: '[' was never closed",
    "del F\ndef softmax(z): return F.relu(z)": "line 8: NameError: name 'F' is not defined; write",
    "def softmax(z): return [z, z]": "for 5 scores, a list is returned where a tensor should be",
    "def softmax(z): return z - math.nan": "for 5 scores, entry (0,) is nan (from 0 / 0",
}


def said(folder, name, source):
    path = folder / f"{name}.py"
    path.write_text(task.HEAD + source)
    return task.state_of(name, path)


@pytest.mark.parametrize("name", task.SOURCES)
def test_the_solution_is_right_and_each_mistake_is_named(tmp_path, name):
    right = getattr(solutions, name)
    for arguments in task.cases(name).values():
        expected = REFERENCES.get(name, right)(*arguments)
        assert task.difference(right(*arguments), expected) is None
    assert said(tmp_path, name, task.SOURCES[name]) == "done"
    start, quotes, body = task.SOURCES[name].rpartition('"""')
    for before, after, phrase in [mistake for of, *mistake in MISTAKES if of == name]:
        state = said(tmp_path, name, start + quotes + body.replace(before, after))
        assert state.startswith(f"wrong: this is what comes out {phrase}. For ")


@pytest.mark.parametrize("name", task.SOURCES)
def test_what_a_learner_begins_with_shows_no_solution(tmp_path, name, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["task", name])
    path = task.FOLDER / f"{name}.py"
    assert getattr(solutions, name).__doc__.split("\n")[0] in path.read_text()
    assert "Hint" not in path.read_text() and task.state_of(name, path) == "open"
    with pytest.raises(UserError, match=f"{name}.py"):
        main(["task", name])  # what is written is not overwritten
    capsys.readouterr()
    main(["task", name, "--hint"])
    assert capsys.readouterr().out.strip() in " ".join(task.SOURCES[name].split())


def test_what_is_wrong_is_said_in_a_sentence(tmp_path):
    for source, sentence in SENTENCES.items():
        assert sentence in said(tmp_path, "softmax", source)
    one = "def adamw_step(w, *others): return w"
    assert "it should return 3 results: w, m, s" in said(tmp_path, "adamw_step", one)


def test_check_ends_with_0_only_if_all_is_right(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task.FOLDER.mkdir()
    said(task.FOLDER, "softmax", task.SOURCES["softmax"])
    main(["task", "softmax", "--check"])
    assert "1 of 1 done" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        main(["task", "softmax", "embed", "--json"])
    assert json.loads(capsys.readouterr().out) == {"softmax": "done", "embed": "open"}


def test_grade_prints_a_csv_and_no_file_stops_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(task, "SECONDS", 1)
    for student, source in (("a", "while True: pass"), ("b", "import os; os._exit(0)")):
        (tmp_path / student / "tasks").mkdir(parents=True)
        said(tmp_path / student / "tasks", "embed", task.SOURCES["embed"])
        (tmp_path / student / "tasks/softmax.py").write_text(source)
    main(["task", "--grade", str(tmp_path)])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["student"], row["done"]) for row in rows] == [("a", "1"), ("b", "1")]
    assert all("no result in 1 second" in row["softmax"] for row in rows)
