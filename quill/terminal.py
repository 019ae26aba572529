"""What every program does at the terminal: start, read options, speak, write files, end."""

import argparse
import contextlib
import ctypes
import difflib
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

# torchrun gives each process a rank. Only the first process prints.
SILENT = os.environ.get("RANK", "0") != "0"
MOVED = {"dry_run", "overfit_batch", "find_lr"}  # flags of train.py once, now studies.py


class UserError(Exception):
    """A problem that the user can solve: the message says what is wrong, where, and what to do."""


def run_main(main):
    """Call `main(arguments)` and turn its errors into one line on standard error.

    Exit status: 0, 1 after a UserError, 130 after Ctrl-C (128 + SIGINT, the shells' convention).
    """
    keep_freed_memory()
    try:
        try:
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()  # here, where an error can still be reported
    except UserError as error:
        # The processes of a run usually fail together: one report is enough.
        sys.exit(1 if SILENT else f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        # Python would try to write the rest of the output once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `python sample.py | head` is no error
            sys.exit(f"error: {error.filename or 'standard output'}: {error.strerror or error}")


def keep_freed_memory():
    """Make the C library reuse freed memory instead of returning it to the operating system.

    Every step allocates and frees the same large arrays. By default glibc returns them to Linux,
    which zeroes each page when it hands it out again: a third of a training step on a CPU.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):  # glibc; the constants are from its malloc.h
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap
        libc.mallopt(-4, 0)  # M_MMAP_MAX: take large arrays from the heap too


def show(line, passing=False):
    """Print a line; on a terminal, the next line overwrites a `passing` one."""
    if SILENT:
        return
    if sys.stdout.isatty():
        print(f"\r{line}\033[K", end="" if passing else "\n", flush=True)
    else:
        print(line, flush=True)


def did_you_mean(name, known):
    """A hint for an unknown name: the known one that is nearest, or '' if none is near."""
    if name.lstrip("-") in MOVED:
        study = name.lstrip("-")
        return f" (now a command: python studies.py {study} [RECIPE] [--name=value ...])"
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors take one line and name the nearest known option."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, arguments):
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            name = unknown[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {name!r}{did_you_mean(name, known)}")
        return namespace

    def error(self, message):
        self.exit(2, f"error: {message}; {self.prog} --help lists all options\n")


def introduce(run):
    """Print what is about to be trained, on what text, and where."""
    c = run.config
    shape = {
        "bigram": "a table of pairs",
        "mlp": f"block {c.block_size}, {c.n_embd} wide, {c.n_hidden} hidden",
        "gpt": f"{c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, block {c.block_size}",
    }[c.network]
    size = sum(parameter.numel() for parameter in run.network.parameters())
    batch = c.batch_size * c.gradient_accumulation_steps
    show(f"corpus:  {run.meta['source']}")
    show(f"         data/{c.dataset}, {run.meta['characters']:,} characters")
    show(f"network: {c.network}, {shape}: {size:,} parameters")
    show(f"run:     {run.folder}, batch {batch}, on {run.device} in {c.dtype}")
    if run.progress.step:
        show(f"         resumed at step {run.progress.step}")


def conclude(run, test_loss):
    """Print how the run ended, and what to type next."""
    progress = run.progress
    show(f"done: {progress.step} steps in {timedelta(seconds=round(progress.seconds))}")
    show(f"best validation loss: {progress.best_val_loss:.4f}, in {run.folder / 'ckpt.pt'}")
    if test_loss is not None:
        show(f"test loss of those weights: {test_loss:.4f}")
    show(f"read what it writes:  python sample.py --out_dir={run.folder}")


@contextlib.contextmanager
def replacing(path):
    """Open a temporary file that replaces `path` when the block ends without an error.

    A reader finds the old file or the new one, never a part of one: the data is on the disk before
    the name changes, and after any error the old file is as it was. Raises UserError when the
    operating system refuses.
    """
    path = Path(path)
    temporary = None
    try:
        # In the same folder: a rename is atomic only within one file system.
        temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed before the rename)
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        )
        with temporary:
            yield temporary
            temporary.flush()
            os.fsync(temporary.fileno())
        umask = os.umask(0o022)  # it can be read only by setting it
        os.umask(umask)
        os.chmod(temporary.name, 0o666 & ~umask)  # temporary files are private; this one is not
        os.replace(temporary.name, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary.name).unlink(missing_ok=True)


def sync_folder(path):
    """Write a folder's entries to the disk, so that a rename survives a power cut (POSIX only)."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
