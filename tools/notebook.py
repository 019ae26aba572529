"""Make docs/lecture.ipynb from docs/lecture.md, so that there is one text.

    python tools/notebook.py

Prose and formulas become Markdown cells, each command a cell of its own. What a command printed for
the page is left out, since the cell prints it again, but for the worked example, whose numbers the
prose goes through; a plot that it makes is shown below it. Where an exercise changes model.py, a
cell makes the change, so that all cells can be run in order.
"""

import re
from pathlib import Path

import nbformat
from lecture import EDITS, PLOTS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DOCS = Path(__file__).resolve().parent.parent / "docs"

FIRST = "Run the next cell first. On Colab, choose a GPU (*Runtime*, *Change runtime type*) before."
SET_UP = """
# In a clone of the project, this only goes to its top folder. Elsewhere, it makes a clone.
ADDRESS = ""  # of the project, as you would write it after "git clone"

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

while not Path("model.py").exists() and Path.cwd() != Path.cwd().parent:
    os.chdir("..")
if not Path("model.py").exists():
    assert ADDRESS, "write the address of the project into ADDRESS, and run this cell again"
    subprocess.run(["git", "clone", ADDRESS, "/tmp/quillgpt"], check=True)
    os.chdir("/tmp/quillgpt")
needed = ("torch", "numpy", "requests", "matplotlib")
missing = [name for name in needed if not importlib.util.find_spec(name)]
if missing:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing], check=True)
# "!python" below is then the Python of this notebook.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

import torch

print("device:", torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
"""
CHANGE_MODEL = """
# This makes the change in model.py. (To make it by hand, open model.py in the file browser.) After
# the exercise, a cell restores the file.
from pathlib import Path

source = Path("model.py").read_text(encoding="utf-8")
old, new = {!r}, {!r}
assert old in source, "model.py has been changed already"
Path("model.py").write_text(source.replace(old, new), encoding="utf-8")
"""
SHOW_PLOT = """
from IPython.display import Image

Image("{}")
"""
SHOW_PAGE = """
from html import escape
from pathlib import Path

from IPython.display import HTML

page = escape(Path("out/shakespeare_plain/page.html").read_text(encoding="utf-8"))
HTML(f'<iframe srcdoc="{page}" width="100%" height="900"></iframe>')
"""

OUTPUT = re.compile(r"<!-- output: (?!python -m study example)[^\n]* -->\n```\n.*?```\n", re.DOTALL)
COMMENT = re.compile(r"<!-- .*? -->\n", re.DOTALL)
FORMULA = re.compile(r"(?m)^( *)```math\n(.*?)^ *```", re.DOTALL)  # GitHub's way to write one
# What becomes a cell of code: commands, Python, and a plot that a command has made.
CODE = re.compile(r"(```(?:sh|python)\n.*?```|!\[[^\]]*\]\([\w.]+\))", re.DOTALL)


def make(page):
    """The notebook's file for a page of Markdown, as text."""
    text = FORMULA.sub(r"\1$$\n\2\1$$", COMMENT.sub("", OUTPUT.sub("", page)))
    cells = [new_markdown_cell(FIRST), new_code_cell(SET_UP.strip())]
    edits = dict(EDITS)
    for part in CODE.split(text):
        sources = []
        for source in sources_of(part):
            for mark in [mark for mark in edits if mark in source]:
                sources.append(CHANGE_MODEL.format(*edits.pop(mark)))
            sources.append(source)
        cells += [new_code_cell(source.strip()) for source in sources]
        if not sources and part.strip():
            cells.append(new_markdown_cell(part.strip()))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # not at random: the same page makes the same file
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata)) + "\n"


def sources_of(part):
    """The cells of code that a part of the page becomes: none if it is prose."""
    if part.startswith("```python"):
        return [part.strip("`").removeprefix("python")]
    if part.startswith("```sh"):
        sources = [f"!{line}" for line in part.strip("`").splitlines()[1:] if line]
        return sources + [SHOW_PAGE for source in sources if source.startswith("!python -m page")]
    image = re.fullmatch(r"!\[[^\]]*\]\(([\w.]+)\)", part)
    if image and image[1] in PLOTS:
        return [SHOW_PLOT.format(PLOTS[image[1]])]
    return []


if __name__ == "__main__":
    page = (DOCS / "lecture.md").read_text(encoding="utf-8")
    (DOCS / "lecture.ipynb").write_text(make(page), encoding="utf-8")
