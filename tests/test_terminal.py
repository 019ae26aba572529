"""quill/terminal.py: how programs end, what they say, and how files are replaced."""

from quill import terminal
from quill.terminal import Parser, UserError, locked, replacing, run_main, show

import io
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- How programs end -------------------------------------------------------------------------


IMPORTS = """import sys
from quill.settings import parse_command_line
from quill.terminal import UserError, replacing, run_main"""


def run(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, "-c", f"{IMPORTS}\n{code}", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        timeout=60,
        env=environment,
        **options,
    )


def test_a_start_searches_little_for_garbage_and_the_end_even_less():
    """Each search looks through all that was imported."""
    code = """
import gc
import torch

def main(arguments):
    print(sum(generation["collections"] for generation in gc.get_stats()), gc.get_freeze_count())

run_main(main)"""
    searches, left_out = map(int, run(code).stdout.split())
    assert searches < 50
    assert left_out > 100_000


def test_a_mistake_in_a_recipe_ends_in_one_line_and_status_1():
    Path("my.py").write_text("\n" * 6 + "n_layers = 4\n")
    result = run("run_main(parse_command_line)", "my.py")
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        "error: my.py, line 7: unknown name 'n_layers' (did you mean 'n_layer'?)\n",
    )


def test_a_wrong_command_line_ends_in_one_line_and_status_2():
    result = run("run_main(parse_command_line)", "--n_layers=4")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: unknown argument '--n_layers'")
    assert result.stderr.count("\n") == 1


def test_an_error_of_many_lines_is_told_in_one():
    def main(_):
        raise UserError("first\n  second\r\nthird")

    with pytest.raises(SystemExit, match="^error: first second third$"):
        run_main(main)


def test_ctrl_c_ends_quietly_with_status_130():
    result = run("def main(_):\n raise KeyboardInterrupt\nrun_main(main)")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


LITTLE, MUCH = "lambda _: print('hello')", "lambda _: print('hello' * 100_000)"


@pytest.mark.parametrize("main", [LITTLE, MUCH, "lambda _: parse_command_line(['--help'])"])
def test_a_reader_that_has_had_enough_is_no_error(main):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run(f"run_main({main})", stdout=writer)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("main", [LITTLE, MUCH])
def test_output_to_a_full_disk_ends_in_one_line(main):
    with open("/dev/full", "w") as full:
        result = run(f"run_main({main})", stdout=full)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


# --- Messages and options --------------------------------------------------------------------


def test_only_the_first_process_speaks(monkeypatch, capsys):
    show("one line")
    monkeypatch.setattr(terminal, "SILENT", True)  # as in a process of rank 1
    show("a second line")
    assert capsys.readouterr().out == "one line\n"

    def main(_):
        raise UserError("told by the first process")

    with pytest.raises(SystemExit, match="^1$"):
        run_main(main)


@pytest.mark.parametrize(
    ("given", "hint"), [("--newr=3", " (did you mean '--newer'?)"), ("-q", "")]
)
def test_an_unknown_option_is_one_line_with_the_nearest_known_one(given, hint, capsys):
    parser = Parser(prog="x.py")
    parser.add_argument("--newer")
    with pytest.raises(SystemExit, match="^2$"):
        parser.parse_args([given])
    name = given.split("=")[0]
    line = f"error: unknown argument '{name}'{hint}; x.py --help lists all options\n"
    assert capsys.readouterr() == ("", line)


def test_a_run_ends_with_one_line_to_compare_it_by(monkeypatch, capsys):
    class Parameter:
        def numel(self):
            return 600

    class Run:
        folder, device = Path("out/x"), "cpu"
        progress = SimpleNamespace(step=9, seconds=41.7, best_val_loss=1.62341)
        network = SimpleNamespace(parameters=lambda: [Parameter(), Parameter()])

    recipe = ["config/shakespeare_cpu.py", "--n_layer=3", "--out_dir=out/my run"]
    monkeypatch.setattr(sys, "argv", ["train.py", *recipe])
    monkeypatch.setattr(terminal, "processor", lambda: "A Processor 3000")
    terminal.conclude(Run, None)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "to compare runs:   loss 1.6234 | 42 s | 1,200 parameters | train.py "
        "config/shakespeare_cpu.py --n_layer=3 '--out_dir=out/my run' | A Processor 3000, cpu"
    )


@pytest.mark.parametrize("known", [True, False])
def test_the_processor_is_named_where_the_operating_system_tells_it(known, monkeypatch):
    def read(path, **_):
        if not known:
            raise FileNotFoundError(path)
        return io.StringIO("processor\t: 0\nmodel name\t: A Processor 3000\nprocessor\t: 1\n")

    monkeypatch.setattr("builtins.open", read)
    monkeypatch.setattr(terminal.platform, "processor", lambda: "")
    monkeypatch.setattr(terminal.platform, "machine", lambda: "arm64")
    assert terminal.processor() == ("A Processor 3000" if known else "arm64")


# --- Replacing a file -------------------------------------------------------------------------


def replace(content=b"new"):
    with replacing("file") as file:
        file.write(content)


def contents():
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


