"""Write a file completely or not at all, lock a folder, report what cannot be read."""

import contextlib
import os
import time
from pathlib import Path

from quill.terminal import UserError, show

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TEMPORARY = ".quillgpt-"  # how the names of temporary files begin


@contextlib.contextmanager
def replacing(path):
    """Open a temporary file that replaces `path` when the block ends without an error.

    A reader finds the old file or the new one, never a part of one: the data is on the disk before
    the name changes, and after an error the old file is as it was.
    """
    special = os.path.exists(path) and not os.path.isfile(path)  # /dev/stdout, say
    # A link stays, and the file that it leads to is replaced.
    target = Path(path if special else os.path.realpath(path))
    # In the same folder: a rename is atomic only within one file system.
    temporary = target if special else target.parent / f"{TEMPORARY}{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if not special:
                os.fsync(file.fileno())
        if not special:
            put_in_place(temporary, target)
            with contextlib.suppress(OSError):  # locked() prints a note
                sync_folder(target.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if not special and temporary.exists():
            temporary.unlink()


def put_in_place(temporary, target):
    """Rename a file. Windows refuses while another program has the target open, a spreadsheet or
    sample.py: try again for a second."""
    for _ in range(10):
        with contextlib.suppress(PermissionError):
            return os.replace(temporary, target)
        time.sleep(0.1)
    raise UserError(f"cannot write {target}: another program has it open")


def sync_folder(path):
    """Write a folder's entries to the disk, so that a rename survives a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(folder):
    """Make a folder, keep other processes of this program out of it, and remove the temporary files
    of killed ones. The operating system releases the lock however the process ends. Windows and
    some network drives cannot do all of this; if so, a note is printed."""
    folder = Path(folder)
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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_folder(folder)
        except BlockingIOError as error:
            raise UserError(
                f"another process is writing into {folder}; wait for it, or choose another folder"
            ) from error
        except (AttributeError, OSError):  # AttributeError: there is no fcntl
            show(f"note: {folder} is not protected here from a second run and from power cuts")
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
