"""quill/log.py: log.csv gives back what was written, and loss.png is a picture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY

import train
from quill import log
from quill.figures import matplotlib_installed
from quill.log import COLUMNS, read_log
from quill.terminal import UserError

needs_matplotlib = pytest.mark.skipif(not matplotlib_installed(), reason="no matplotlib")
ROWS = [
    [0, 0, 0.0, 1e-3, 4.1743872, 4.17],
    [250, 192000, 6.25, 1 / 3 * 1e-3, 1.9, 2.0000000000000004],
    [500, 384000, 12.5, 1e-4, 1.5, 1.75],
]


def test_a_log_is_csv_and_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # then there is no plot and no error
    log.write(tmp_path, train.State(step=1, log=ROWS))
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    columns = read_log(tmp_path)
    assert list(columns) == COLUMNS and read_log(tmp_path / "log.csv") == columns
    assert [list(row) for row in zip(*columns.values(), strict=True)] == ROWS
    header, first, *_ = (tmp_path / "log.csv").read_bytes().split(b"\n")
    assert header == ",".join(COLUMNS).encode() and first.startswith(b"0,0,0.0,0.001,")


WHOLE = ",".join(COLUMNS) + "\n0,0,0.0,0.001,4.17,4.18\n"


@pytest.mark.parametrize(
    "damaged",
    [None, "", "step\n", WHOLE[:30], WHOLE[:-4] + "x", WHOLE.replace(",0.0,", ","), "\x00\xff"],
)
def test_a_missing_or_damaged_log_is_one_line_with_its_path(tmp_path, damaged):
    if damaged is not None:
        (tmp_path / "log.csv").write_text(damaged, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        read_log(tmp_path)
    assert str(tmp_path / "log.csv") in str(caught.value) and "\n" not in str(caught.value)


@needs_matplotlib
def test_a_run_leaves_its_checkpoints_its_log_and_its_plot(trained):
    left = {path.name for path in (trained / "out/run").iterdir()} - {".lock"}
    assert left == {"ckpt.pt", "last.pt", "log.csv", "loss.png"}
    assert (trained / "out/run/loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@needs_matplotlib
def test_the_users_settings_of_matplotlib_change_and_say_nothing(tmp_path, monkeypatch):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: x")
    monkeypatch.chdir(tmp_path)
    code = "from quill.figures import new_figure, save_figure\n"
    code += "save_figure('plot.png', lambda: new_figure(4, 3, '$1 and \u4e2d'))"
    exec(code, {})
    expected = Path("plot.png").read_bytes()
    own = {"MATPLOTLIBRC": str(tmp_path), "MPLCONFIGDIR": "/proc/no"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **own}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert Path("plot.png").read_bytes() == expected


def test_a_log_or_a_plot_that_fails_is_one_line_and_ends_no_run(workspace, capsys):
    Path("out/run/log.csv").mkdir(parents=True)
    train.main([*TINY, "--max_iters=3"])
    out = capsys.readouterr().out
    assert "done: 3 steps" in out and out.count("note: the log could not") == 2
