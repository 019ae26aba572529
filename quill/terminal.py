"""What every program does at the terminal: run, print, and end with one line after an error."""

import difflib
import gc
import os
import re
import shutil
import sys
from pathlib import Path

# torchrun gives each process a rank. Only the first process prints.
SILENT = os.environ.get("RANK", "0") != "0" and "MASTER_ADDR" in os.environ


class UserError(Exception):
    """A problem that the user can solve: the message says what is wrong, where, and what to do."""

    status = 1  # the program's exit status


class UsageError(UserError):
    """A mistake on the command line or in a recipe."""

    status = 2


def run_main(main):
    """Call main(arguments) with the command line's, and end with one line after an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's streams lack it
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # prints any character
    try:
        try:
            main(sys.argv[1:])
        finally:
            print(end="", flush=True)  # here, where an error can still be reported
            gc.freeze()  # else the collector looks at all of PyTorch once more at exit: 0.4 s
    except UserError as error:
        if not SILENT:  # the processes of a run usually fail together: one report is enough
            before = erasing() if sys.stderr.isatty() else ""
            print(f"{before}error: {one_line(error)}", file=sys.stderr)
        sys.exit(error.status)
    except MemoryError:
        sys.exit("error: not enough memory")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, the shells' convention
    except OSError as error:
        # Python would try to write the rest of the output once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):  # `python sample.py | head` is no error
            where = f"{error.filename}: " if error.filename else ""  # not of a full disk
            print(f"error: {where}{one_line(error.strerror or error)}", file=sys.stderr)
        sys.exit(1)


def show(line, passing=False, file=None):
    """Print a line, to standard output or to `file`. On a terminal, the next line overwrites a
    `passing` one."""
    file = file or sys.stdout
    if SILENT:
        return
    if file and file.isatty():  # it is None if it was closed
        line = on_terminal(line, file)
        if passing:  # a line that is wrapped could not be overwritten
            line = line[: shutil.get_terminal_size().columns - 1]
        print(f"{erasing()}{line}", end="" if passing else "\n", file=file, flush=True)
    else:
        print(line, file=file, flush=True)


def on_terminal(text, file=None):
    """What to print of a text that a network wrote: if standard output (or `file`) is a terminal,
    which would obey control characters, an escape for each but the newline and the tab."""
    if not (file or sys.stdout).isatty():
        return text
    return re.sub(r"[\0-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)


def one_line(message):
    """A message as one line, in which each character that nobody sees is an escape."""
    line = " ".join(re.split(r"[ \t\r\n]+", str(message).strip(" \t\r\n")))
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)


def erasing():
    """What overwrites a passing line on a terminal. Spaces, because a notebook, which looks like a
    terminal to the programs in it, ignores the code that clears a line."""
    return f"\r{' ' * (shutil.get_terminal_size().columns - 1)}\r"


def quoted(path):
    """A path as any shell takes it: with forward slashes, and in quotes if it has a space."""
    path = Path(path).as_posix()
    return f'"{path}"' if re.search(r"[^\w./:-]", path) else path


def did_you_mean(name, known, form="{}"):
    """A hint for an unknown name: the known one that is nearest, or '' if none is near. form: how
    the hint writes it."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {form.format(nearest[0])!r}?)" if nearest else ""
