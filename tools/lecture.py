"""Run every command of docs/lecture.md, and write what it prints into the page.

    python tools/lecture.py    takes less than half an hour on two cores

The page says where each figure comes from, in comments that its readers do not see. A comment
belongs to the paragraph, the table or the output that follows it:

    <!-- figures: mlp.seconds mlp.loss -->           the numbers in bold, from left to right
    <!-- output: python -m study ngrams -->          what that command prints
    <!-- output: python -m study ngrams | n | a -->  from a line that starts with "n" to one that
                                                     starts with "a", or to an empty one
A run has the name of its folder: mlp.loss is the lowest validation loss of out/mlp. The plots, the
pictures of the page and the logs in docs/runs are made again too. Read all before you commit it.
"""

import csv
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from pictures import photograph_page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGE = DOCS / "lecture.md"
PROGRAMS = {"train.py", "sample.py", "prepare_shakespeare.py", "-m study", "-m page"}
PLOTS = {  # in docs/: where the commands leave them
    "attention.png": "out/shakespeare_plain/attention.png",
    "context.png": "out/shakespeare_plain/context.png",
    "memorized.png": "out/memorized/loss.png",
    "embeddings.png": "out/shakespeare_plain/embeddings.png",
    "find_lr.png": "out/mlp/find_lr.png",
    "runs.png": "runs.png",
    "temperature.png": "out/shakespeare_plain/temperature.png",
}
# Exercises in which the reader changes model.py: what, for the commands with this folder.
EDITS = {
    "out/no_mask": ("        scores = scores + future", "        # scores + future"),
    "out/no_scaling": ("(q / math.sqrt(self.head_size))", "q"),
    "out_dir=out/relu2": ("x = F.gelu(self.expand(x))", "x = F.relu(self.expand(x)) ** 2"),
}
MARK = re.compile(r"<!-- (figures|output): (.*?) -->\n", re.DOTALL)
FIGURE = re.compile(r"\*\*([-\d][\d.,]*(?:e[-+]\d+)?%?)\*\*")  # a number in bold


# --- Reading and writing the page -------------------------------------------------------------


def program_of(command):
    """The program that a command starts, "train.py" or "-m study"; None if it is not one of ours,
    or if it only prints help."""
    words = command.split()
    program = " ".join(words[1:3] if words[1:2] == ["-m"] else words[1:2])
    ours = words[:1] == ["python"] and program in PROGRAMS and "--help" not in words
    return program if ours else None


def find_commands(page):
    """The lines of a page's shell blocks that start one of our programs, and its Python blocks, in
    order. The download of the text is left out."""
    found = []
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", page, flags=re.DOTALL):
        lines = [block] if language == "python" else block.splitlines()
        found += [line for line in lines if language == "python" or program_of(line)]
    return [command for command in found if command != "python prepare_shakespeare.py"]


def fill_in(page, figures, outputs):
    """(the page with its figures and outputs, a list of what is wrong with it). Without figures,
    the page is only checked."""
    pieces = MARK.split(page)  # text, kind, source, text, kind, source, text, ...
    result = [pieces[0]]
    problems = [f"{figure} has no name" for figure in FIGURE.findall(pieces[0])]
    for kind, source, text in zip(*(pieces[i::3] for i in (1, 2, 3)), strict=True):
        end = text.index("\n```\n") + 5 if kind == "output" else text.find("\n\n")
        marked, rest = text[:end], text[end:]
        problems += [f"{figure} has no name" for figure in FIGURE.findall(rest)]
        if kind == "output":
            if not marked.startswith("```\n"):
                problems.append(f"no output block follows {source!r}")
            if outputs:
                marked = f"```\n{select_lines(source, outputs)}\n```\n"
        else:
            names, parts = source.split(), FIGURE.split(marked)  # text, figure, ..., figure, text
            if len(names) != len(parts[1::2]):
                problems.append(f"{len(names)} names for {len(parts[1::2])} figures: {names}")
            missing = [name for name in names if figures and name not in figures]
            problems += [f"no command gives {name}" for name in missing]
            if figures and not missing:
                parts[1::2] = [f"**{figures[name]}**" for name in names]
                marked = "".join(parts)
        result += [f"<!-- {kind}: {source} -->\n", marked, rest]
    return "".join(result), problems


