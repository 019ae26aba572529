"""What a run can be told: every setting, and how recipes and the command line set it.

A recipe is a file of `name = value` lines in Python's syntax (config/shakespeare_cpu.py is one).
It is parsed and checked, never executed: a recipe from a stranger cannot run code.

    python train.py config/shakespeare_cpu.py --batch_size=32 --max_iters=500

takes the defaults below, then the recipe's values, then those of the command line.
"""

import argparse
import ast
import contextlib
import ctypes
import difflib
import math
import os
import reprlib
import sys
import tempfile
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path

# ---------------------------------------------------------------------------------------------
# How every program here fails, and how it writes


# torchrun starts one process a GPU (or a part of the cores) and tells each its place.
RANK = int(os.environ.get("RANK", 0))  # only process 0 writes and speaks
WORLD = int(os.environ.get("WORLD_SIZE", 1))  # how many processes train together


class UserError(Exception):
    """Something that only the person at the terminal can mend: what is wrong, where, what to do."""


def keep_freed_memory():
    """Ask the C library to reuse freed memory rather than hand it back to the system at once.

    Every step frees and takes the same large arrays. glibc gives them back in between, and the
    system clears each page that it hands out anew: a third of a training step on a CPU.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):  # glibc; the constants are from its malloc.h
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
        libc.mallopt(-4, 0)  # M_MMAP_MAX: take large arrays from the heap too


def run_main(main):
    """Call `main(arguments)`; end in one line on standard error, never in a traceback.

    Exit status: 0, 1 after a UserError, 130 after Ctrl-C (128 + SIGINT, the shells' convention).
    """
    keep_freed_memory()
    try:
        try:
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()  # here, where what goes wrong can still be told
    except UserError as error:
        # The processes of one run mostly fail together: one of them tells.
        sys.exit(1 if RANK else f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `python sample.py | head`: the reader has what it wanted
        discard_output()
    except OSError as error:
        discard_output()
        sys.exit(f"error: {error.filename or 'standard output'}: {error.strerror or error}")


def discard_output():
    """Send what is left for standard output nowhere, so that Python does not try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(line, passing=False):
    """Print a line; a `passing` one is overwritten by the next where that can be."""
    if RANK:
        return
    if sys.stdout.isatty():
        print(f"\r{line}\033[K", end="" if passing else "\n", flush=True)
    else:
        print(line, flush=True)


@contextlib.contextmanager
def replacing(path):
    """Open a temporary file whose contents take the place of `path` when the block ends well.

    A reader sees the old file or the new one, whole, whatever happens in between: the data is on
    the disk before the name changes, and on any error the old file stays as it was.
    Raises UserError when the disk refuses.
    """
    path = Path(path)
    temporary = None
    try:
        # In the same folder: a rename is only atomic within one file system.
        temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed before the rename)
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        )
        with temporary:
            yield temporary
            temporary.flush()
            os.fsync(temporary.fileno())
        # Temporary files are private (0600); what replaces `path` should be as open as any file.
        os.chmod(temporary.name, 0o666 & ~current_umask())
        os.replace(temporary.name, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary.name).unlink(missing_ok=True)


def current_umask():
    """The process's umask, which the system only tells while setting it."""
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


