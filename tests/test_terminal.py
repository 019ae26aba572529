"""quill/terminal.py: how programs end, and what they print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAM = """
import os, signal
from quill.terminal import UsageError, UserError, run_main, show

def main(arguments):
    {}

run_main(main)
"""


def run(body, stdout=subprocess.PIPE, **environment):
    """Run a program whose main() has this body."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **environment},
    )


# --- How programs end -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "facts"),
    [
        ("raise UserError('first\\n  second\\r\\nthird')", 1, ["error: first second third\n"]),
        ("raise UsageError('wrong')", 2, ["wrong"]),
        ("open('nowhere/file')", 1, ["nowhere/file"]),
        ("raise OSError('Matplotlib requires\\n a folder')", 1, ["Matplotlib requires a folder"]),
        ("raise MemoryError", 1, ["memory"]),
        ("raise RuntimeError('CUDA out of memory. Tried 2 GiB')", 1, ["batch_size"]),
        ("raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')", 1, ["batch_size"]),
        ("raise RuntimeError('[gloo] Connection closed by peer')", 1, ["another process"]),
    ],
)
def test_error_that_the_user_can_solve_is_one_line(body, status, facts):
    ended = run(body)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert all(fact in ended.stderr for fact in facts)


@pytest.mark.parametrize("error", ["ZeroDivisionError()", "RuntimeError('illegal memory access')"])
def test_error_in_the_program_itself_keeps_its_traceback(error):
    ended = run(f"raise {error}")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr and error.split("(")[0] in ended.stderr


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
    ended = run("show('hello'); raise UserError('wrong')", RANK=rank, TORCHELASTIC_RUN_ID="1")
    assert (ended.returncode, ended.stdout) == (1, line)
    assert ended.stderr == ("error: wrong\n" if rank == "0" else "")


def run_on_terminal(body, **environment):
    """What a program with this body sends to a terminal."""
    ours, theirs = os.openpty()
    run(body, stdout=theirs, **environment)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    return shown


pseudo_terminals = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")


@pseudo_terminals
def test_passing_line_is_overwritten_on_a_terminal_alone():
    lines = "show('step 1', passing=True); show('2' * 50, passing=True); show('done')"
    assert run(lines).stdout == f"step 1\n{'2' * 50}\ndone\n"
    shown = run_on_terminal(lines, COLUMNS="20")
    assert shown.count("\n") == 1  # the last line's
    assert 10 < shown.count("2") < 20  # cut to the width of the terminal
    line = []  # what is seen, where \r only moves to the left margin, as in a notebook
    for part in shown.strip("\r\n").split("\r"):
        line[: len(part)] = part
    assert "".join(line).rstrip() == "done"


@pseudo_terminals
def test_a_terminal_gets_signs_for_control_characters():
    body = "from quill.terminal import on_terminal; text = 'a\\x1b[2J\\x07\\x0e\\x9b\\tb'; "
    body += "show(text); print(on_terminal(text))"
    assert run(body).stdout == "a\x1b[2J\x07\x0e\x9b\tb\n" * 2
    shown = run_on_terminal(body)
    assert shown.count(r"a\x1b[2J\x07\x0e\x9b" + "\tb\r\n") == 2 and "\x1b" not in shown


@pytest.mark.parametrize("stream", ["io.StringIO()", "None"])
def test_standard_output_may_be_no_file(stream):  # a notebook's, or none at all
    body = "run_main(lambda _: show('hello'))"
    shown = "print(sys.stdout and sys.stdout.getvalue(), file=sys.stderr)"
    ended = run(f"import io, sys; sys.stdout = {stream}; {body}; {shown}")
    assert (ended.returncode, ended.stderr.strip()) == (0, "None" if stream == "None" else "hello")
