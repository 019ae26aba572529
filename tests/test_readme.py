"""The pages' commands, run in an empty folder as a person would run them, and their links."""

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys

import lecture
import pytest
from conftest import ROOT

import prepare_shakespeare
import studies
import train

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# What a test adds, so that a command takes a second and needs no network.
SHORTER = {
    "prepare_shakespeare.py": ["--source=text.txt"],
    "train.py": ["--max_iters=3", "--eval_interval=2", "--eval_iters=1"],
    "sample.py": ["--max_new_tokens=20"],
}


def commands(page=README):
    """The commands in a page's shell blocks, one a line."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def in_process(command):
    """[program, *arguments] of a command that a test runs by itself, or None for any other."""
    words = shlex.split(command.split(">")[0])
    if words[0] != "python" or words[1].startswith(("-", "tests/")):
        return None  # torchrun, pip, pytest, the benchmark
    if "&&" in words or "--help" in words or words[1:] == ["prepare_shakespeare.py"]:
        return None  # the first one has a test of its own, the last one needs a network
    return words[1:]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working folder with what a clone has, and the texts that the pages speak of."""
    for name in ("config", "data"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*_char"))
    text = prepare_shakespeare.BUNDLED.read_text()
    (tmp_path / "text.txt").write_text(text)  # for Shakespeare
    (tmp_path / "my.txt").write_text(text[40000:60000])
    (tmp_path / "prompt.txt").write_text("My lord,")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_command_goes_from_text_to_text(clone):
    steps = [shlex.split(step) for step in commands()[0].split("&&")]
    steps = [step[1:] for step in steps if step[0] == "python"]
    assert [step[0] for step in steps] == ["prepare_shakespeare.py", "train.py", "sample.py"]
    for program, *arguments in steps:
        ended = subprocess.run(
            [sys.executable, ROOT / program, *arguments, *SHORTER[program]],
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout) > 20
    left = sorted(path.name for path in (clone / "out" / "shakespeare_cpu").glob("[!.]*"))
    assert left == ["ckpt.pt", "last.pt", "log.csv", "loss.png"]


def load_shortened(arguments, load=train.parse_command_line):
    """The settings that a command line asks for, with a network and a run of the smallest size."""
    config, given = load(arguments)
    config.n_layer, config.n_embd, config.block_size = 1, 24, 16
    config.max_iters, config.eval_iters = 3, 1
    return config, given


@by_page
def test_the_commands_of_a_page_work_in_the_order_of_the_page(clone, monkeypatch, page):
    """Where a page does not train the network of the quick start (the README's first command) by
    itself, it speaks to those who have done so."""
    monkeypatch.setattr(train, "parse_command_line", load_shortened)
    monkeypatch.setattr(studies, "parse_command_line", load_shortened)
    monkeypatch.setattr(studies, "RATE_STEPS", 30)
    prepare_shakespeare.main(["--source=text.txt"])
    if "python train.py config/shakespeare_cpu.py" not in commands(page):
        train.main(["config/shakespeare_cpu.py"])
    for command in commands(page):
        if words := in_process(command):
            program, *arguments = words
            print(command)  # shown where it fails
            importlib.import_module(program.removesuffix(".py")).main(arguments)


def test_the_commands_of_the_pages_are_found():
    found = [words[0] for page in PAGES for words in map(in_process, commands(page)) if words]
    assert len(found) > 20
    for program in ("prepare_shakespeare.py", "train.py", "sample.py", "studies.py", "plots.py"):
        assert program in found


def names_in(path):
    """The names that a Python file defines: functions, classes, variables and attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


@by_page
def test_a_name_with_a_link_is_defined_in_the_file_that_the_link_leads_to(page):
    for name, target in re.findall(r"\[`([^`]+)`\]\(([^)#]+\.py)\)", page.read_text()):
        path = page.parent / target
        assert path.exists(), (name, target)
        if name != path.name:
            assert set(name.removesuffix("()").split(".")) <= set(names_in(path)), (name, target)


@by_page
def test_a_line_of_code_on_a_page_stands_in_the_code(page):
    sources = "".join(path.read_text() for path in ROOT.glob("*.py"))
    for line in re.findall(r"`([^`\n]*(?:self\.|F\.|\+= |batch\[)[^`\n]*)`", page.read_text()):
        assert line.split("...")[0] in sources, line


def test_the_pages_link_to_the_code():
    text = "".join(page.read_text() for page in PAGES)
    assert len(re.findall(r"\[`[^`]+`\]\([^)]+\.py\)", text)) > 20


def anchors(page):
    """What GitHub lets a link lead to within a page: its headings, in lower case with hyphens."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_every_link_leads_to_a_file_and_none_to_a_line(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not re.fullmatch(r"L\d.*", anchor), f"{link}: line numbers change"
        assert not anchor or anchor in anchors(path), link


def test_every_figure_of_the_lecture_says_where_it_comes_from():
    page = lecture.PAGE.read_text()
    assert lecture.filled(page, {}, {}) == (page, [])
    assert len(lecture.FIGURE.findall(page)) > 80
    for broken in (("bigram.seconds bigram.loss", "bigram.loss"), ("After **", "**7** After **")):
        assert lecture.filled(page.replace(*broken, 1), {}, {})[1]


def test_figures_and_outputs_are_written_where_the_comments_say():
    page = """One **two**.
<!-- figures: a.loss a.seconds -->
After **1** s, **9.999**. | **no**

<!-- output: python a.py | second | -->
```
old
```
end
"""
    figures = {"a.loss": "1.5", "a.seconds": "4,000"}
    filled, problems = lecture.filled(page, figures, {"python a.py": "first\nsecond\n 3\n\nlast"})
    assert problems == []
    assert "After **1.5** s, **4,000**. | **no**" in filled
    assert "```\nsecond\n 3\n```\nend" in filled
    assert lecture.filled(page, {"a.loss": "1.5"}, {})[1] == ["no command gives a.seconds"]


def test_ci_runs_the_test_command():
    command = next(line for line in commands() if "pytest" in line)
    assert command in (ROOT / ".ci" / "run").read_text()
