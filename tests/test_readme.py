"""The pages' commands, run in an empty folder as a person would run them, and their links."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import lecture
import pytest
import settings_table
from conftest import ROOT

import prepare_shakespeare
import train
from quill import parallel
from quill.log import read_log
from study import checks, compare

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
# test_notebook.py runs those of the lecture.
RUN_HERE = [page for page in PAGES if page != lecture.PAGE and "```sh" in page.read_text("utf-8")]

# What a test adds to a command, so that it takes a second: few steps of a tiny network.
SHORT = ["--max_iters=3", "--eval_interval=2", "--eval_iters=1"]
TINY = [*SHORT, "--n_layer=1", "--n_embd=24", "--n_hidden=32", "--block_size=24", "--batch_size=4"]
ADDED = dict.fromkeys(("train.py", "dry_run", "overfit_batch", "find_lr"), TINY)
ADDED["sample.py"] = ["--max_new_tokens=20"]
ADDED["compare"] = [*TINY, "--learning_rate=1e-3", "--seeds=1"]  # in place of several values
MODULES = {"-m study": "study.__main__", "-m page": "page.page"}


def read(page):
    return page.read_text(encoding="utf-8")


def shortened(command):
    """Return the module whose main() runs a command, and its arguments for a short run."""
    program = lecture.program_of(command)
    words = shlex.split(command.split(" > ")[0])
    arguments = words[1 + len(program.split()) :]
    arguments += ADDED.get(arguments[0] if program == "-m study" else program, [])
    return MODULES.get(program, program.removesuffix(".py")), arguments


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working folder with what a clone has, and the texts that the pages mention."""
    for name in ("config", "data"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*_char"))
    text = prepare_shakespeare.BUNDLED.read_text(encoding="utf-8")
    (tmp_path / "text.txt").write_text(text[:50000], encoding="utf-8")  # for Shakespeare
    (tmp_path / "my.txt").write_text(text[50000:70000], encoding="utf-8")
    (tmp_path / "prompt.txt").write_text("My lord,")
    monkeypatch.chdir(tmp_path)
    prepare_shakespeare.main(["--source=text.txt"])
    monkeypatch.setattr(compare, "train_one", train.main)  # a process takes seconds to start
    monkeypatch.setattr(parallel.signal, "signal", lambda *_: None)  # not in the main thread
    return tmp_path


def test_first_command_goes_from_text_to_text(clone):
    first = re.search(r"```sh\n(.*)\n", read(README))[1]
    steps = [shlex.split(step) for step in first.split("&&")]
    steps = [step[1:] for step in steps if step[0] == "python"]
    assert [step[0] for step in steps] == ["prepare_shakespeare.py", "train.py", "sample.py"]
    added = [["--source=text.txt"], SHORT, ADDED["sample.py"]]
    for (program, *arguments), more in zip(steps, added, strict=True):
        command = [sys.executable, ROOT / program, *arguments, *more]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout) > 20
    left = sorted(path.name for path in (clone / "out" / "shakespeare_cpu").glob("[!.]*"))
    assert left == ["ckpt.pt", "last.pt", "log.csv", "loss.png"]


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_commands_of_a_page_work_in_the_order_of_the_page(clone, monkeypatch, page):
    """Where a page does not train the network of the quick start, its reader has done so."""
    monkeypatch.setattr(checks, "RATE_STEPS", 30)
    monkeypatch.setattr(checks, "OVERFIT_STEPS", 100)
    commands = lecture.find_commands(read(page))
    quick_start = "python train.py config/shakespeare_cpu.py"
    for command in commands if quick_start in commands else [quick_start, *commands]:
        print(command)  # shown where it fails
        if lecture.program_of(command.splitlines()[0]):
            module, arguments = shortened(command)
            importlib.import_module(module).main(arguments)
        else:
            exec(compile(command, page.name, "exec"), {})


