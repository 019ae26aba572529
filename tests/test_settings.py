"""quill/settings.py: what sets a run's settings, and how mistakes are named."""

from quill.settings import SETTINGS, Config, checked, parse_command_line
from quill.terminal import UserError

import contextlib
import dataclasses
import io
import math
from pathlib import Path

import hypothesis
import pytest
from conftest import IMPOSSIBLE, ROOT
from hypothesis import given
from hypothesis import strategies as st

SHIPPED = sorted(ROOT.glob("config/*.py"))
by_setting = pytest.mark.parametrize("entry", SETTINGS.values(), ids=SETTINGS)

fuzz = hypothesis.settings(max_examples=200, deadline=None, database=None)
brief = hypothesis.settings(fuzz, max_examples=50)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    return tmp_path


def recipe(text):
    """The path of a recipe that holds `text`."""
    content = text if isinstance(text, bytes) else text.encode()
    Path("config/my.py").write_bytes(content)
    return "config/my.py"


def load(text, *arguments):
    return parse_command_line([recipe(text), *arguments])[0]


def refusal(text):
    with pytest.raises(UserError) as error:
        load(text)
    return str(error.value)


def rejection(arguments):
    """The one line that a wrong command line ends in."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as stop:
        parse_command_line(arguments)
    assert stop.value.code == 2
    assert stderr.getvalue().startswith("error: ")
    assert stderr.getvalue().count("\n") == 1
    return stderr.getvalue()


def assert_valid(found):
    for name, entry in SETTINGS.items():
        value, limits = getattr(found, name), entry.metadata
        assert type(value) is entry.type
        assert not limits["choices"] or value in limits["choices"]
        if entry.type is not str:
            assert math.isfinite(value)
            assert limits["low"] <= value <= limits["high"]
            assert value < limits["below"]


# --- What sets a setting ----------------------------------------------------------------------


def test_the_recipe_beats_the_defaults_and_the_command_line_beats_the_recipe():
    found = load("n_layer = 7\nn_head = 7", "--n_head=8")
    assert (found.n_layer, found.n_head, found.n_embd) == (7, 8, Config.n_embd)


@pytest.mark.parametrize("arguments", [["--max_iters=50"], ["--max_iters", "50"]])
@pytest.mark.parametrize("recipe_first", [True, False])
def test_a_value_follows_its_name_or_an_equals_sign(arguments, recipe_first):
    path = [recipe("seed = 3")]
    found, _ = parse_command_line(path + arguments if recipe_first else arguments + path)
    assert (found.max_iters, found.seed) == (50, 3)


@pytest.mark.parametrize(
    "argument, value",
    [("--compile", True), ("--compile=True", True), ("--compile=false", False)],
)
def test_a_switch_without_a_value_is_on(argument, value):
    assert load("compile = False", argument).compile is value


@pytest.mark.parametrize("text, arguments", [("grad_clip = 2", []), ("", ["--grad_clip=2"])])
def test_a_whole_number_will_do_for_a_number(text, arguments):
    value = load(text, *arguments).grad_clip
    assert (type(value), value) == (float, 2.0)


def values(entry):
    """Every kind of value that a setting takes."""
    limits = entry.metadata
    if limits["choices"]:
        return st.sampled_from(limits["choices"])
    if entry.type is bool:
        return st.booleans()
    if entry.type is int:
        return st.integers(limits["low"], min(limits["high"], 2**63 - 1))
    if entry.type is float:
        high = min(limits["below"], 2.0**62)
        return st.floats(limits["low"], high, exclude_max=high == limits["below"])
    return st.text(st.characters(codec="utf-8")).filter(str.isprintable)


some_settings = st.fixed_dictionaries(
    {}, optional={name: values(entry) for name, entry in SETTINGS.items()}
)


@brief
@given(some_settings)
def test_recipes_and_command_lines_give_the_values_that_they_name(chosen):
    lines = load("\n".join(f"{name} = {value!r}" for name, value in chosen.items()))
    words, _ = parse_command_line([f"--{name}={value}" for name, value in chosen.items()])
    for name, value in chosen.items():
        if name != "out_dir" or value:
            assert getattr(lines, name) == getattr(words, name) == value


@brief
@given(some_settings, some_settings)
def test_the_names_given_are_those_of_the_recipe_and_the_command_line(in_recipe, in_words):
    path = recipe("\n".join(f"{name} = {value!r}" for name, value in in_recipe.items()))
    _, given_names = parse_command_line(
        [path, *(f"--{name}={it}" for name, it in in_words.items())]
    )
    assert given_names == {*in_recipe, *in_words}


@pytest.mark.parametrize(
    "arguments, out_dir",
    [(["config/my.py"], "out/my"), ([], "out/run"), (["config/my.py", "--out_dir=here"], "here")],
)
def test_runs_go_to_a_folder_named_after_the_recipe(arguments, out_dir):
    recipe("")
    assert Path(parse_command_line(arguments)[0].out_dir) == Path(out_dir)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_loads(path):
    assert_valid(parse_command_line([str(path)])[0])


def test_docstrings_comments_and_empty_recipes_are_fine():
    assert load('"""A docstring,\nin two lines."""\n\n# a comment\nseed = 5  # five\n').seed == 5
    assert load("") == dataclasses.replace(Config(), out_dir=str(Path("out/my")))


def test_python_has_nothing_to_add_to_a_recipe(recwarn):
    # From 3.12 on it would warn of the escape sequence, about a file that it calls <unknown>.
    with contextlib.suppress(UserError):
        load("out_dir = 'runs\\mine'")
    assert not recwarn.list


@by_setting
def test_every_default_is_a_value_that_may_be_set(entry):
    if entry.name != "out_dir":  # empty means: named after the recipe
        assert getattr(load(f"{entry.name} = {entry.default!r}"), entry.name) == entry.default


# --- Mistakes in recipes ----------------------------------------------------------------------

ONLY = "a recipe holds only lines of the form name = value"
WRONG = {
    "n_layers = 4": "unknown name 'n_layers' (did you mean 'n_layer'?)",
    "Batch_Size = 4": "unknown name 'Batch_Size' (did you mean 'batch_size'?)",
    "zzz = 4": "unknown name 'zzz'",
    "__class__ = 4": "unknown name '__class__'",
    "n_layer = '4'": "n_layer must be a whole number, not '4'",
    "n_layer = 4.0": "n_layer must be a whole number, not 4.0",
    "n_layer = True": "n_layer must be a whole number, not True",
    "n_layer = None": "n_layer must be a whole number, not None",
    "n_layer = [4]": "n_layer must be a whole number, not [4]",
    "n_layer = 4j": "n_layer must be a whole number, not 4j",
    "dropout = '0.1'": "dropout must be a number, not '0.1'",
    "dropout = False": "dropout must be a number, not False",
    "compile = 1": "compile must be True or False, not 1",
    "compile = 'True'": "compile must be True or False, not 'True'",
    "device = 0": "device must be a string, not 0",
    "device = b'cpu'": "device must be a string, not b'cpu'",
    "n_layer = 0": "n_layer must be at least 1, not 0",
    "seed = -1": "seed must be at least 0, not -1",
    "seed = 4294967297": "seed must be at most 4294967296, not 4294967297",
    "dropout = -0.1": "dropout must be at least 0.0, not -0.1",
    "dropout = 1": "dropout must be below 1.0, not 1",
    "beta2 = 1.0": "beta2 must be below 1.0, not 1.0",
    "learning_rate = 1e999": "learning_rate must be finite, not inf",
    "learning_rate = -1e999": "learning_rate must be finite, not -inf",
    "learning_rate = nan": "learning_rate must be a number written out, no formula",
    "learning_rate = float('nan')": "learning_rate must be a number written out, no formula",
    "seed = 9223372036854775808": "seed must be below 2**63, not 9223372036854775808",
    "dtype = 'float64'": "dtype must be one of auto, float32, bfloat16, float16, not 'float64'",
    "dtype = 'Float32'": "dtype must be one of auto, float32, bfloat16, float16, not 'Float32'",
    "out_dir = 'a\\nb'": "out_dir must be printable, not 'a\\nb'",
    "out_dir = 'a\\0b'": "out_dir must be printable, not 'a\\x00b'",
    "out_dir = '\\ud800'": "out_dir must be printable, not '\\ud800'",
    "n_embd = 4 * 32": "n_embd must be a whole number written out, no formula",
    "n_embd = n_layer": "n_embd must be a whole number written out, no formula",
    "n_embd = 0x7fff + 1j * 2": "n_embd must be a whole number written out, no formula",
    "n_embd = int('4')": "n_embd must be a whole number written out, no formula",
    "n_embd = 4 if True else 5": "n_embd must be a whole number written out, no formula",
    "out_dir = f'{1}'": "out_dir must be a string written out, no formula",
    "out_dir = 'a' + 'b'": "out_dir must be a string written out, no formula",
    "out_dir = {**{}}": "out_dir must be a string written out, no formula",
    "out_dir = {[]: 1}": "out_dir must be a string written out, no formula",
    "import os": ONLY,
    "from os import path": ONLY,
    "print('hello')": ONLY,
    "n_layer": ONLY,
    "500": ONLY,
    "...": ONLY,
    "config.n_layer = 4": ONLY,
    "n_layer[0] = 4": ONLY,
    "n_layer, n_head = 4, 4": ONLY,
    "(n_layer,) = (4,)": ONLY,
    "[n_layer] = [4]": ONLY,
    "*n_layer, = [4]": ONLY,
    "n_layer = n_head = 4": ONLY,
    "n_layer += 1": ONLY,
    "n_layer: int = 4": ONLY,
    "(n_layer := 4)": ONLY,
    "del n_layer": ONLY,
    "if True: n_layer = 4": ONLY,
    "def f(): pass": ONLY,
    "pass": ONLY,
    "bias = False": "bias is set a second time (first in line 1)",
    "bias = True": "bias is set a second time (first in line 1)",
}


@pytest.mark.parametrize("line, message", WRONG.items(), ids=WRONG)
def test_a_mistake_is_named_with_file_and_line(line, message):
    assert refusal(f"bias = True\n\n{line}\nn_head = 4\n") == f"config/my.py, line 3: {message}"


@pytest.mark.parametrize(
    "line", ["n_layer = ", "n_layer == = 4", "n_layer 4", "  n_layer = 4", "'"]
)
def test_what_is_no_python_is_named_with_file_and_line(line):
    assert refusal(f"bias = True\n\n{line}\nn_head = 4\n").startswith("config/my.py, line 3: ")


SIDE_EFFECTS = [
    "__import__('os').system('touch pwned')",
    "n_layer = __import__('os').system('touch pwned')",
    "n_layer = open('pwned', 'w')",
    "n_layer = [open('pwned', 'w') for _ in 'a']",
    "n_layer = (lambda: open('pwned', 'w'))()",
    "n_layer = {open('pwned', 'w'): 1}[0]",
    "out_dir = f\"{open('pwned', 'w')}\"",
    "def f(x=open('pwned', 'w')): pass",
    "class C: open('pwned', 'w')",
    "@open('pwned', 'w')\ndef f(): pass",
    "assert open('pwned', 'w')",
    "import pwned",
]


@pytest.mark.parametrize("text", SIDE_EFFECTS)
def test_a_recipe_never_runs(text):
    Path("pwned.py").write_text("open('pwned', 'w')")
    refusal(text)
    assert not Path("pwned").exists()


NO_RECIPES = {
    "a NUL byte": b"seed = 5\0\n",
    "not UTF-8": b"out_dir = '\xe9'\n",
    "UTF-16": "seed = 5\n".encode("utf-16"),
    "an unknown encoding": b"# coding: nonsense\nseed = 5\n",
    "no text encoding": b"# coding: hex\nseed = 5\n",
    "parentheses": b"seed = " + b"(" * 100_000 + b"5" + b")" * 100_000,
    "a list in a list": b"seed = " + b"[" * 90 + b"]" * 90,
    "signs": b"seed = " + b"-" * 100_000 + b"5",
    "a few signs": b"seed = " + b"-" * 900 + b"5",
    "a sum": b"seed = 5" + b" + 5" * 100_000,
    "a short sum": b"seed = 5" + b" + 5" * 900,
    "310 digits": b"seed = 1" + b"0" * 310,
    "5000 digits": b"seed = 1" + b"0" * 5000,
    "hexadecimal digits": b"seed = 0x" + b"f" * 10_000,
    "a negative one": b"seed = -1" + b"0" * 310,
    "as a number": b"dropout = 1" + b"0" * 310,
    "and an imaginary part": b"seed = 1" + b"0" * 310 + b" + 1j",
}


@pytest.mark.parametrize("content", NO_RECIPES.values(), ids=NO_RECIPES)
def test_what_is_no_recipe_is_refused_by_name(content):
    assert refusal(content).startswith("config/my.py")


@pytest.mark.parametrize("path", ["config", "nope.py", "config/my.py/x", "", "x" * 5000])
def test_what_is_no_file_is_refused_by_name(path):
    recipe("")
    with pytest.raises(UserError) as error:
        parse_command_line([path])
    assert str(error.value).startswith(f"cannot read the recipe {path}: ")


# --- Mistakes on the command line -------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--n_layers=4"], "unknown argument '--n_layers' (did you mean '--n_layer'?)"),
        (["--n_lay=4"], "unknown argument '--n_lay' (did you mean '--n_layer'?)"),
        (["--zzz=4"], "unknown argument '--zzz'; train.py --help lists all options"),
        (["-x"], "unknown argument '-x'"),
        (["a.py", "b.py"], "unknown argument 'b.py'"),
        (["--two\nlines"], "unknown argument '--two\\nlines'"),
        (["--n_layer"], "--n_layer"),
        (["--n_layer=four"], "n_layer must be a whole number, not 'four'"),
        (["--n_layer=4.0"], "n_layer must be a whole number, not '4.0'"),
        (["--n_layer="], "n_layer must be a whole number, not ''"),
        (["--n_layer=0"], "n_layer must be at least 1, not 0"),
        (["--max_iters=1000000000000000000"], "max_iters must be at most 10000000000, not 1"),
        (["--batch_size=10000000000"], "batch_size must be at most 1048576, not 1"),
        (["--n_layer", "-1"], "n_layer must be at least 1, not -1"),
        (["--seed=9223372036854775808"], "seed must be below 2**63"),
        (["--seed=1" + "0" * 310], "seed must be"),
        (["--seed=1" + "0" * 5000], "seed must be"),
        (["--dropout=nan"], "dropout must be finite, not nan"),
        (["--learning_rate=inf"], "learning_rate must be finite, not inf"),
        (["--learning_rate=1e999"], "learning_rate must be finite, not inf"),
        (["--dropout=1.0"], "dropout must be below 1.0, not 1.0"),
        (["--compile=maybe"], "compile must be True or False, not 'maybe'"),
        (["--compile=1"], "compile must be True or False, not '1'"),
        (["--dtype=float64"], "dtype must be one of auto, float32, bfloat16, float16"),
        (["--out_dir=a\nb"], "out_dir must be printable, not 'a\\nb'"),
        (["--out_dir=\udcff"], "out_dir must be printable, not '\\udcff'"),
    ],
)
def test_a_wrong_command_line_is_named_in_one_line_with_status_2(arguments, named):
    assert named in rejection(arguments)


@pytest.mark.parametrize(("name", "value", "reason"), IMPOSSIBLE)
def test_an_impossible_network_is_refused_in_a_recipe_and_on_the_command_line(name, value, reason):
    assert reason in refusal(f"{name} = {value!r}")
    assert reason in rejection([f"--{name}={value}"])
    with pytest.raises(ValueError, match=reason):
        checked(name, value)


@pytest.mark.parametrize("name", ["dry_run", "overfit_batch", "find_lr"])
def test_a_flag_that_became_a_command_is_refused_with_that_command(name):
    command = f"python studies.py {name} [RECIPE] [--name=value ...])"
    in_recipe = refusal(f"bias = True\n\n{name} = True\n")
    assert in_recipe.startswith(f"config/my.py, line 3: unknown name '{name}' (")
    assert in_recipe.endswith(command)
    for argument in (f"--{name}", f"--{name}=True"):
        on_command_line = rejection([argument])
        assert on_command_line.startswith(f"error: unknown argument '--{name}' (")
        assert command in on_command_line


@by_setting
def test_help_tells_type_meaning_and_default_of(entry, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as stop:
        parse_command_line(["--help"])
    assert stop.value.code == 0
    kind = "[bool]" if entry.type is bool else entry.type.__name__
    line = f"--{entry.name} {kind} {entry.metadata['meaning']} (default: {entry.default!r})"
    assert line in " ".join(capsys.readouterr().out.split())


# --- Anything at all --------------------------------------------------------------------------

names = st.sampled_from([*SETTINGS, "n_layers", "a.b", "a, b", "1", "class", "é", ""])
literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63), 10**310, -(10**310)])
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.sets(st.integers()),
    max_leaves=4,
)
SNIPPETS = r"""= == := += ( ) [ ] { } , . ; : # ' " ''' \ * ** - ~ @ ... f' b' 0x 0b1 1e999 1_0 1j
0777 lambda await yield import for async None"""
snippets = st.sampled_from([*SNIPPETS.split(), *"\n\t\r\x0c\0\ufeff\u2028"])
cuts = st.tuples(
    st.floats(0, 1), st.integers(0, 30), snippets.map(str.encode) | st.binary(max_size=4)
)


@fuzz
@given(path=st.sampled_from(SHIPPED), changes=st.lists(cuts, min_size=1, max_size=4))
def test_a_mutilated_recipe_is_taken_or_refused(path, changes):
    content = path.read_bytes()
    for where, length, instead in changes:
        start = int(where * len(content))
        content = content[:start] + instead + content[start + length :]
    with contextlib.suppress(UserError):
        assert_valid(load(content))


@fuzz
@given(st.lists(st.tuples(names, literals), min_size=1, max_size=2))
def test_a_recipe_of_any_names_and_values_is_taken_or_refused(pairs):
    text = "\n".join(f"{name} = {value!r}" for name, value in pairs)
    with contextlib.suppress(UserError):
        assert_valid(load(text.encode("utf-8", "surrogatepass")))


words = st.text(st.characters(), max_size=12)
texts = literals.map(str) | words


@fuzz
@given(
    st.lists(
        st.builds("--{}={}".format, names | words, texts) | names.map("--{}".format) | words,
        max_size=4,
    )
)
def test_any_command_line_is_taken_or_rejected(arguments):
    with (
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        contextlib.suppress(UserError),
    ):
        try:
            assert_valid(parse_command_line(arguments)[0])
        except SystemExit as stop:
            assert stop.code == 2
            assert stderr.getvalue().count("\n") == 1


# --- nanoGPT's recipes and command lines ------------------------------------------------------

# The names and values of nanoGPT's config/train_shakespeare_char.py, as facts.
NANOGPT = {
    **{"out_dir": "out-shakespeare-char", "dataset": "shakespeare_char", "wandb_log": False},
    **{"wandb_project": "shakespeare-char", "wandb_run_name": "mini-gpt"},
    **{"always_save_checkpoint": False, "eval_interval": 250, "eval_iters": 200},
    **{"log_interval": 10, "gradient_accumulation_steps": 1, "batch_size": 64},
    **{"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384, "dropout": 0.2},
    **{"learning_rate": 1e-3, "max_iters": 5000, "lr_decay_iters": 5000, "min_lr": 1e-4},
    **{"beta2": 0.99, "warmup_iters": 100},
}
LAPTOP = "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64"
LAPTOP += " --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000"
LAPTOP += " --lr_decay_iters=2000 --dropout=0.0"


def test_nanogpts_recipe_runs_as_it_is(capsys):
    found = load("\n".join(f"{name} = {value!r}" for name, value in NANOGPT.items()))
    ignored = ["wandb_log", "wandb_project", "wandb_run_name", "always_save_checkpoint"]
    for name, value in NANOGPT.items():
        assert name in ignored or getattr(found, name) == value
    assert capsys.readouterr().out == (
        f"ignored, as they mean nothing here: {', '.join(ignored)}\n"
    )


def test_nanogpts_command_line_runs_as_it_is(capsys):
    found = load("", *LAPTOP.split(), "--wandb_log=True", "--backend=nccl")
    assert (found.n_layer, found.block_size, found.compile) == (4, 64, False)
    assert capsys.readouterr().out == "ignored, as they mean nothing here: backend, wandb_log\n"


def test_what_is_ignored_is_not_given():
    _, given_names = parse_command_line([recipe("wandb_log = False\nseed = 1"), "--backend=gloo"])
    assert given_names == {"seed"}
