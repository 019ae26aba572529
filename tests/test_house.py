"""The house: who may import whom, and that programs start where optional modules are missing."""

import ast
import graphlib
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

PATHS = {path.stem: path for path in ROOT.glob("*.py")}
PATHS |= {
    "quill" if path.stem == "__init__" else f"quill.{path.stem}": path
    for path in ROOT.glob("quill/*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}
PROGRAMS = sorted(name for name, path in PATHS.items() if "\nif __name__ ==" in path.read_text())


def imported(name):
    """The modules that a module imports anywhere in it, as written: "torch.nn", "quill.dataset"."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[0] if node.level else ""
            source = ".".join(filter(None, [package, node.module]))
            parts = {f"{source}.{alias.name}" for alias in node.names}
            found |= (parts & PATHS.keys()) or {source}
    return found


def ours(name):
    """Those of our own modules that a module imports."""
    return imported(name) & PATHS.keys()


# --- Who imports whom -------------------------------------------------------------------------


def test_the_programs_and_modules_are_found():
    named = {"prepare_shakespeare", "train", "sample", "studies", "plots", "page"}
    assert named <= set(PROGRAMS)
    assert {"model", "ancestors"} <= set(PATHS) - set(PROGRAMS)
    assert {"quill.settings", "quill.checkpoint", "quill.dataset"} <= ours("train") | ours("sample")
    assert {"sample", "quill.checkpoint", "quill.processes"} <= ours("train")
    assert "torch" in imported("quill.dataset")  # inside a function


def test_model_imports_torch_and_the_standard_library_only():
    packages = {name.split(".")[0] for name in imported("model")}
    assert packages <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", sorted(name for name in PATHS if name.startswith("quill")))
def test_no_module_of_quill_imports_a_program(name):
    assert not ours(name) & set(PROGRAMS)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_nobody_imports_a_study_or_the_page(name):
    assert not imported(name) & {"studies", "page"}


def test_no_import_leads_back_to_where_it_came_from():
    order = graphlib.TopologicalSorter({name: ours(name) for name in PATHS}).static_order()
    assert set(order) == set(PATHS)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(TREES[name])


# --- What may be missing ----------------------------------------------------------------------

# Runs a program as the command line does, where some modules, or parts of them, are missing.
WITHOUT = """
import os, runpy, signal, sys
missing, sys.argv = sys.argv[1].split(","), sys.argv[2:]
for name in missing:
    module, _, attribute = name.partition(".")
    if attribute:
        delattr(sys.modules[module], attribute)
    else:
        sys.modules[module] = None
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
UNIX = "fcntl,resource,os.posix_fadvise,signal.SIGHUP"  # which Windows does not have


def run_without(missing, name, *arguments):
    """The output of a program that ends well though some modules are missing."""
    command = [sys.executable, "-c", WITHOUT, missing, PATHS[name], *arguments]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_run_without_matplotlib_comes_to_its_end_and_has_no_plot(workspace):
    assert "done: 9 steps" in run_without("matplotlib", "train", *TINY)
    left = {path.name for path in (workspace / "out" / "run").glob("[!.]*")}
    assert left == {"ckpt.pt", "last.pt", "log.csv"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_starts_without_the_modules_of_unix(name):
    assert run_without(UNIX, name, "--help").startswith("usage: ")


def test_text_can_be_prepared_trained_on_and_written_without_the_modules_of_unix(workspace):
    prepared = run_without(
        UNIX, "prepare_shakespeare", "--source=small.txt", "--dataset=small", "--split=0.8,0.1,0.1"
    )
    assert "test.bin" in prepared
    assert "done: 9 steps" in run_without(UNIX, "train", *TINY)
    assert len(run_without(UNIX, "sample", "--max_new_tokens=20")) > 20
    assert "the whole run" in run_without(UNIX, "studies", "dry_run", *TINY)
    assert "page.html" in run_without(f"{UNIX},matplotlib", "page")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_during_the_imports_ends_without_a_traceback(name):
    quill = "import quill, signal, sys; import os; os.kill(os.getpid(), signal.SIGINT)"
    first = next(line for line in PATHS[name].read_text().splitlines() if "import " in line)
    assert first.startswith(("import quill", "from quill"))  # before what takes long to import
    ended = subprocess.run([sys.executable, "-c", quill], capture_output=True, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")
