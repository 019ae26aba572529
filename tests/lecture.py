"""Run every command of docs/lecture.md, and write what it prints into the page. Run by hand:

    python tests/lecture.py            all of it: less than half an hour on two cores
    python tests/lecture.py --check    only whether the page names each of its figures

The page says where each figure comes from, in comments that a reader of the page does not see. One
stands in front of a paragraph, a table, or an output, and is about that alone:

    <!-- figures: mlp.seconds mlp.loss -->            the numbers in bold, from left to right
    <!-- output: python studies.py ngrams -->         the lines of that command
    <!-- output: python studies.py ngrams | n | -->   from the line that starts so to an empty one

A run is named by the last part of its folder: mlp.loss is the lowest validation loss of out/mlp.
A new edition costs machine time only: run this, read the page, and commit what has changed.
"""

import argparse
import csv
import math
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "lecture.md"
PROGRAMS = {"train.py", "sample.py", "studies.py", "plots.py", "prepare_shakespeare.py", "page.py"}
PICTURES = {  # in docs/: where the commands leave them
    "attention.png": "out/shakespeare_cpu/attention.png",
    "by_heart.png": "out/by_heart/loss.png",
    "embeddings.png": "out/shakespeare_cpu/embeddings.png",
    "find_lr.png": "out/mlp/find_lr.png",
    "runs.png": "runs.png",
    "temperature.png": "out/shakespeare_cpu/temperature.png",
}
# Exercises in which the reader changes model.py: what, for the commands that name this folder.
EDITS = {
    "out/no_mask": ("        scores = scores + future.triu(1 + start)", "        #"),
    "out/no_scaling": ("(q / math.sqrt(q.shape[3]))", "q"),
}
MARK = re.compile(r"<!-- (figures|output): (.*?) -->\n", re.DOTALL)
FIGURE = re.compile(r"\*\*([-\d][\d.,]*(?:e[-+]\d+)?%?)\*\*")  # a number in bold


# --- Reading the page -------------------------------------------------------------------------


def commands(page):
    """What the page lets its reader type, in order: the lines of its shell blocks, and its Python
    blocks. Left out: other programs (git, pip, pytest), and the download of the text."""
    found = []
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", page, flags=re.DOTALL):
        lines = [block] if language == "python" else block.splitlines()
        for line in lines:
            words = line.split()
            ours = words[0] == "python" and words[1] in PROGRAMS
            if language == "python" or (ours and words[1:] != ["prepare_shakespeare.py"]):
                found.append(line)
    return found


def filled(page, figures, outputs):
    """The page with its figures and outputs; and a list of what is wrong with it. Without figures,
    the page is only checked."""
    pieces, problems = MARK.split(page), []
    result = [pieces[0]]
    problems += [f"{number} has no name" for number in FIGURE.findall(pieces[0])]
    for kind, source, text in zip(*(pieces[i::3] for i in (1, 2, 3)), strict=True):
        end = text.index("\n```\n") + 5 if kind == "output" else text.find("\n\n")
        marked, rest = text[:end], text[end:]
        problems += [f"{number} has no name" for number in FIGURE.findall(rest)]
        if kind == "output":
            if not marked.startswith("```\n"):
                problems.append(f"no output block follows {source!r}")
            if outputs:
                marked = f"```\n{chosen_lines(source, outputs)}\n```\n"
        else:
            names, parts = source.split(), FIGURE.split(marked)  # text, number, text, ..., text
            if len(names) != len(parts[1::2]):
                problems.append(f"{len(names)} names for {len(parts[1::2])} figures: {names}")
            missing = [name for name in names if figures and name not in figures]
            problems += [f"no command gives {name}" for name in missing]
            if figures and not missing:
                parts[1::2] = [f"**{figures[name]}**" for name in names]
                marked = "".join(parts)
        result += [f"<!-- {kind}: {source} -->\n", marked, rest]
    return "".join(result), problems


def chosen_lines(source, outputs):
    """The lines of an output that a comment asks for: COMMAND [| START [| END]]."""
    command, start, end = (part.strip() for part in (source + "||").split("|")[:3])
    lines = outputs[command].rstrip().splitlines()
    if start:
        first = next(i for i, line in enumerate(lines) if line.lstrip().startswith(start))
        lines = lines[first:]
        ends = [i for i, line in enumerate(lines) if line.startswith(end) and (end or not line)]
        lines = lines[: ends[0]] if ends else lines
    return "\n".join(line.rstrip() for line in lines).strip("\n")


# --- Running the commands ---------------------------------------------------------------------


def number_after(pattern, output):
    """The number in the first group of a regular expression, as the output has it."""
    found = re.search(pattern, output)
    return found and found[1]


