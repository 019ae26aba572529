"""What every program does at the terminal: start, read options, print, write files, end."""

import argparse
import contextlib
import ctypes
import difflib
import io
import math
import os
import platform
import select
import shlex
import shutil
import signal
import sys
import tempfile
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
BROKEN_PIPE = 128 + 13  # exit status of a program that SIGPIPE ends, by the shells' convention

CONTROLS = [*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
# What a terminal shows for each: a control picture (U+2400 and up) or the code point in Python.
VISIBLE = {code: chr(0x2400 + code) if code < 32 else ascii(chr(code))[1:-1] for code in CONTROLS}
del VISIBLE[ord("\n")], VISIBLE[ord("\t")]


class UserError(Exception):
    """A problem that the user can solve: the message says what is wrong, where, and what to do."""


class TerminalStream(io.TextIOWrapper):
    """A terminal's stream that shows control characters instead of obeying them: those in a text,
    a file name or a stranger's checkpoint could move the cursor or retitle the window."""

    def write(self, text):
        return super().write(text.translate(VISIBLE))

    def erase_line(self):
        super().write("\r\033[K")


class Output:
    """The state of standard output while a run trains: an error is kept, and ends the run after
    its step like a signal, instead of raising in the middle of it."""

    keep_errors = False  # True from the first step on
    error = None
    printing = False
    stopping = False  # a signal has arrived: from now on, do not print if that would block


def run_main(main):
    """Call `main(arguments)` and turn its errors into one line on standard error.

    Exit status: 0 if all went well, 1 after an error, 2 after a wrong option, 128 + n after signal
    n (the shells' convention).
    """
    keep_freed_memory()
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
            sys.exit(BROKEN_PIPE)
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
            options = {"encoding": stream.encoding, "line_buffering": True}
            stream = TerminalStream(stream.buffer, errors="backslashreplace", **options)
            setattr(sys, name, stream)
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
    Output.printing = True  # a signal may now interrupt a print that blocks
    try:
        if Output.stopping and not can_print_now():
            return
        if on_terminal:
            sys.stdout.erase_line()
        print(line, end="" if passing and on_terminal else "\n", flush=True)
    except OSError as error:
        if not Output.keep_errors:
            raise
        Output.error = error
        discard_output()
    finally:
        Output.printing = False


def can_print_now():
    """Whether a line can be printed at once: not if a pipe is full, or a terminal stopped."""
    try:
        return bool(select.select([], [sys.stdout], [], 0)[1])
    except (OSError, ValueError):  # Windows: select is for sockets only
        return True


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
def replacing(path):
    """Open a temporary file that replaces `path` when the block ends without an error.

    A reader finds the old file or the new one, never a part of one: the data is on the disk before
    the name changes, and after any error the old file is as it was. A link stays, and the file that
    it leads to is replaced; a device or a pipe is written to. Raises UserError when the operating
    system refuses.
    """
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        if target.exists() and not target.is_file():
            with open(target, "wb") as file:
                yield file
            return
        # In the same folder: a rename is atomic only within one file system.
        temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed before the rename)
            dir=target.parent, prefix=TEMPORARY, delete=False
        )
        with temporary:
            yield temporary
            temporary.flush()
            os.fsync(temporary.fileno())
        umask = os.umask(0o022)  # it can be read only by setting it
        os.umask(umask)
        os.chmod(temporary.name, 0o666 & ~umask)  # temporary files are private; this one is not
        os.replace(temporary.name, target)
        sync_folder(target.parent)
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


def is_at(file, path):
    """Whether an open file is the one that a path leads to."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


@contextlib.contextmanager
def locked(folder):
    """Keep other processes of this program out of a folder, and clean up what killed ones left.

    The folder is made if it does not exist, and removed again if nothing was put into it. The
    operating system releases the lock when the process ends, however it ends. Raises UserError,
    with the number of the process that holds the lock, if another one does.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    path, lock = folder / ".lock", None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Once more if another process has removed the file since it was opened here.
        while lock is None or not is_at(lock, path):
            lock = open(path, "a+")  # noqa: SIM115 (closed below)
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise UserError(
            f"process {lock.read().strip()} is writing into {folder}; wait for it, or choose "
            "another folder"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    with lock:
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            for leftover in folder.glob(f"{TEMPORARY}*"):
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink()
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                for place in made:
                    place.rmdir()  # fails, and should, if anything was put into it