def sync_folder(path):
    """Put a folder's names on the disk, so that a rename outlives a power cut (POSIX only)."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


# ---------------------------------------------------------------------------------------------
# The settings


def setting(default, meaning, low=None, high=None, choices=None, below=None):
    """A field of Config: its default, what it means, and the values it may take.

    `low` <= value <= `high`, value < `below`, or value one of `choices`.
    """
    limits = {"meaning": meaning, "low": low, "high": high, "choices": choices, "below": below}
    return field(default=default, metadata=limits)


@dataclass
class Config:
    """Every setting of a run. The names are nanoGPT's wherever it has one."""

    # the run
    out_dir: str = setting("", "folder for the run's files; empty: out/ and the recipe's name")
    dataset: str = setting("shakespeare_char", "folder under data/, made by prepare_shakespeare.py")
    init_from: str = setting(
        "scratch", "scratch; resume; auto: resume if there is a run; or a checkpoint (fine-tuning)"
    )
    overwrite: bool = setting(False, "let a new run take the place of the one in out_dir")
    dry_run: bool = setting(False, "only show what the run would cost")
    overfit_batch: bool = setting(False, "only try whether one batch can be learned by heart")
    find_lr: bool = setting(False, "only look for a learning rate")
    eval_only: bool = setting(False, "only show the losses of the run's best checkpoint")
    seed: int = setting(1337, "of initialisation, batches and dropout", low=0, high=2**32)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps; auto: the fastest there is")
    dtype: str = setting(
        "auto",
        "of the matrix products: float32, bfloat16, float16; auto: bfloat16 where it is faster",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    compile: bool = setting(True, "torch.compile the network (CUDA only: on CPUs it gains nothing)")

    # the network
    network: str = setting(
        "gpt",
        "gpt, or one of its ancestors: bigram (a table of pairs), mlp (Bengio's)",
        choices=("bigram", "mlp", "gpt"),
    )
    n_layer: int = setting(4, "number of blocks", low=1)
    n_head: int = setting(4, "attention heads in a block", low=1)
    n_embd: int = setting(128, "width: numbers that stand for one character", low=1)
    block_size: int = setting(64, "context: characters the network sees at once", low=1)
    position: str = setting(
        "learned", "positional encoding", choices=("learned", "sinusoidal", "rotary", "none")
    )
    qk_norm: bool = setting(False, "layer norm of queries and keys")
    token_shift: bool = setting(False, "half of what a block reads is the character before's")
    n_hidden: int = setting(512, "width of the mlp's one layer", low=1)
    bias: bool = setting(False, "biases in linear layers and layer norms")
    dropout: float = setting(0.0, "share of activations zeroed in training", low=0.0, below=1.0)
    attention: str = setting(
        "auto",
        "how it is computed (same numbers): auto is fused on CUDA, written_out elsewhere",
        choices=("auto", "written_out", "fused"),
    )

    # the optimisation
    max_iters: int = setting(2000, "training steps", low=1)
    batch_size: int = setting(12, "sequences in one forward pass", low=1)
    gradient_accumulation_steps: int = setting(1, "forward passes to one step", low=1)
    optimizer: str = setting(
        "adamw", "muon: Muon for the blocks' matrices", choices=("adamw", "muon")
    )
    learning_rate: float = setting(1e-3, "peak learning rate of AdamW", low=0.0)
    muon_learning_rate: float = setting(0.02, "peak learning rate of Muon", low=0.0)
    lr_schedule: str = setting(
        "cosine", "shape of the decay", choices=("cosine", "linear", "constant")
    )
    warmup_iters: int = setting(100, "steps of linear warm-up", low=0)
    lr_decay_iters: int = setting(0, "step at which min_lr is reached; 0: max_iters", low=0)
    min_lr: float = setting(1e-4, "learning rate at the end of the decay", low=0.0)
    weight_decay: float = setting(0.1, "pull of the matrices towards zero", low=0.0)
    beta1: float = setting(
        0.9, "memory of the gradient: AdamW's, and Muon's momentum", low=0.0, below=1.0
    )
    beta2: float = setting(0.99, "AdamW's memory of the gradient's square", low=0.0, below=1.0)
    grad_clip: float = setting(1.0, "largest gradient norm; 0: no clipping", low=0.0)

    # what one sees
    eval_interval: int = setting(250, "steps between evaluations", low=1)
    checkpoint_interval: int = setting(
        0, "steps between checkpoints, besides those at evaluations; 0: none", low=0
    )
    eval_iters: int = setting(20, "batches in the estimate of the training loss", low=1)
    log_interval: int = setting(10, "steps between progress lines", low=1)


SETTINGS = {entry.name: entry for entry in fields(Config)}
# What one call is told, and no later one should remember.
MOMENTARY = {"init_from", "overwrite", "dry_run", "overfit_batch", "find_lr", "eval_only"}
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
LARGEST = 2**63 - 1  # what the tensors' own integers hold


def checked(name, value):
    """`value` as setting `name` takes it. Raises ValueError with the reason if it cannot."""
    kind, limits = SETTINGS[name].type, SETTINGS[name].metadata
    shown = reprlib.repr(value)
    if kind is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be {KINDS[kind]}, not {shown}")
    if kind is int and abs(value) > LARGEST:
        raise ValueError(f"{name} must be below 2**63, not {shown}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {shown}")
    if kind is str and not value.isprintable():
        raise ValueError(f"{name} must be printable, not {shown}")
    if limits["choices"] and value not in limits["choices"]:
        raise ValueError(f"{name} must be one of {', '.join(limits['choices'])}, not {shown}")
    if limits["low"] is not None and value < limits["low"]:
        raise ValueError(f"{name} must be at least {limits['low']}, not {shown}")
    if limits["high"] is not None and value > limits["high"]:
        raise ValueError(f"{name} must be at most {limits['high']}, not {shown}")
    if limits["below"] is not None and value >= limits["below"]:
        raise ValueError(f"{name} must be below {limits['below']}, not {shown}")
    return value


def did_you_mean(name, known):
    """' (did you mean ...?)' where a known name is near, else ''."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


# ---------------------------------------------------------------------------------------------
# Recipes


def read_recipe(path):
    """The settings of a recipe file as a dict. Raises UserError with file and line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about code that is not run
            tree = ast.parse(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno or 1}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a recipe ({type(error).__name__}: {error})") from error

    values, lines = {}, {}
    for statement in tree.body:
        where = f"{path}, line {statement.lineno}"
        if isinstance(statement, ast.Expr) and is_string(statement.value):
            continue  # a docstring
        if not is_assignment(statement):
            raise UserError(f"{where}: a recipe holds only lines of the form name = value")
        name = statement.targets[0].id
        if name not in SETTINGS:
            raise UserError(f"{where}: unknown name {name!r}{did_you_mean(name, SETTINGS)}")
        if name in values:
            raise UserError(f"{where}: {name} is set a second time (first in line {lines[name]})")
        try:
            value = ast.literal_eval(statement.value)
        except (
            ValueError,
            TypeError,
            SyntaxError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            wanted = KINDS[SETTINGS[name].type]
            raise UserError(f"{where}: {name} must be {wanted} written out, no formula") from error
        try:
            values[name] = checked(name, value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        lines[name] = statement.lineno
    return values


def is_string(node):
    """Whether a syntax node is a string written out."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_assignment(statement):
    """Whether a statement is `name = value` with one plain name."""
    return (
        isinstance(statement, ast.Assign)
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Name)
    )


# ---------------------------------------------------------------------------------------------
# The command line


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, with the nearest known option named."""

    def __init__(self, **options):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def parse_args(self, arguments):
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            name = unknown[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {name!r}{did_you_mean(name, known)}")
        return namespace

    def error(self, message):
        self.exit(2, f"error: {message}; {self.prog} --help lists what there is\n")


def temperatures(text):
    """'0.2,0.8' -> [0.2, 0.8], for a parser; raises ArgumentTypeError."""
    with contextlib.suppress(ValueError):
        numbers = [float(word) for word in text.split(",")]
        if all(0 <= number < math.inf for number in numbers):
            return numbers
    raise argparse.ArgumentTypeError(f"{text}: give numbers of 0 or above, as in 0.2,0.8,1.5")


def from_text(name, text):
    """The value that the command line's `text` gives setting `name`; raises ValueError."""
    kind = SETTINGS[name].type
    value = text
    if kind is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif kind is not str:
        with contextlib.suppress(ValueError):  # checked() words the complaint
            value = kind(text)
    return checked(name, value)


def load(arguments):
    """Read a command line: `[recipe] [--name=value ...]`.

    Returns (config, given): the settings, and the names of those that were set by hand, which a
    resumed run takes while it keeps all others as they were.
    """
    parser = Parser(
        prog="train.py",
        usage="python train.py [RECIPE] [--name=value ...]",
        description="Train a GPT on the text that prepare_shakespeare.py prepared.",
        epilog="example: python train.py config/shakespeare_cpu.py --max_iters=500",
    )
    parser.add_argument("recipe", nargs="?", help="a file of `name = value` lines, see config/")
    for name, entry in SETTINGS.items():
        default = repr(entry.default) if entry.type is str else entry.default
        help_text = f"{entry.metadata['meaning']} (default: {default})"
        bare = {"nargs": "?", "const": "True"} if entry.type is bool else {}  # --compile is True
        parser.add_argument(f"--{name}", metavar=entry.type.__name__, help=help_text, **bare)
    namespace = parser.parse_args(arguments)

    values = {} if namespace.recipe is None else read_recipe(namespace.recipe)
    for name in SETTINGS:
        text = getattr(namespace, name)
        if text is not None:
            try:
                values[name] = from_text(name, text)
            except ValueError as error:
                parser.error(str(error))
    config = Config(**values)
    if not config.out_dir:
        config.out_dir = str(Path("out") / Path(namespace.recipe or "run").stem)
    return config, set(values)
