"""quill/terminal.py: how programs end, and what they print."""

import os
import shlex
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
from conftest import ROOT

from quill.terminal import did_you_mean, quoted

PROGRAM = """
import os, signal
from quill.terminal import UsageError, UserError, run_main, show

def main(arguments):
    {}

run_main(main)
"""


def run(body, *arguments, stdout=subprocess.PIPE, **environment):
    """Run a program whose main() has this body."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body), *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **environment},
    )


# --- How programs end -------------------------------------------------------------------------


def test_main_gets_the_command_line_and_ends_with_status_0():
    ended = run("print(arguments)", "a", "--b=c")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "['a', '--b=c']\n", "")


@pytest.mark.parametrize(("error", "status"), [("UserError", 1), ("UsageError", 2)])
def test_user_error_ends_in_one_line_and_its_status(error, status):
    ended = run(f"raise {error}('first\\n  second\\r\\nthird')")
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr == "error: first second third\n"


def test_file_error_ends_in_one_line_with_the_files_name():
    ended = run("open('nowhere/file')")
    assert ended.returncode == 1
    assert "nowhere/file" in ended.stderr and ended.stderr.count("\n") == 1


def test_error_in_the_program_itself_keeps_its_traceback():
    ended = run("1 / 0")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr and "ZeroDivisionError" in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_quietly_with_status_130():
    ended = run("os.kill(os.getpid(), signal.SIGINT)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


# Little is written when the program ends, much is written before.
amounts = pytest.mark.parametrize("amount", [1, 100_000], ids=["little", "much"])


@amounts
def test_reader_that_stops_early_causes_no_message(amount):
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(f"print('hello' * {amount})", stdout=writer)
    os.close(writer)
    assert ended.stderr == ""


@amounts
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_to_a_full_disk_ends_in_one_line(amount):
    with open("/dev/full", "w") as full:
        ended = run(f"print('hello' * {amount})", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


# --- What they print --------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_character_is_printed_as_utf_8_whatever_the_locale(encoding):
    ended = run("print('na\\u00efve \\u65e5\\u672c \\udcff')", PYTHONIOENCODING=encoding)
    assert ended.stdout == "naïve 日本 \\udcff\n"


@pytest.mark.parametrize(("rank", "line"), [("0", "hello\n"), ("1", "")])
def test_only_the_first_process_of_a_run_prints(rank, line):
    ended = run("show('hello'); raise UserError('wrong')", RANK=rank, MASTER_ADDR="localhost")
    assert (ended.returncode, ended.stdout) == (1, line)
    assert ended.stderr == ("error: wrong\n" if rank == "0" else "")


LINES = "show('step 1', passing=True); show('step 2', passing=True); show('done')"


def test_passing_lines_are_all_kept_in_a_file():
    assert run(LINES).stdout == "step 1\nstep 2\ndone\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_passing_line_is_overwritten_on_a_terminal():
    ours, theirs = os.openpty()
    run(LINES, stdout=theirs)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert shown.count("\n") == 1  # the last line's
    assert "step 2" in shown
    line = []  # what is seen, where \r only moves to the left margin, as in a notebook
    for part in shown.rstrip().split("\r"):
        line[: len(part)] = part
    assert "".join(line).rstrip() == "done"


def test_nearest_known_name_is_proposed():
    known = ["batch_size", "block_size", "n_layer"]
    assert "'batch_size'" in did_you_mean("bacth_size", known)
    assert "'n_layer'" in did_you_mean("n_layers", known)
    assert did_you_mean("zzz", known) == ""


@pytest.mark.parametrize("stream", ["io.StringIO()", "None"])
def test_standard_output_may_be_no_file(stream):  # a notebook's, or none at all
    body = "run_main(lambda _: show('hello'))"
    shown = "print(sys.stdout and sys.stdout.getvalue(), file=sys.stderr)"
    ended = run(f"import io, sys; sys.stdout = {stream}; {body}; {shown}")
    assert (ended.returncode, ended.stderr.strip()) == (0, "None" if stream == "None" else "hello")


FULL = "sys.stdout = type('', (io.StringIO,), {'write': lambda *_: os.listdir('/dev/full')})()"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("before", ["pass", FULL], ids=["file", "no file"])
def test_output_that_cannot_be_written_is_one_line(before):
    with open("/dev/full", "w") as full:
        ended = run(f"import io, sys; {before}; print('hello'); raise SystemExit(0)", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


def test_quoted_path_is_one_word_for_every_shell():
    assert quoted(PureWindowsPath(r"out\run")) == quoted(Path("out/run")) == "out/run"
    for name in ("out/a b", "out/a(1)&", "out/caf\u00e9", "C:/Users/me"):
        assert shlex.split(quoted(name)) == [name] and "'" not in quoted(name)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_passing_line_is_cut_to_the_width_of_the_terminal():
    ours, theirs = os.openpty()
    run("show('x' * 50, passing=True); show('y' * 50)", stdout=theirs, COLUMNS="20")
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert 10 < shown.count("x") < 20 and shown.count("y") == 50


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise OSError('Matplotlib requires\\n a folder')", "Matplotlib requires a folder"),
        ("raise FileNotFoundError(2, 'no temporary folder')", "no temporary folder"),
        ("raise MemoryError", "not enough memory"),
        ("raise UserError('no a.py\\xa0')", r"no a.py\xa0"),
    ],
)
def test_error_without_a_file_blames_none_and_shows_all(body, line):
    ended = run(body)
    assert (ended.returncode, ended.stderr) == (1, f"error: {line}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_a_terminal_gets_signs_for_control_characters():
    body = "from quill.terminal import on_terminal; text = 'a\\x1b[2J\\x07\\x0e\\x9b\\tb'; "
    body += "show(text); print(on_terminal(text))"
    assert run(body).stdout == "a\x1b[2J\x07\x0e\x9b\tb\n" * 2
    ours, theirs = os.openpty()
    run(body, stdout=theirs)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert shown.count(r"a\x1b[2J\x07\x0e\x9b" + "\tb\r\n") == 2 and "\x1b" not in shown