@pytest.fixture(params=[{}, {"file": b"old"}], ids=["no file before", "a file before"])
def before(request):
    for name, content in request.param.items():
        Path(name).write_bytes(content)
    return request.param


def test_a_finished_block_replaces_the_file(before):
    replace()
    assert contents() == {"file": b"new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_an_exception_in_the_block_passes_and_changes_nothing(before, error):
    with pytest.raises(error), replacing("file") as file:
        file.write(b"new")
        raise error
    assert contents() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_step_is_named_and_changes_nothing(before, step, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(terminal.os, step, fail)
    with pytest.raises(UserError, match="cannot write file: No space left on device"):
        replace()
    assert contents() == before


def test_a_full_disk_is_named_and_changes_nothing(before):
    result = run(
        "import resource\n"
        "def main(_):\n"
        "    with replacing('file') as file:\n"
        "        file.write(bytes(100_000))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "run_main(main)"
    )
    assert (result.returncode, result.stderr) == (1, "error: cannot write file: File too large\n")
    assert contents() == before


def test_the_old_file_stays_until_the_new_one_is_whole(before):
    with replacing("file") as file:
        file.write(b"new")
        file.flush()
        assert {name: content for name, content in contents().items() if name == "file"} == before


def test_the_data_is_on_the_disk_before_the_name_changes(monkeypatch):
    steps = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(
            terminal.os, step, lambda *args, step=step, real=real: (steps.append(step), real(*args))
        )
    replace()
    assert steps[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("target", ["folder", "missing/file", "other/file"])
def test_a_path_that_takes_no_file_is_named(target):
    Path("folder").mkdir()
    Path("other").write_bytes(b"old")
    with pytest.raises(UserError, match=target), replacing(target) as file:
        file.write(b"new")
    assert contents() == {"other": b"old"}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask(before, umask):
    earlier = os.umask(umask)
    try:
        replace()
    finally:
        left = os.umask(earlier)
    assert stat.S_IMODE(Path("file").stat().st_mode) == 0o666 & ~umask
    assert left == umask


def test_a_link_stays_and_what_it_leads_to_is_replaced():
    Path("target").write_bytes(b"old")
    Path("link").symlink_to("target")
    with replacing("link") as file:
        file.write(b"new")
    assert Path("link").is_symlink()
    assert Path("target").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_pipe_is_written_to_and_stays_one():
    os.mkfifo("pipe")
    reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE)
    with replacing("pipe") as file:
        file.write(b"new")
    assert reader.communicate()[0] == b"new"
    assert Path("pipe").is_fifo()


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no /dev/null here")
def test_a_device_is_written_to_and_stays_one():
    with replacing(os.devnull) as file:
        file.write(b"new")
    assert Path(os.devnull).is_char_device()


# --- What reaches a terminal ------------------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x08\x7f\x9b1m\u202etext\ttab"
HARMLESS = "\u241b]0;owned\u2407\u241b[2J\u240d\u2408\\x7f\\x9b1m\\u202etext\ttab"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_terminal_shows_control_characters_and_does_not_obey_them(stream):
    code = f"def main(_):\n print({HOSTILE!r}, file=sys.{stream})\nrun_main(main)"
    ours, theirs = os.openpty()
    run(code, stdout=theirs) if stream == "stdout" else subprocess.run(
        [sys.executable, "-c", f"{IMPORTS}\n{code}"],
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
    )
    os.close(theirs)
    assert os.read(ours, 10_000).decode() == HARMLESS + "\r\n"
    os.close(ours)


def test_a_pipe_gets_the_characters_as_they_are():
    assert (
        run(f"run_main(lambda _: print({HOSTILE!r}))").stdout == HOSTILE.replace("\r", "\n") + "\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_pipe_gets_utf_8_whatever_the_locale(encoding):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"PYTHONIOENCODING": encoding}
    code = f"{IMPORTS}\nrun_main(lambda _: print('na\\u00efve \\u65e5\\u672c \\udcff'))"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert ended.stdout.decode("utf-8").split() == ["na\u00efve", "\u65e5\u672c", "\\udcff"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_program_by_way_of_its_clean_up(name):
    code = f"""
import os, signal
def main(_):
    try:
        os.kill(os.getpid(), signal.{name})
    finally:
        print("cleaned up")
run_main(main)"""
    result = run(code)
    assert result.returncode == 128 + getattr(signal, name)
    assert (result.stdout, result.stderr) == ("cleaned up\n", "")


@pytest.mark.skipif(terminal.fcntl is None, reason="Windows has no locks of this kind")
def test_a_lock_file_that_its_last_holder_removed_is_made_anew(tmp_path, monkeypatch):
    flock, exclusive = terminal.fcntl.flock, terminal.fcntl.LOCK_EX | terminal.fcntl.LOCK_NB
    path, calls = tmp_path / ".lock", []

    def flock_and_remove(lock, operation):
        flock(lock, operation)
        calls.append(operation)
        if len(calls) == 1:  # the last holder ends just now
            path.unlink()

    monkeypatch.setattr(terminal.fcntl, "flock", flock_and_remove)
    with locked(tmp_path), open(path) as other, pytest.raises(BlockingIOError):
        flock(other, exclusive)