def test_commands_of_the_pages_are_found():
    found = [command for page in PAGES for command in lecture.find_commands(read(page))]
    programs = [lecture.program_of(command.splitlines()[0]) for command in found]
    assert set(programs) == lecture.PROGRAMS | {None}  # None: Python
    assert len(programs) > 50 and programs.count(None) == 4


@by_page
def test_code_that_a_page_names_is_there(page):
    for name, target in re.findall(r"\[`([^`]+)`\]\(([^)#]+\.py)\)", read(page)):
        for part in name.split("."):
            definition = rf"(?m)^ *((def|class) {part}\b|{part}\b.* = )"
            assert re.search(definition, read(page.parent / target)), (name, target)
    sources = "".join(read(path) for path in ROOT.glob("*.py"))
    for line in re.findall(r"`([^`\n]*(?:self\.|F\.|\bscores|batch\[)[^`\n]*)`", read(page)):
        assert line.split("...")[0] in sources, line
    for path, words in re.findall(r'pytest -q (tests/\w+\.py) -k "?([\w ]+)', read(page)):
        names = re.findall(r"(?m)^def test_(\w+)", read(ROOT / path))
        for word in words.split(" or "):
            assert any(word in name for name in names), (path, word)


def anchors(page):
    """What GitHub lets a link within a page lead to: its headings, in lower case with hyphens."""
    headings = re.findall(r"(?m)^#+ (.+)$", read(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if not link.startswith(("http://", "https://")):
            target, _, anchor = link.partition("#")
            path = page.parent / target if target else page
            assert path.exists() and (not anchor or anchor in anchors(path)), link


def test_every_figure_of_the_lecture_has_a_name():
    page = read(lecture.PAGE)
    assert lecture.fill_in(page, {}, {}) == (page, [])
    assert len(lecture.FIGURE.findall(page)) > 80
    for broken in (("bigram.seconds bigram.loss", "bigram.loss"), ("After **", "**7** After **")):
        assert lecture.fill_in(page.replace(*broken, 1), {}, {})[1]


def test_figures_and_outputs_replace_the_old_ones():
    page = (
        "<!-- figures: a.loss a.seconds -->\n**{}** s, **{}**.\n\n"
        "<!-- output: python a | second | -->\n```\n{}\n```\nend\n"
    )
    old, new = page.format(1, 9.9, "old"), page.format("1.5", "4,000", "second\n 3")
    outputs = {"python a": "first\nsecond\n 3\n\nlast"}
    assert lecture.fill_in(old, {"a.loss": "1.5", "a.seconds": "4,000"}, outputs) == (new, [])
    assert lecture.fill_in(old, {"a.loss": "1.5"}, {})[1] == ["no command gives a.seconds"]


def test_logs_and_samples_of_the_lectures_runs_are_kept(trained, tmp_path):
    lecture.keep_runs(trained / "out", tmp_path)
    assert read_log(tmp_path / "run") == read_log(trained / "out" / "run")
    assert (tmp_path / "run" / "samples.txt").read_text().count("--- step ") == 4


def test_table_of_settings_is_measured_again(clone, monkeypatch):
    recipe = [word.removeprefix("--").replace("=", " = ") for word in TINY]
    Path("tiny.py").write_text("\n".join(recipe))
    Path("page.md").write_text("| none | 9 | 9 | it |\n| `--bias` | 9 | 9 | no |\n")
    changed = {"RECIPE": "tiny.py", "PAGE": Path("page.md"), "SEEDS": 1}
    for name, value in changed.items():
        monkeypatch.setattr(settings_table, name, value)
    settings_table.main()
    loss = r"\d\.\d{4}"
    wanted = rf"\| none \| {loss} \| 0 \| it \|\n\| `--bias` \| {loss} \| [+-]{loss} \| no \|\n"
    assert re.fullmatch(wanted, Path("page.md").read_text())


def test_workflows_run_the_test_command():
    command = re.search(r"```sh\n(.*-m pytest.*)\n", read(README))[1]
    for path in (ROOT / ".ci" / "run", ROOT / ".github" / "workflows" / "test.yml"):
        assert command in read(path)
