"""What every program does at the terminal: run, print, and end with one line after an error."""

import difflib
import os
import sys

# torchrun gives each process a rank. Only the first process prints.
SILENT = os.environ.get("RANK", "0") != "0"


class UserError(Exception):
    """A problem that the user can solve: the message says what is wrong, where, and what to do."""

    status = 1  # the program's exit status


class UsageError(UserError):
    """A mistake on the command line or in a recipe."""

    status = 2


def run_main(main):
    """Call main(arguments) with the command line's. A UserError ends the program with one line on
    standard error, and Ctrl-C with none."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # to print any character
    try:
        main(sys.argv[1:])
        sys.stdout.flush()  # here, where an error can still be reported
    except UserError as error:
        if not SILENT:  # the processes of a run usually fail together: one report is enough
            erase = "\r\033[K" if sys.stderr.isatty() else ""  # a progress line
            print(f"{erase}error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, the shells' convention
    except OSError as error:
        # Python would try to write the rest of the output once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `python sample.py | head` is no error
            where = error.filename or "standard output"
            print(f"error: {where}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def show(line, passing=False):
    """Print a line. On a terminal, the next line overwrites a `passing` one."""
    if SILENT:
        return
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="" if passing else "\n", flush=True)
    else:
        print(line, flush=True)


def did_you_mean(name, known):
    """A hint for an unknown name: the known one that is nearest, or '' if none is near."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""