def figures_of_run(name, folder, output):
    """What a training run gives: {"NAME.loss": "1.786", ...}."""
    with open(folder / "log.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    best = min(rows, key=lambda row: row["val_loss"])
    first, last = rows[0], rows[-1]
    figures = {
        "loss": f"{best['val_loss']:.3f}",
        "best_step": f"{best['step']:,.0f}",
        "train": f"{last['train_loss']:.3f}",
        "last": f"{last['val_loss']:.3f}",
        "first": f"{first['val_loss']:.3f}",
        "first_step": f"{first['step']:,.0f}",
        "steps": f"{last['step']:,.0f}",
        "first_gap": f"{first['val_loss'] - first['train_loss']:.2f}",
        "gap": f"{last['val_loss'] - last['train_loss']:.2f}",
        "seconds": f"{last['seconds']:.0f}",
        "minutes": f"{last['seconds'] / 60:.1f}",
        "parameters": number_after(r"network: .*: ([\d,]+) parameters", output),
        "context": number_after(r"block (\d+)", output) or "1",
        "test": number_after(r"test loss of those weights: (\d\.\d{3})", output),
    }
    return {f"{name}.{key}": value for key, value in figures.items()}


def figures_of(command, output, folder):
    """The figures that one command gives, by name."""
    words = shlex.split(command)
    options = dict(word.lstrip("-").split("=", 1) for word in words if "=" in word)
    recipe = next((Path(word).stem for word in words if word.startswith("config/")), "run")
    name = Path(options.get("out_dir", recipe)).name
    if "--eval_only" in words:
        name = Path(options["init_from"]).parent.name if "init_from" in options else name
        which = Path(options.get("init_from", "ckpt.pt")).stem
        losses = re.findall(r"(?m)^(train|val|test): +(\d\.\d{3})", output)
        return {f"{name}.{which}.{options['dataset']}.{split}": loss for split, loss in losses}
    if words[1] == "train.py":
        return figures_of_run(name, folder / "out" / name, output)
    if words[1:2] == ["studies.py"] and words[2] == "dry_run":
        return figures_of_dry_run(output)
    if words[1:2] == ["studies.py"] and words[2] == "ngrams":
        rows = [line.split() for line in output.splitlines()[1:7]]
        figures = {f"ngrams.{row[0]}.{key}": row[i] for row in rows for i, key in NGRAM_COLUMNS}
        return figures | {"ngrams.best": min(row[4] for row in rows)}
    patterns = {
        "overfit_batch.loss": r"step 300: loss (\d\.\d+)",
        "find_lr.lowest": r"the loss is lowest at a rate of ([\d.e-]+)",
        "find_lr.rate": r"--learning_rate=([\d.e-]+)",
    }
    return {key: number_after(pattern, output) for key, pattern in patterns.items()}


NGRAM_COLUMNS = [(1, "strings"), (2, "once"), (3, "new"), (4, "loss")]


def figures_of_dry_run(output):
    """The numbers of the lecture's count of parameters and operations, from a dry run."""
    shape = r"(\d+) layers, (\d+) heads, (\d+) wide, block (\d+): ([\d,]+) parameters"
    L, H, C, T, size = (int(x.replace(",", "")) for x in re.search(shape, output).groups())
    V = int(number_after(r"token_embedding +([\d,]+)", output).replace(",", "")) // C
    blocks, head, norms = 12 * L * C**2, V * C, (2 * L + 1) * C
    flops = 6 * (blocks + head) + 12 * L * C * T
    assert size == blocks + head + norms, "the lecture's formula for the parameters is wrong"
    assert f"{flops:,}" in output, "the lecture's formula for the operations is wrong"
    figures = {"L": L, "H": H, "C": C, "T": T, "V": V, "size": C // H, "4C": 4 * C}
    figures |= {"blocks": blocks, "head": head, "norms": norms, "all": size}
    figures |= {"matrices": 6 * (blocks + head), "attention": 12 * L * C * T, "flops": flops}
    return {f"dry_run.{key}": f"{value:,}" for key, value in figures.items()}


def run_all(page, folder):
    """Run the page's commands in a folder with a copy of the programs; returns (figures, outputs),
    both as dicts."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("page.*")]:
        shutil.copy(path, folder)
    for name in ("config", "quill", "data"):
        shutil.copytree(ROOT / name, folder / name)
    figures, outputs, started = {}, {}, time.monotonic()
    original = (folder / "model.py").read_text()
    for command in commands(page):
        print(f"{time.monotonic() - started:6.0f} s  {command.splitlines()[0]}", flush=True)
        source = original
        for mark, (before, after) in EDITS.items():
            if mark in command:
                assert before in source, f"model.py no longer has {before!r}"
                source = source.replace(before, after)
        (folder / "model.py").write_text(source)
        snippet = not command.startswith("python ")
        words = [sys.executable, *(["-c", command] if snippet else shlex.split(command)[1:])]
        began = time.monotonic()
        ended = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        took = time.monotonic() - began
        if ended.returncode:
            sys.exit(f"{command}\n{ended.stderr}")
        name = command.splitlines()[0]
        outputs[name] = ended.stdout
        if not snippet:
            new = figures_of(command, ended.stdout, folder)
            figures |= {key: value for key, value in new.items() if value is not None}
        if command == "python studies.py ngrams":
            figures["ngrams.seconds"] = f"{took:.0f}"
    seconds = time.monotonic() - started
    figures |= {"all.minutes": f"{math.ceil(seconds / 60)}"}
    print(f"{seconds:6.0f} s  done")
    return figures, outputs


def main():
    parser = argparse.ArgumentParser(description="Write the figures of docs/lecture.md afresh.")
    parser.add_argument("--check", action="store_true", help="only check that all are named")
    page = PAGE.read_text(encoding="utf-8")
    _, problems = filled(page, {}, {})
    if problems:
        sys.exit("docs/lecture.md: " + "\n".join(problems))
    if parser.parse_args().check:
        return
    folder = Path(tempfile.mkdtemp(prefix="lecture-"))
    figures, outputs = run_all(page, folder)
    page, problems = filled(page, figures, outputs)
    PAGE.write_text(page, encoding="utf-8")
    for name, source in PICTURES.items():
        shutil.copy(folder / source, ROOT / "docs" / name)
    print(f"the runs are in {folder}; delete it when you have looked at them")
    if problems:
        sys.exit("docs/lecture.md: " + "\n".join(problems))


if __name__ == "__main__":
    main()
