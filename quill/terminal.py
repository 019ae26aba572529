"""What every program does at the terminal: run, print, and end with one line after an error."""

import difflib
import gc
import os
import re
import shutil
import sys
from pathlib import Path

# torchrun gives each process of a run a rank. Only the first one prints and writes files.
TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ
RANK = int(os.environ["RANK"]) if TORCHRUN else 0


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
    except (UserError, MemoryError, RuntimeError) as error:
        # The processes of a run usually fail together: only the first of them reports it.
        show(f"error: {one_line(explained(error))}", file=sys.stderr)
        sys.exit(getattr(error, "status", 1))
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, the shells' convention
    except OSError as error:
        # Python would try to write the rest of the output once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):  # `python sample.py | head` is no error
            where = f"{error.filename}: " if error.filename else ""  # not of a full disk
            print(f"error: {where}{one_line(error.strerror or error)}", file=sys.stderr)
        sys.exit(1)


def explained(error):
    """What to say about an error that the user can solve; any other is raised again."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if "gloo" in text or "NCCL" in text:
        return "another process of this run has ended"
    # Not "memory" alone: an illegal memory access is another matter.
    phrases = ("out of memory", "allocate memory", "enough memory")
    if not isinstance(error, MemoryError) and not any(phrase in text for phrase in phrases):
        raise error
    return (
        "not enough memory: halve batch_size and double gradient_accumulation_steps (the same run "
        "in smaller pieces), or make the network, the text or the number of samples smaller"
    )


passing_length = 0  # of the passing line that is on the terminal now


def show(line, passing=False, file=None):
    """Print a line, to standard output or to `file`. On a terminal, the next line overwrites a
    `passing` one."""
    global passing_length
    file = file or sys.stdout
    if RANK > 0:
        return
    if not file or not file.isatty():  # it is None if it was closed
        print(line, file=file, flush=True)
        return
    line = on_terminal(line, file)
    if passing:  # a line that is wrapped could not be overwritten
        line = line[: shutil.get_terminal_size().columns - 1]
    # Overwritten with spaces, because a notebook ignores the code that clears a line.
    start, spaces = "\r" if passing_length else "", " " * (passing_length - len(line))
    passing_length = len(line) if passing else 0
    print(f"{start}{line}{spaces}", end="" if passing else "\n", file=file, flush=True)


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


def quoted(path):
    """A path as any shell takes it: with forward slashes, and in quotes if it has a space."""
    path = Path(path).as_posix()
    return f'"{path}"' if re.search(r"[^\w./:-]", path) else path


def did_you_mean(name, known, form="{}"):
    """A hint for an unknown name: the known one that is nearest, or '' if none is near. form: how
    the hint writes it."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {form.format(nearest[0])!r}?)" if nearest else ""
