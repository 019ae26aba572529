"""Every setting of a run, and how recipes and the command line set it.

A recipe is a file of `name = value` lines in Python's syntax, such as config/shakespeare_cpu.py.
It is parsed and checked, never executed: a recipe from a stranger cannot run code.

    python train.py config/shakespeare_cpu.py --batch_size=32 --max_iters=500

starts from the defaults below, then applies the recipe, then the command line.
"""

from quill.terminal import Parser, UserError, did_you_mean, show

import argparse
import ast
import contextlib
import math
import reprlib
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path


def setting(default, meaning, choices="", low=-math.inf, high=math.inf, below=math.inf):
    """A field of Config: its default, what it means, and its limits: `choices` for a string,
    `low` <= value <= `high` and value < `below` for a number."""
    limits = {"choices": choices.split(), "low": low, "high": high, "below": below}
    return field(default=default, metadata={"meaning": meaning, **limits})


@dataclass
class Config:
    """Every setting of a run. The names are nanoGPT's where nanoGPT has the setting."""

    # the run
    out_dir: str = setting("", "folder for the run's files; empty: out/ and the recipe's name")
    dataset: str = setting("shakespeare_char", "folder under data/, made by prepare_shakespeare.py")
    init_from: str = setting("scratch", "scratch, resume, auto (one of these), or a checkpoint")
    overwrite: bool = setting(False, "let a new run replace the one in out_dir")
    eval_only: bool = setting(False, "only print the losses of the run's best checkpoint")
    seed: int = setting(1337, "for initialization, batches and dropout", low=0, high=2**32)
    device: str = setting("auto", "auto (the fastest there is), cpu, cuda, cuda:1, mps")
    dtype: str = setting("auto", "dtype of the forward pass", "auto float32 bfloat16 float16")
    compile: bool = setting(True, "torch.compile the network (CUDA only: on CPUs it gains nothing)")

    # the network
    network: str = setting("gpt", "the Transformer, or one of ancestors.py", "bigram mlp gpt")
    n_layer: int = setting(4, "number of blocks", low=1)
    n_head: int = setting(4, "attention heads in a block", low=1)
    n_embd: int = setting(128, "embedding dimension: size of a character's vector", low=1)
    block_size: int = setting(64, "context: characters read at once", low=1, high=2**20)
    position: str = setting("learned", "positional encoding", "learned sinusoidal rotary none")
    qk_norm: bool = setting(False, "layer norm of queries and keys")
    token_shift: bool = setting(False, "half of a block's input is the previous character's")
    n_hidden: int = setting(512, "width of the mlp's hidden layer", low=1)
    bias: bool = setting(False, "biases in linear layers and layer norms")
    dropout: float = setting(0.0, "probability of zeroing an activation", low=0.0, below=1.0)
    attention: str = setting("auto", "variant; auto: fused on CUDA", "auto written_out fused")

    # the optimization
    max_iters: int = setting(2000, "training steps", low=1, high=10**10)
    batch_size: int = setting(12, "sequences in one forward pass", low=1, high=2**20)
    gradient_accumulation_steps: int = setting(1, "forward passes in a step", low=1, high=2**20)
    optimizer: str = setting("adamw", "muon: Muon for the blocks' matrices", "adamw muon")
    learning_rate: float = setting(1e-3, "peak learning rate of AdamW", low=0.0)
    muon_learning_rate: float = setting(0.02, "peak learning rate of Muon", low=0.0)
    decay_lr: bool = setting(True, "False: a constant learning rate after the warm-up")
    lr_schedule: str = setting("cosine", "shape of the decay", "cosine linear constant")
    warmup_iters: int = setting(100, "steps of linear warm-up", low=0)
    lr_decay_iters: int = setting(0, "step at which min_lr is reached; 0: max_iters", low=0)
    min_lr: float = setting(1e-4, "learning rate at the end of the decay", low=0.0)
    weight_decay: float = setting(0.1, "pull of the matrices towards zero", low=0.0)
    beta1: float = setting(0.9, "AdamW's first beta, and Muon's momentum", low=0.0, below=1.0)
    beta2: float = setting(0.99, "AdamW's second beta, of squared gradients", low=0.0, below=1.0)
    grad_clip: float = setting(1.0, "largest gradient norm; 0: no clipping", low=0.0)

    # output
    eval_interval: int = setting(250, "steps between evaluations", low=1)
    checkpoint_interval: int = setting(0, "steps between further checkpoints; 0: none", low=0)
    eval_iters: int = setting(20, "batches to estimate the training loss", low=1, high=2**20)
    log_interval: int = setting(10, "steps between progress lines", low=1)


