"""docs/lecture.ipynb is the lecture, and runs from its first cell to its last."""

import re
import shutil

import nbformat
import notebook as tool
from conftest import ROOT
from nbclient import NotebookClient
from test_readme import shortened

PAGE = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
NOTEBOOK = (ROOT / "docs" / "lecture.ipynb").read_text(encoding="utf-8")
CELLS = nbformat.reads(NOTEBOOK, 4).cells


def test_committed_notebook_is_what_the_tool_makes():
    assert tool.make(PAGE) == NOTEBOOK


def test_its_commands_are_the_lectures_in_order():
    wanted = []
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", PAGE, flags=re.DOTALL):
        wanted += block.split("\n")[:-1] if language == "sh" else [block.strip()]
    cells = [cell.source for cell in CELLS if cell.cell_type == "code"]
    found = [cell.removeprefix("!") for cell in cells if cell.startswith("!") or cell in wanted]
    assert found == [line for line in wanted if line]


def test_no_text_of_the_lecture_is_lost():
    text = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
    for heading in re.findall(r"(?m)^#+ .*$", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)):
        assert heading in text
    assert text.count("<details>") == PAGE.count("<details>") == text.count("</details>")
    assert "<!--" not in text and "```math" not in text
    outputs = re.findall(r"(?s)<!-- output: python -m study example.*?```\n(.*?)```", PAGE)
    assert len(outputs) == 3 and all(output in text for output in outputs)


def test_an_exercise_changes_the_model_and_restores_it():
    cells = [cell.source for cell in CELLS]
    restored = [i for i, cell in enumerate(cells) if cell == "!git checkout -- model.py"]
    for (mark, (old, new)), end in zip(tool.EDITS.items(), restored, strict=True):
        [change] = [i for i, cell in enumerate(cells) if f"old, new = {old!r}, {new!r}" in cell]
        uses = [i for i, cell in enumerate(cells) if cell.startswith("!python") and mark in cell]
        assert change + 1 == uses[0] and uses[-1] < end < change + 6


# A cell that makes those commands quicker.
QUICK = """
import train
from quill import log, parallel
from study import checks, compare

plot = log.plot_loss  # half of such a run's time, and the notebook shows one of them
log.plot_loss = lambda folder, *rest: folder == "out/memorized" and plot(folder, *rest)
compare.train_one = train.main  # a process takes seconds to start
parallel.signal.signal = lambda *_: None  # not in the main thread
checks.RATE_STEPS, checks.OVERFIT_STEPS = 30, 100
"""


def in_process(source):
    """A cell that runs a command in the kernel itself, shortened, since a process takes seconds."""
    if not source.startswith("!python"):
        return source
    if source == "!python prepare_shakespeare.py":
        return (
            "import prepare_shakespeare\nprepare_shakespeare.main(['--source=data/pastiche.txt'])"
        )
    module, arguments = shortened(source[1:])
    return f"import importlib\nimportlib.import_module({module!r}).main({arguments!r})"


def test_notebook_runs_from_the_first_cell_to_the_last(tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    for name in ("config", "data", "quill", "study", "page"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*_char"))
    (tmp_path / "docs").mkdir()
    pastiche = tmp_path / "data" / "pastiche.txt"
    pastiche.write_text(pastiche.read_text(encoding="utf-8")[:50000], encoding="utf-8")
    notebook = nbformat.reads(NOTEBOOK, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = in_process(cell.source)
    notebook.cells.insert(2, nbformat.v4.new_code_cell(QUICK))
    client = NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(tmp_path / "docs"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == len(tool.PLOTS)
    assert any("<iframe" in output.get("data", {}).get("text/html", "") for output in outputs)
