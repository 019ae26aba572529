"""study/exercise.py: a right solution passes, a plausible mistake does not."""

from pathlib import Path

import pytest
import torch

from quill.terminal import UsageError, UserError
from study import exercise, solutions
from study.__main__ import main

# For each exercise: what stands in the solution, and what a learner might write instead.
MISTAKES = {
    "softmax": [("powers.sum()", "powers.max()"), ("z - z.max()", "z"), ("torch.exp", "torch.abs")],
    "cross_entropy": [(".mean()", ".sum()"), ("dim=1", "dim=0"), ("-p.log()", "p.log()")],
    "bigram_counts": [
        ("[first, second]", "[second, first]"),
        ("+= 1", "= 1"),
        ("zip(ids[:-1], ids[1:], strict=True)", "zip(ids[:-2], ids[1:])"),
    ],
    "embed": [("table[ids]", "table.T[ids]"), ("[ids]", "[ids[0]]"), ("table[ids]", "ids")],
    "layer_norm": [("dim=2", "dim=1"), ("gains * (", "("), ("torch.sqrt(", "(")],
    "rotate": [
        ("-2 *", "-1 *"),
        ("a * cos - b * sin", "a * cos + b * sin"),
        ("arange(T)", "ones(T)"),
    ],
    "attention": [("math.sqrt(D)", "1"), (".triu(1)", ".triu(0)"), ("dim=1", "dim=0")],
    "split_into_heads": [
        (".transpose(1, 2)", ""),
        ("view(B, T, n_head, C // n_head)", "view(B, T, C // n_head, n_head)"),
        ("view(B, T, n_head, C // n_head).transpose(1, 2)", "view(B, n_head, T, C // n_head)"),
    ],
    "feed_forward": [("/ 2 @", "@"), ("math.sqrt(2)", "2"), ("z * (1", "(1")],
    "batch_at": [
        ("[:, 1:]", "[:, :-1]"),
        ("block_size + 1", "block_size"),
        ("[:, :-1]", "[:, 1:]"),
    ],
    "learning_rate": [
        ("step + 1", "step"),
        ("max_iters - step", "step"),
        ("(warmup_iters + 1)", "warmup_iters"),
    ],
    "adamw_step": [("g**2", "g"), ("beta2**step", "beta2"), ("- lr * weight_decay * w", "")],
    "top_k_top_p": [
        (">= p", "> 1"),
        ("kept[k:] = 0", ""),
        ("kept.cumsum(dim=0) - kept", "kept.cumsum(dim=0)"),
    ],
    "newton_schulz": [
        ("4.7750", "-4.7750"),
        ("@ square) @ x", ") @ x"),
        ("3.4445 * x", "x"),
    ],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, source):
    exercise.FOLDER.mkdir(exist_ok=True)
    Path(exercise.FOLDER, f"{name}.py").write_text(exercise.HEAD + source)


@pytest.mark.parametrize("name", exercise.SOURCES)
def test_the_solution_is_right_and_plausible_mistakes_are_not(folder, name):
    source = exercise.SOURCES[name]
    write(name, source)
    assert exercise.state_of(name) == "done"
    body = source.index('"""', source.index('"""') + 3)  # after the docstring
    for right, wrong in MISTAKES[name]:
        assert right in source[body:], right
        write(name, source[:body] + source[body:].replace(right, wrong))
        assert exercise.state_of(name).startswith("wrong: "), (right, wrong)


@pytest.mark.parametrize("name", exercise.SOURCES)
def test_what_a_learner_begins_with_shows_no_solution(folder, name, capsys):
    main(["exercise", name])
    text = Path(exercise.FOLDER, f"{name}.py").read_text()
    assert getattr(solutions, name).__doc__.split("\n")[0] in text
    assert "Hint" not in text and text.rstrip().endswith("raise NotImplementedError")
    assert exercise.state_of(name) == "open"
    with pytest.raises(UserError, match=f"{name}.py"):
        main(["exercise", name])  # what is written is not overwritten
    capsys.readouterr()
    main(["exercise", name, "--hint"])
    assert capsys.readouterr().out.strip() in " ".join(exercise.SOURCES[name].split())


def test_states_are_listed_with_the_first_number_that_differs(folder, capsys):
    write("softmax", exercise.SOURCES["softmax"])
    write("embed", "def embed(ids, table):\n    return table[ids] + 1\n")
    write("rotate", "def rotate(x):\n    return x[")
    main(["exercise", "--check"])
    states = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert states.keys() == exercise.SOURCES.keys()
    assert states["softmax"] == "done" and states["attention"] == "open"
    assert states["embed"].startswith("wrong: entry (0, 0, 0) is ")
    assert states["rotate"].startswith("wrong: SyntaxError")
    torch.manual_seed(0)
    with pytest.raises(UsageError, match="attention"):
        main(["exercise", "atention"])
