"""Write a file completely or not at all, lock a folder, report what cannot be read."""

import contextlib
import os
import time
from pathlib import Path

from quill.terminal import RANK, UserError

try:
    import fcntl
except ImportError:  # Windows: without it, nothing keeps a second run out of a folder
    fcntl = None

TEMPORARY = ".quillgpt-"  # how the names of temporary files begin


@contextlib.contextmanager
def replacing(path):
    """Open a temporary file that replaces `path` when the block ends without an error.

    A reader finds the old file or the new one, never a part of one: the data is on the disk before
    the name changes, and after an error the old file is as it was.
    """
    # In the same folder: a rename is atomic only within one file system.
    temporary = Path(path).parent / f"{TEMPORARY}{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def put_in_place(temporary, path):
    """Rename a file. Windows refuses while another program has the old one open, a spreadsheet or
    sample.py: try again for a second."""
    for _ in range(10):
        with contextlib.suppress(PermissionError):
            return os.replace(temporary, path)
        time.sleep(0.1)
    raise UserError(f"cannot write {path}: another program has it open")


@contextlib.contextmanager
def locked(folder):
    """Make a folder, keep other processes of this program out of it, and remove the temporary files
    of killed ones. The operating system releases the lock however the process ends. Of a run's
    processes, only the first one writes, and so does this."""
    folder = Path(folder)
    if RANK > 0:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        reason = error.strerror or error
        if folder.is_file():
            reason = f"it is a file, not a folder; the folder that it is in is {folder.parent}"
        raise UserError(f"cannot write into {folder}: {reason}") from error
    with lock:
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is writing into {folder}; wait for it, or choose another folder"
            ) from error
        except OSError:
            pass  # some network drives have no locks
        for leftover in folder.glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def reading(name, maker):
    """Report whatever goes wrong in reading the file `name`. maker: what writes such files."""
    try:
        yield
    except FileNotFoundError as error:
        where = "" if Path(str(name)).is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"no {name}{where}; {maker} makes one") from error
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can be wrong in any way
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:120]
        raise UserError(
            f"{name} is damaged, or not made by this program ({reason}); {maker} makes a new one"
        ) from error