def select_lines(source, outputs):
    """The lines of an output that a comment asks for: COMMAND [| START [| END]]."""
    command, start, end = (part.strip() for part in (source + "||").split("|")[:3])
    text = outputs[command]
    if start:
        text = text[re.search(rf"(?m)^ *{re.escape(start)}", text).start() :]
        text = re.split(rf"(?m)^{re.escape(end) or '$'}", text, maxsplit=1)[0]
    return re.sub(r"(?m) +$", "", text).strip("\n")


# --- The figures of a command -----------------------------------------------------------------


def figures_of(command, output):
    """{name: figure} of one command that has run in this folder."""
    words = shlex.split(command)
    options = dict(word.lstrip("-").split("=", 1) for word in words if "=" in word)
    recipe = next((word for word in words if word.startswith("config/")), "run")
    name = Path(options.get("out_dir", Path(recipe).stem)).name
    if "--eval_only" in words:
        return figures_of_splits(name, options, output)
    if words[1] == "train.py":
        figures = figures_of_log(Path("out") / name)
        figures["parameters"] = search(r"network: .* ([\d,]+) parameters", output)
        return {f"{name}.{key}": figure for key, figure in figures.items()}
    study, rows = words[3], [line.split() for line in output.splitlines()]
    if study == "dry_run":
        return figures_of_dry_run(Path(recipe).read_text(), output)
    if study == "results":
        return {f"{Path(row[-1]).parent.name}.context": rounded(row[1]) for row in rows[1:]}
    if study == "ngrams":
        text = f"ngrams.{options['dataset']}" if "dataset" in options else "ngrams"
        return figures_of_ngrams(text, rows[1 : rows.index([])])
    if study == "context":
        figures = {}
        for *losses, run in (row for row in rows[1:] if len(row) > 1):
            for band, loss in zip(rows[0], losses, strict=False):
                figures[f"context.{Path(run).name}.{band}"] = loss
        return figures
    patterns = {
        "attention.near": r"a weight of ([\d.]+) on the character before",
        "attention.far": r"([\d.]+) characters back",
        "overfit_batch.loss": r"the loss fell from \d\.\d+ to (\d\.\d+)",
        "overfit_batch.steps": r"in (\d+) steps",
        "find_lr.lowest": r"the loss is lowest at a rate of ([\d.e-]+)",
        "find_lr.rate": r"--learning_rate=([\d.e-]+)",
    }
    own = {key: pattern for key, pattern in patterns.items() if key.startswith(f"{study}.")}
    found = {key: search(pattern, output) for key, pattern in own.items()}
    return {key: figure for key, figure in found.items() if figure}


def search(pattern, output):
    """The first group of a regular expression in an output, or None."""
    found = re.search(pattern, output)
    return found and found[1]


def rounded(loss):
    """A loss with three digits, from the four that the programs print: it may come from a log or
    from a program's output, and should be the same on the page."""
    return f"{float(f'{float(loss):.4f}'):.3f}"


def figures_of_splits(name, options, output):
    """What --eval_only prints: of a run, its loss with much context; of a checkpoint that is
    measured on another dataset, the loss of each split."""
    if "init_from" not in options:
        return {f"{name}.context": rounded(search(r"(\d\.\d+) nats with", output))}
    path, losses = Path(options["init_from"]), re.findall(r"(?m)^(\w+): +(\d\.\d+)", output)
    run = f"{path.parent.name}.{path.stem}.{options['dataset']}"
    return {f"{run}.{split}": rounded(loss) for split, loss in losses}


def figures_of_ngrams(name, rows):
    """The loss of each n, the best of them, and how many counts that one needs. rows: n, the number
    of n-grams, two more, and the loss."""
    best = min(rows, key=lambda row: row[4])
    counts = [int(row[1].replace(",", "")) for row in rows[: int(best[0])]]
    figures = {f"{name}.{row[0]}.loss": row[4] for row in rows}
    return figures | {
        f"{name}.n": best[0],
        f"{name}.best": best[4],
        f"{name}.all": f"{sum(counts):,}",
    }


