"""The README's commands, run in an empty folder as a person would run them, and its links."""

import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

import plots
import prepare_shakespeare
import sample
import studies
import train

README = (ROOT / "README.md").read_text()
LECTURE = (ROOT / "docs" / "lecture.md").read_text()

# What a test adds, so that a command takes a second and needs no network.
SHORTER = {
    "prepare_shakespeare.py": ["--source=text.txt"],
    "train.py": ["--max_iters=3", "--eval_iters=1"],
    "sample.py": ["--max_new_tokens=20"],
}


def commands(page=README):
    """The lines of a page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working folder with what a clone has, and the texts that the README speaks of."""
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


def load_shortened(arguments, load=train.load):
    """The settings that a command line asks for, with a network and a run of the smallest size."""
    config, given = load(arguments)
    config.n_layer, config.n_embd, config.block_size = 1, 24, 16
    config.max_iters, config.eval_iters = 3, 1
    return config, given


@pytest.mark.parametrize("page, least", [(README, 20), (LECTURE, 20)], ids=["README", "lecture"])
def test_every_other_command_works_in_the_order_of_the_page(clone, monkeypatch, page, least):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(train, "load", load_shortened)
    monkeypatch.setattr(studies, "RATE_STEPS", 30)
    programs = {module.__name__: module for module in (train, sample, plots, prepare_shakespeare)}
    prepare_shakespeare.main(["--source=text.txt"])
    if page is README:  # its first command trained this one
        train.main(["config/shakespeare_cpu.py"])
    ran = 0
    for line in commands(page):
        words = shlex.split(line.split(">")[0])
        program = programs.get(words[1].removesuffix(".py")) if words[0] == "python" else None
        if words[1:] == ["prepare_shakespeare.py"] or "&&" in words or "--help" in words:
            continue
        if program:
            program.main(words[2:])
            ran += 1
    assert ran >= least
    for number, handler in before.items():
        signal.signal(number, handler)


def test_links_lead_to_the_lines_that_they_name():
    found = re.findall(r"\[`([^`]+)`\]\((?:\.\./)?(\w+\.py)#L(\d+)\)", README + LECTURE)
    assert len(found) > 40
    for name, path, line in found:
        assert name in (ROOT / path).read_text().splitlines()[int(line) - 1], (name, path, line)
    for folder, page in ((ROOT, README), (ROOT / "docs", LECTURE)):
        for path in re.findall(r"\]\(([^)#:]+)[^)]*\)", page):
            assert (folder / path).exists() or path.startswith("http"), path


def test_ci_runs_the_test_command():
    command = next(line for line in commands() if "pytest" in line)
    assert command in (ROOT / ".ci" / "run").read_text()