SETTINGS = {entry.name: entry for entry in fields(Config)}
PER_CALL = {"out_dir", "init_from", "overwrite", "eval_only"}  # a resume does not restore them
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
# nanoGPT's settings that have no meaning here: its recipes and command lines still run.
IGNORED = {"always_save_checkpoint", "wandb_log", "wandb_project", "wandb_run_name", "backend"}
LARGEST = 2**63 - 1  # the largest integer that a tensor holds


def checked(name, value):
    """`value` as setting `name` takes it. Raises ValueError with the reason if it is not valid."""
    kind, limits = SETTINGS[name].type, SETTINGS[name].metadata
    shown = reprlib.repr(value)
    if kind is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be {KINDS[kind]}, not {shown}")
    if kind is str:
        choices = limits["choices"]
        requirements = {
            "printable": value.isprintable(),
            f"one of {', '.join(choices)}": not choices or value in choices,
        }
    else:
        requirements = {
            "below 2**63": kind is not int or abs(value) <= LARGEST,
            "finite": kind is not float or math.isfinite(value),
            f"at least {limits['low']}": value >= limits["low"],
            f"at most {limits['high']}": value <= limits["high"],
            f"below {limits['below']}": value < limits["below"],
        }
    for requirement, met in requirements.items():
        if not met:
            raise ValueError(f"{name} must be {requirement}, not {shown}")
    return value


# What Python's parser and literal_eval raise about text that is too deep, too long or no literal.
PARSER_ERRORS = (ValueError, TypeError, SyntaxError, ArithmeticError, RecursionError, MemoryError)


def read_recipe(path):
    """The settings of a recipe file as a dict, and the names that are ignored. Raises UserError
    with file and line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about code that is never run
            tree = ast.parse(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno or 1}: {error.msg}") from error
    except PARSER_ERRORS as error:
        raise UserError(f"{path}: not a recipe ({type(error).__name__}: {error})") from error

    values, lines, ignored = {}, {}, []
    for statement in tree.body:
        where = f"{path}, line {statement.lineno}"
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                continue  # a docstring
            case ast.Assign(targets=[ast.Name(id=name)], value=literal):
                pass
            case _:
                raise UserError(f"{where}: a recipe holds only lines of the form name = value")
        if name in IGNORED:
            ignored.append(name)
            continue
        if name not in SETTINGS:
            raise UserError(f"{where}: unknown name {name!r}{did_you_mean(name, SETTINGS)}")
        if name in values:
            raise UserError(f"{where}: {name} is set a second time (first in line {lines[name]})")
        try:
            value = ast.literal_eval(literal)
        except PARSER_ERRORS as error:
            wanted = KINDS[SETTINGS[name].type]
            raise UserError(f"{where}: {name} must be {wanted} written out, no formula") from error
        try:
            values[name] = checked(name, value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        lines[name] = statement.lineno
    return values, ignored


def from_text(name, text):
    """Setting `name` as the command line's `text` gives it; raises ValueError."""
    kind = SETTINGS[name].type
    value = text
    if kind is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif kind is not str:
        with contextlib.suppress(ValueError):  # checked() says what is wrong with the text
            value = kind(text)
    return checked(name, value)


def parse_command_line(arguments):
    """Read `[recipe] [--name=value ...]`.

    Returns (config, given): the settings, and the names of those that the recipe or the command
    line set. A resumed run applies these and keeps all others as they were.
    """
    parser = Parser(
        prog="train.py",
        argument_default=argparse.SUPPRESS,  # the namespace holds what was given
        usage="python train.py [RECIPE] [--name=value ...]",
        description="Train a GPT on the text that prepare_shakespeare.py prepared.",
        epilog="example: python train.py config/shakespeare_cpu.py --max_iters=500",
    )
    parser.add_argument("recipe", nargs="?", help="a file of `name = value` lines, see config/")
    for name, entry in SETTINGS.items():
        help_text = f"{entry.metadata['meaning']} (default: {entry.default!r})"
        bare = {"nargs": "?", "const": "True"} if entry.type is bool else {}  # --compile is True
        parser.add_argument(f"--{name}", metavar=entry.type.__name__, help=help_text, **bare)
    for name in IGNORED:
        parser.add_argument(f"--{name}", nargs="?", const="True", help=argparse.SUPPRESS)
    texts = vars(parser.parse_args(arguments))
    recipe = texts.pop("recipe", None)
    values, ignored = ({}, []) if recipe is None else read_recipe(recipe)
    ignored += sorted(IGNORED & set(texts))
    if ignored:
        show(f"ignored, as they mean nothing here: {', '.join(ignored)}")
    try:
        values |= {name: from_text(name, texts[name]) for name in texts if name not in IGNORED}
    except ValueError as error:
        parser.error(str(error))
    config = Config(**values)
    if not config.out_dir:
        config.out_dir = str(Path("out") / Path(recipe or "run").stem)
    return config, set(values)
