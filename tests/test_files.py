"""quill/files.py: a file is replaced whole or not at all, and a folder has one writer."""

import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from quill import files
from quill.files import locked, replacing
from quill.terminal import UserError

OLD = {"file": b"old"}
old_and_new = pytest.mark.parametrize("name", ["file", "new"])
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"old")


def contents():
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def start(code):
    """A program that has quill/files.py."""
    code = f"import resource, time\nfrom quill.files import *\n{code}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)


# --- Replacing a file -------------------------------------------------------------------------


@old_and_new
def test_reader_finds_the_old_file_until_the_new_one_is_whole(name):
    with replacing(name) as file:
        file.write(b"whole")
        file.flush()
        assert contents().get(name) == OLD.get(name)
    assert contents() == {**OLD, name: b"whole"}


@old_and_new
def test_error_in_the_block_leaves_the_old_file(name):
    with pytest.raises(KeyboardInterrupt), replacing(name) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert contents() == OLD


@posix
@old_and_new
def test_full_disk_is_one_line_and_leaves_the_old_file(name):
    program = start(f"""
from quill.terminal import run_main
def main(_):
    with replacing({name!r}) as file: file.write(bytes(100_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
run_main(main)""")
    line = program.communicate(timeout=60)[1].decode()
    assert line.startswith("error: ") and f" {name}: " in line and line.count("\n") == 1
    assert (program.returncode, contents()) == (1, OLD)


# --- Locking a folder -------------------------------------------------------------------------


@posix
def test_second_process_is_kept_out_until_the_first_is_gone():
    writer = start("""
with locked(Path()), replacing('file') as file:
    print('half', file=open(file.name, 'w'), flush=True)
    print('ready', flush=True)
    time.sleep(60)""")
    assert writer.stdout.readline() == b"ready\n"
    with pytest.raises(UserError), locked(Path()):
        pass
    writer.kill()
    writer.communicate()
    assert b"half\n" in contents().values()
    with locked(Path()):
        assert contents() == {**OLD, ".lock": b""}


@posix
def test_without_locks_files_are_written_all_the_same(monkeypatch):
    def fail(*_):  # as on some network drives
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.fcntl, "flock", fail)
    with locked("run"), replacing("run/file") as file:
        file.write(b"whole")
    assert Path("run/file").read_bytes() == b"whole"


@pytest.mark.parametrize("refusals", [3, 1000])
def test_file_that_is_open_elsewhere_is_tried_again_then_named(monkeypatch, refusals):
    replace, left = os.replace, iter(range(refusals))

    def busy(*paths):  # as on Windows, while a spreadsheet has the file open
        if next(left, None) is not None:
            raise PermissionError
        replace(*paths)

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    expected = pytest.raises(UserError, match="file") if refusals > 3 else contextlib.nullcontext()
    with expected, replacing("file") as file:
        file.write(b"whole")
    assert contents() == (OLD if refusals > 3 else {"file": b"whole"})
