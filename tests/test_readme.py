"""The README's commands, run in an empty folder as a person would run them."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def readme_commands():
    """The lines of the README's shell blocks that run one of the project's programs."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_first_command_goes_from_text_to_text(tmp_path):
    first = readme_commands()[0]
    steps = [step.strip() for step in first.split("&&")]
    programs = [step.split()[1] for step in steps if step.startswith("python ")]
    assert programs == ["prepare_shakespeare.py", "train.py", "sample.py"]
    (tmp_path / "text.txt").write_text((ROOT / "data" / "pastiche.txt").read_text()[:20000])
    shorter = {
        "prepare_shakespeare.py": ["--source=text.txt"],  # no network in a test
        "train.py": ["--max_iters=3", "--eval_iters=1"],
        "sample.py": ["--max_new_tokens=20"],
    }
    for step in steps:
        if step.startswith("python "):
            program, *arguments = step.split()[1:]
            arguments = [ROOT / a if a.startswith("config/") else a for a in arguments]
            ended = subprocess.run(
                [sys.executable, ROOT / program, *arguments, *shorter[program]],
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout) >= 20
    left = sorted(path.name for path in (tmp_path / "out" / "shakespeare_cpu").glob("[!.]*"))
    assert left == ["ckpt.pt", "last.pt", "log.csv", "loss.png"]


def test_every_setting_that_the_readme_types_is_known():
    from config import SETTINGS

    others = set(re.findall(r'"--(\w+)"', (ROOT / "sample.py").read_text()))
    others |= set(re.findall(r'"--(\w+)"', (ROOT / "prepare_shakespeare.py").read_text()))
    for line in readme_commands():
        if "python" in line and ".py" in line:
            for name in re.findall(r"--(\w+)", line):
                assert name in SETTINGS or name in others | {"help"}, line


def test_files_that_the_readme_links_to_exist():
    links = re.findall(r"\]\(([^)#]+)(#L\d+)?[^)]*\)", (ROOT / "README.md").read_text())
    for path, line in links:
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path
            if line:
                assert int(line[2:]) <= len(Path(ROOT / path).read_text().splitlines())


def test_ci_runs_the_readmes_test_command():
    command = next(line for line in readme_commands() if "pytest" in line)
    assert command in (ROOT / ".ci" / "run").read_text()
