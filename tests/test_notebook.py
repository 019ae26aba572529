"""docs/lecture.ipynb is the lecture, and runs from its first cell to its last."""

import re
import shutil
import sys

import nbformat
from conftest import ROOT
from nbclient import NotebookClient
from test_readme import shortened

sys.path.append(str(ROOT / "tools"))

import notebook as tool

PAGE = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
NOTEBOOK = (ROOT / "docs" / "lecture.ipynb").read_text(encoding="utf-8")


def test_committed_notebook_is_what_the_tool_makes():
    assert tool.make(PAGE) == NOTEBOOK


def test_its_commands_are_the_lectures_in_order():
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE, flags=re.DOTALL)
    wanted = []
    for language, block in blocks:
        wanted += block.split("\n")[:-1] if language == "sh" else [block.strip()]
    cells = [cell.source for cell in nbformat.reads(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    found = [cell.removeprefix("!") for cell in cells if cell.startswith("!") or cell in wanted]
    assert found == [line for line in wanted if line]


def test_no_text_of_the_lecture_is_lost():
    cells = nbformat.reads(NOTEBOOK, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for heading in re.findall(r"(?m)^#+ .*$", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)):
        assert heading in text
    assert text.count("<details>") == PAGE.count("<details>") == text.count("</details>")
    assert "<!--" not in text and "```math" not in text


def test_worked_example_is_whole():
    cells = nbformat.reads(NOTEBOOK, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    outputs = re.findall(r"(?s)<!-- output: python -m study example.*?```\n(.*?)```", PAGE)
    assert len(outputs) == 3 and all(output in text for output in outputs)


def test_an_exercise_changes_the_model_and_restores_it():
    cells = [cell.source for cell in nbformat.reads(NOTEBOOK, 4).cells]
    restored = [i for i, cell in enumerate(cells) if cell == "!git checkout -- model.py"]
    for (mark, (old, new)), end in zip(tool.EDITS.items(), restored, strict=True):
        [change] = [i for i, cell in enumerate(cells) if f"old, new = {old!r}, {new!r}" in cell]
        uses = [i for i, cell in enumerate(cells) if cell.startswith("!python") and mark in cell]
        assert change + 1 == uses[0] and uses[-1] < end < change + 6


def in_process(source):
    """A cell that runs a command in the kernel itself, shortened, since a process takes seconds."""
    if not source.startswith("!python"):
        return source
    if source == "!python prepare_shakespeare.py":
        return "import prepare_shakespeare\nprepare_shakespeare.main(['--source=text.txt'])"
    module, arguments = shortened(source[1:])
    return f"import importlib\nimportlib.import_module({module!r}).main({arguments!r})"


def test_notebook_runs_from_the_first_cell_to_the_last(tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    for name in ("config", "quill", "study", "page"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "data").mkdir()
    text = (ROOT / "data" / "pastiche.txt").read_text(encoding="utf-8")
    (tmp_path / "data" / "pastiche.txt").write_text(text, encoding="utf-8")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")  # for Shakespeare
    notebook = nbformat.reads(NOTEBOOK, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = in_process(cell.source)
    quick = "from quill import log\nfrom study import checks\n"
    # Half of such a run's time is its plot, and the notebook shows one of them.
    quick += "plot, folder = log.plot_loss, 'out/memorized'\n"
    quick += "log.plot_loss = lambda out, *rest: out == folder and plot(out, *rest)\n"
    # Each process of a comparison takes seconds to start; test_compare.py starts one.
    quick += "import train\nfrom study import compare\ncompare.train_one = train.main\n"
    quick += "from quill import parallel\nparallel.signal.signal = lambda *_: None\n"
    quick += "checks.RATE_STEPS, checks.OVERFIT_STEPS = 30, 100"
    notebook.cells.insert(2, nbformat.v4.new_code_cell(quick))
    client = NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(tmp_path / "docs"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == len(tool.PLOTS)
    assert any("<iframe" in output.get("data", {}).get("text/html", "") for output in outputs)