def figures_of_log(folder):
    """What the log of a run gives: {"loss": "1.786", ...}."""
    with open(folder / "log.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    best = min(rows, key=lambda row: row["val_loss"])
    first, early, last = rows[0], rows[1], rows[-1]  # the first one is at step 0
    return {
        "loss": rounded(best["val_loss"]),
        "best_step": f"{best['step']:,.0f}",
        "train": rounded(last["train_loss"]),
        "last": rounded(last["val_loss"]),
        "first": rounded(first["val_loss"]),
        "early_step": f"{early['step']:,.0f}",
        "early_gap": f"{early['val_loss'] - early['train_loss']:.2f}",
        "steps": f"{last['step']:,.0f}",
        "gap": f"{last['val_loss'] - last['train_loss']:.2f}",
        "seconds": f"{last['seconds']:.0f}",
    }


def figures_of_dry_run(recipe, output):
    """The lecture's count of parameters and operations, compared with a dry run of that recipe."""
    names = ("n_layer", "n_embd", "block_size")
    L, C, T = (int(search(rf"(?m)^{name} = (\d+)", recipe)) for name in names)
    head = int(search(r"token_embedding +([\d,]+)", output).replace(",", ""))
    blocks, norms = 12 * L * C**2, (2 * L + 1) * C
    matrices, attention = 6 * (blocks + head), 12 * L * C * T
    figures = {"L": L, "C": C, "T": T, "V": head // C, "blocks": blocks, "head": head}
    figures |= {"norms": norms, "all": blocks + head + norms, "matrices": matrices}
    figures |= {"attention": attention, "flops": matrices + attention}
    for part in ("all", "flops"):
        assert f"{figures[part]:,}" in output, f"the lecture's formula is wrong: {part}"
    return {f"dry_run.{key}": f"{value:,}" for key, value in figures.items()}


# --- Running the commands ---------------------------------------------------------------------


def edit_model(command):
    """Make model.py what a command's exercise asks for."""
    source = (ROOT / "model.py").read_text()
    for mark, (before, after) in EDITS.items():
        if mark in command:
            assert before in source, f"model.py no longer has {before!r}"
            source = source.replace(before, after)
    Path("model.py").write_text(source)


def run_all(page):
    """Run a page's commands in this folder; returns (figures, outputs), both as dicts."""
    figures, outputs, started = {}, {}, time.monotonic()
    for command in find_commands(page):
        name = command.splitlines()[0]
        print(f"{time.monotonic() - started:6.0f} s  {name}", flush=True)
        edit_model(command)
        ours = program_of(name)
        words = [sys.executable, *(shlex.split(command)[1:] if ours else ["-c", command])]
        began, pipe = time.monotonic(), subprocess.PIPE
        ended = subprocess.run(words, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        if ended.returncode:
            sys.exit(f"{command}\n{ended.stdout}")
        lines = ended.stdout.splitlines()
        # The first and the last line of sample.py are about the checkpoint and the speed.
        outputs[name] = "\n".join(lines[1:-1] if ours == "sample.py" else lines)
        if ours in ("train.py", "-m study"):
            figures |= figures_of(command, ended.stdout)
        if name == "python -m study ngrams":
            figures["ngrams.seconds"] = f"{time.monotonic() - began:.0f}"
    figures["all.minutes"] = f"{math.ceil((time.monotonic() - started) / 60)}"
    return figures, outputs


def keep_runs(folder, to):
    """Copy the logs of the runs in a folder, and what each wrote at its evaluations."""
    for path in sorted(Path(folder).glob("*/last.pt")):
        run = Path(to) / path.parent.name
        run.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.with_name("log.csv"), run)
        samples = torch.load(path, weights_only=True)["state"]["samples"]
        texts = [f"--- step {step} ---\n{text}\n" for step, text in samples.items()]
        (run / "samples.txt").write_text("\n".join(texts), encoding="utf-8")


def main():
    page = PAGE.read_text(encoding="utf-8")
    _, problems = fill_in(page, {}, {})
    if not problems:
        folder = Path(tempfile.mkdtemp(prefix="lecture-"))
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        for name in ("config", "quill", "study", "page", "data"):
            shutil.copytree(ROOT / name, folder / name)
        os.chdir(folder)
        page, problems = fill_in(page, *run_all(page))
        PAGE.write_text(page, encoding="utf-8")
        for name, source in PLOTS.items():
            shutil.copy(source, DOCS / name)
        photograph_page(Path("out/shakespeare_plain/page.html"), DOCS)
        keep_runs("out", DOCS / "runs")
        print(f"the runs are in {folder}; delete it when you have looked at them")
    if problems:
        sys.exit("docs/lecture.md: " + "\n".join(problems))


if __name__ == "__main__":
    main()
