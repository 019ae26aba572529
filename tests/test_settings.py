"""quill/settings.py: recipes and command lines give the settings that they name, or one error."""

import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

import hypothesis
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

import sample
from quill.settings import comments, read_settings
from quill.terminal import UsageError
from train import NANOGPTS, Config

SHIPPED = sorted(ROOT.glob("config/*.py"))

fuzz = hypothesis.settings(max_examples=30, deadline=None, database=None, derandomize=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(*arguments, recipe=None, cls=Config):
    """What read_settings makes of a command line, with the text of a recipe before it."""
    if recipe is None:
        return read_settings(arguments, cls, "x.py", NANOGPTS)[0]
    content = recipe if isinstance(recipe, bytes) else recipe.encode()
    Path("my.py").write_bytes(content)
    return read("my.py", *arguments, cls=cls)


def refusal(*arguments, **keywords):
    with pytest.raises(UsageError) as caught:
        read(*arguments, **keywords)
    return str(caught.value)


# --- What sets a setting ----------------------------------------------------------------------


def test_command_line_overrides_recipe():
    found = read("--n_head=8", "--seed=1", recipe="n_layer = 7\nn_head = 7")
    assert found == {"n_layer": 7, "n_head": 8, "seed": 1}
    assert read(recipe="") == read() == {}


@pytest.mark.parametrize("words", ["my.py --n_head=5", "my.py --n_head 5", "--n_head 5 my.py"])
def test_recipe_may_come_anywhere_on_the_command_line(words):
    Path("my.py").write_text("seed = 3")
    assert read_settings(words.split(), Config, "x.py") == ({"n_head": 5, "seed": 3}, "my")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--top_p=1", 1.0),
        ("--start=3", "3"),
        ("--start -x", "-x"),
        ("--dtype=float16", "float16"),
        ("--top_k=3", 3),
        ("--temperature=1", (1.0,)),
        ("--temperature 0.2 0.8 1", (0.2, 0.8, 1.0)),
        ("--temperature=0.2 0.8", (0.2, 0.8)),
        ("--temperature=0.2,0.8", (0.2, 0.8)),
        ("--temperature 0.2 --temperature=0.8", (0.2, 0.8)),
    ],
)
def test_each_type_reads_its_words(words, value):
    (found,) = read(*words.split(), cls=sample.Options).values()
    assert (type(found), found) == (type(value), value)


def values(kind):
    """Values that a setting of this type takes."""
    if get_args(kind):
        return st.sampled_from(get_args(kind))
    text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
    numbers = {int: st.integers(1, 10**9), float: st.floats(0, 1, exclude_max=True) | st.just(0)}
    return {**numbers, bool: st.booleans(), str: text}[kind]


some_settings = st.fixed_dictionaries(
    {}, optional={name: values(kind) for name, kind in get_type_hints(Config).items()}
)


@fuzz
@given(some_settings)
def test_recipe_and_command_line_give_the_values_that_they_name(chosen):
    lines = read(recipe="\n".join(f"{name} = {value!r}" for name, value in chosen.items()))
    words = read(*(f"--{name}={value}" for name, value in chosen.items()))
    assert lines == words == chosen
    for name, value in [*lines.items(), *words.items()]:
        assert type(value) is type(getattr(Config, name))  # 0 is read as 0.0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_makes_a_config(path):
    found = read(str(path))
    assert found.items() <= vars(Config(**found)).items()


def test_recipe_may_have_a_docstring_and_comments():
    text = '"""A docstring,\nin two lines."""\n\n# a comment\nseed = 5  # five\n'
    assert read(recipe=text) == read(recipe="\ufeff" + text) == {"seed": 5}


def test_a_path_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert read("--out_dir=~/a") == read(recipe="out_dir = '~/a'") == {"out_dir": "/home/me/a"}


# --- Mistakes ---------------------------------------------------------------------------------

