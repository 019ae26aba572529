"""What every program does at the terminal: start, read options, print, write files, end."""

import argparse
import contextlib
import ctypes
import difflib
import gc
import io
import math
import os
import platform
import shlex
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two processes that write into one folder are not noticed there
    fcntl = None

# torchrun gives each process a rank. Only the first process prints.
SILENT = "WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0"
MOVED = {"dry_run", "overfit_batch", "find_lr"}  # flags of train.py once, now studies.py
TEMPORARY = ".quillgpt-"  # how the names of temporary files begin

CONTROLS = [*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
# What a terminal shows for each: a control picture (U+2400 and up) or the code point in Python.
VISIBLE = {code: chr(0x2400 + code) if code < 32 else ascii(chr(code))[1:-1] for code in CONTROLS}
del VISIBLE[ord("\n")], VISIBLE[ord("\t")]


class UserError(Exception):
    """A problem that the user can solve: the message says what is wrong, where, and what to do."""


class TerminalStream(io.TextIOWrapper):
    """A terminal's stream that shows control characters as symbols: those in a text or a stranger's
    checkpoint could otherwise move the cursor or change the window's title."""

    def write(self, text):
        return super().write(text.translate(VISIBLE))

    def erase_line(self):
        super().write("\r\033[K")


class Output:
    """Standard output: show() keeps its first error instead of raising it in the middle of a run,
    which then ends after its step, as after a signal."""

    error = None


def run_main(main):
    """Call `main(arguments)` and turn its errors into one line on standard error. Exit status: 1
    after an error, 2 after a wrong option, 128 + n after signal n (the shells' convention)."""
    keep_freed_memory()
    gc.freeze()  # at exit, Python would search all that was imported for garbage: 0.15 s
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP; nohup ignores it, and so do we
        number = getattr(signal, name, None)
        default = number and signal.getsignal(number) is signal.SIG_DFL
        # Not under torchrun: while a process waits for the others, Python runs no handler.
        if default and "WORLD_SIZE" not in os.environ:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        set_streams()
        try:
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()  # here, where an error can still be reported
        if Output.error:
            raise Output.error
    except UserError as error:
        # The processes of a run usually fail together: one report is enough.
        sys.exit(1 if SILENT else f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):  # `python sample.py | head` is no error
            sys.exit(f"error: {error.filename or 'standard output'}: {error.strerror or error}")


def set_streams():
    """Make standard output and error write any character: visibly to a terminal, as UTF-8 to a file
    or a pipe. Raises UserError if one of them is closed."""
    if sys.stdout is None or sys.stderr is None:
        raise UserError("standard output or standard error is closed")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty():
            options = {"encoding": stream.encoding, "errors": "backslashreplace"}
            setattr(sys, name, TerminalStream(stream.buffer, line_buffering=True, **options))
        else:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def discard_output():
    """Send the rest of standard output nowhere: Python would try to write it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    if SILENT or Output.error:
        return
    on_terminal = isinstance(sys.stdout, TerminalStream)
    try:
        if on_terminal:
            sys.stdout.erase_line()
        print(line, end="" if passing and on_terminal else "\n", flush=True)
    except OSError as error:
        Output.error = error
        discard_output()


def did_you_mean(name, known):
    """A hint for an unknown name: the known one that is nearest, or '' if none is near."""
    study = name.lstrip("-")
    if study in MOVED:
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
    """Print a run's text, network and settings."""
    c = run.config
    shape = {
        "bigram": "a table of pairs",
        "mlp": f"block {c.block_size}, {c.n_embd} wide, {c.n_hidden} hidden",
        "gpt": f"{c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, block {c.block_size}",
    }[c.network]
    size = sum(parameter.numel() for parameter in run.network.parameters())
    batch = c.batch_size * c.gradient_accumulation_steps
    show(f"text:    {run.meta['source']}")
    show(f"         data/{c.dataset}, {run.meta['characters']:,} characters")
    show(f"network: {c.network}, {shape}: {size:,} parameters")
    show(f"run:     {run.folder}, batch {batch}, on {run.device} in {c.dtype}")
    if c.init_from == "resume":
        show(f"         resumed at step {run.progress.step}")


def describe_loss(loss):
    """A loss in nats, in bits, and as a perplexity."""
    perplexity = math.exp(min(loss, 700))  # more would overflow
    bits = loss / math.log(2)
    return f"{loss:.4f} nats ({bits:.3f} bits per character, perplexity {perplexity:.2f})"


def conclude(run, test_loss):
    """Print how the run ended, and what to type next."""
    progress = run.progress
    show(f"done: {progress.step} steps in {timedelta(seconds=round(progress.seconds))}")
    show(f"best validation loss: {progress.best_val_loss:.4f}, in {run.folder / 'ckpt.pt'}")
    if test_loss is not None:
        show(f"test loss of those weights: {test_loss:.4f}")
    show(f"to generate text:  python sample.py --out_dir={shlex.quote(str(run.folder))}")
    size = sum(parameter.numel() for parameter in run.network.parameters())
    loss, seconds = f"loss {progress.best_val_loss:.4f}", f"{progress.seconds:.0f} s"
    command = shlex.join(["train.py", *sys.argv[1:]])
    facts = [loss, seconds, f"{size:,} parameters", command, f"{processor()}, {run.device}"]
    show(f"to compare runs:   {' | '.join(facts)}")


def processor():
    """The processor's name, as far as the operating system tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def reading(name, maker):
    """Turn any error in reading and checking the file of that name into a UserError. `maker`: the
    program that writes such files."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"no {name}; {maker} makes one") from error
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from error
    except Exception as error:  # a stranger's file can be wrong in any way
        problem = f"{name} is damaged, or not made by this program ({in_brief(error)})"
        raise UserError(f"{problem}; {maker} makes a new one") from error


def in_brief(error):
    """The type of an exception and the beginning of its message."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:120]


@contextlib.contextmanager
def replacing(path):
    """Open a temporary file that replaces `path` when the block ends without an error.

    A reader finds the old file or the new one, never a part of one: the data is on the disk before
    the name changes, and after any error the old file is as it was. A link stays, and the file that
    it leads to is replaced; a device or a pipe is written to. Raises UserError when the operating
    system refuses.
    """
    target = Path(os.path.realpath(path))
    # In the same folder: a rename is atomic only within one file system.
    temporary = target.parent / f"{TEMPORARY}{os.getpid()}"
    try:
        if target.exists() and not target.is_file():
            with open(target, "wb") as file:
                yield file
            return
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync_folder(path):
    """Write a folder's entries to the disk, so that a rename survives a power cut (POSIX only)."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def is_at(file, path):
    """Whether an open file is the one that a path leads to."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


@contextlib.contextmanager
def locked(folder):
    """Keep other processes of this program out of a folder, and clean up after killed ones.

    The folder is made if it does not exist, and removed again if nothing was put into it. The
    operating system releases the lock when the process ends, however it ends. Raises UserError
    with the process id of the holder if another process holds the lock.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    path, lock = folder / ".lock", None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Once more if another process has removed the file since it was opened here.
        while lock is None or not is_at(lock, path):
            lock = open(path, "a")  # noqa: SIM115 (closed below)
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.write_text(str(os.getpid()))
    except BlockingIOError as error:
        problem = f"process {path.read_text()} is writing into {folder}"
        raise UserError(f"{problem}; wait for it, or choose another folder") from error
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    with lock:
        try:
            for leftover in folder.glob(f"{TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)  # a folder; does nothing to a file
                leftover.unlink(missing_ok=True)
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                for place in made:
                    place.rmdir()  # fails, and should, if anything was put into it