LINES = {  # a wrong line of a recipe, and facts that the message must have
    "n_layers = 4": ["'n_layers'", "'n_layer'"],
    "zzz = 4": ["'zzz'"],
    "n_layer = None": ["n_layer", "whole number", "None"],
    "n_layer = True": ["n_layer", "whole number", "True"],
    "compile = 1": ["compile", "True or False", "1"],
    "n_layer = 0": ["n_layer", "at least 1", "0"],
    "learning_rate = 1e999": ["learning_rate", "inf"],
    "dtype = 'Float32'": ["dtype", "auto, float32, bfloat16, float16", "'Float32'"],
    "n_embd = 4 * 32": ["n_embd", "plain value"],
    "n_embd = {[1]: 2}": ["n_embd", "plain value"],
    "n_embd = open('pwned', 'w')": ["n_embd", "plain value"],
    "open('pwned', 'w')": ["name = value"],
    "n_embd = ": ["line 3: "],
    "bias = False": ["bias", "line 1"],
}
for statement in ("n_layer", "n_layer, n_head = 4, 4", "n_layer = n_head = 4", "import os"):
    LINES[statement] = ["name = value"]


@pytest.mark.parametrize("line", LINES)
def test_mistake_in_a_recipe_is_reported_with_file_and_line(line):
    message = refusal(recipe=f"bias = True\n\n{line}\nn_head = 4\n")
    assert message.startswith("my.py, line 3: ")
    assert all(fact in message for fact in LINES[line])
    assert not Path("pwned").exists()  # a recipe is never executed


WORDS = {  # a wrong command line, and the facts that the message must have
    "--n_layers=4": ["'--n_layers'", "'--n_layer'"],
    "--n_lay=4": ["'--n_lay'", "'--n_layer'"],
    "--zzz=4": ["'--zzz'", "x.py", "--help"],
    "a.py b.py": ["'b.py'"],
    "--n_layer": ["--n_layer"],
    "--n_layer=four": ["--n_layer", "whole number", "'four'"],
    "--n_layer -1": ["--n_layer", "at least 1", "-1"],
    "--dropout=nan": ["--dropout", "number", "nan"],
    "--dtype=float64": ["--dtype", "auto, float32, bfloat16, float16", "'float64'"],
    "nowhere.py": ["nowhere.py"],
    "config/mlp.py\xa0": [r"'config/mlp.py\xa0'"],  # a no-break space
    "config/train_shakespeare_char.py": ["'config/shakespeare_char.py'"],  # nanoGPT's name
    "-max_iters=20": ["'--max_iters'"],
    "\u2014max_iters=20": ["'--max_iters'"],  # as a word processor writes --
    "\u2013max_iters 20": ["'--max_iters'"],
    "max_iters=20": ["'--max_iters'"],
    "--max_iters = 20": ["--name=value"],
    "--overwrite config/mlp.py": ["RECIPE"],
}


@pytest.mark.parametrize("words", WORDS)
def test_mistake_on_the_command_line_is_reported_by_name(words, monkeypatch):
    monkeypatch.chdir(ROOT)  # where there are recipes
    message = refusal(*words.split(" "))
    assert all(fact in message for fact in WORDS[words])


@pytest.mark.parametrize("content", [b"seed = 5\0", b"out_dir = '\xe9'", b"\xff\xfes\0"])
def test_file_that_is_not_python_is_reported_by_name(content):
    assert "my.py" in refusal(recipe=content)


@fuzz
@given(path=st.sampled_from(SHIPPED), where=st.floats(0, 1), rest=st.binary(max_size=2))
def test_recipe_that_is_cut_or_damaged_is_read_or_refused(path, where, rest):
    content = path.read_bytes()
    start = int(where * len(content))
    try:
        Config(**read(recipe=content[:start] + (rest and rest + content[start + 1 :])))
    except UsageError as error:
        assert "my.py" in str(error)


# --- Help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [sample.Options, Config])
def test_help_lists_every_setting_with_its_comment_and_default(cls, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit, match="^0$"):
        read("--help", cls=cls)
    entries, meanings = " ".join(capsys.readouterr().out.split()).split(" --"), comments(cls)
    for field in dataclasses.fields(cls):
        entry = next(entry for entry in entries if entry.startswith(field.name + " "))
        assert meanings[field.name] and meanings[field.name] in entry
        words = field.default if isinstance(field.default, tuple) else [repr(field.default)]
        assert entry.endswith(f"(default: {' '.join(map(str, words))})")
