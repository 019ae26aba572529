"""Did a change help? Train variants of a run with the same seeds, and compare their losses."""

import csv
import inspect
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path

import torch

import train
from quill.checkpoint import find_checkpoint, fingerprint, load
from quill.figures import COLORS, matplotlib_installed, new_figure, optional
from quill.files import reading, replacing
from quill.log import read_log
from quill.settings import read_settings
from quill.terminal import UsageError, UserError, show
from study.plots import save

EXAMPLE = "python -m study compare config/shakespeare_fast.py --n_layer=1,2,3"
SEEDS = 5  # fewer would not show a difference of one standard deviation
FEWEST = 4  # seeds for a verdict: with three, a mean must be over four standard errors from 0
SEEN = 0.01  # nats: the difference for which a verdict says how many seeds would show it
MATTERS = 0.001  # nats: a smaller one is not worth a change, however certain it is
# How many standard errors from 0 the mean of so many differences comes to lie by luck alone in one
# comparison of twenty (Student 1908, https://doi.org/10.1093/biomet/6.1.1; his tables, two-sided).
CRITICAL = {4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262, 15: 2.145}
CRITICAL |= {20: 2.093, 30: 2.045, 60: 2.001}


def compare(arguments):
    """Did a change help? Train variants with the same seeds, and compare their losses.

        python -m study compare config/shakespeare_fast.py --n_layer=1,2,3 --seeds=5
        python -m study compare config/shakespeare_fast.py --out_dir=out/before
        python -m study compare out/before out/after

    The first trains with each value of n_layer; several settings with several values are combined.
    For a change of the code, run the second before the change, and the same with
    --out_dir=out/after after it; the third compares them. What is trained already is not trained
    again, so Ctrl-C and the same command go on.
    """
    if {"-h", "--help"} & set(arguments):
        return print(inspect.getdoc(compare))
    places = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    settings = [word[2:].split("=", 1) for word in arguments[len(places) :]]
    if not places or any(len(setting) != 2 for setting in settings):
        raise UsageError(f"a recipe and then --name=value,value are needed, as in {EXAMPLE}")
    if all(Path(place).is_dir() for place in places):
        comparisons = {place: open_comparison(Path(place)) for place in places}
        rows = between_folders(comparisons)
        return report(rows, Path(places[-1]))
    if len(places) > 1:
        raise UsageError(f"one recipe, or the folders of earlier comparisons, not {places}")
    settings = dict(settings)
    if "seed" in settings:
        raise UsageError("the seeds are 1, 2, 3 and so on: give --seeds, and not --seed")
    count = settings.pop("seeds", str(SEEDS))
    if not count.isdigit() or count == "0":
        raise UsageError(f"--seeds must be a whole number from 1 on, not {count!r}")
    folder = Path(settings.pop("out_dir", f"out/compare/{Path(places[0]).stem}"))
    variants = find_variants(places[0], settings)
    claim(folder, variants, int(count))
    problems = train_all(folder, variants, int(count))
    variants = {name: words for name, words in variants.items() if name not in problems}
    if not list(folder.glob("*/*/log.csv")):  # nothing was trained: the folder is free again
        (folder / "compare.json").unlink()
    if not variants:
        raise UserError(next(iter(problems.values())))
    settings = {name: settings_of(words) for name, words in variants.items()}
    results = measure(folder, settings, int(count))
    first = next(iter(results))
    report([(name, result, results[first]) for name, result in results.items()], folder)
    for name, problem in problems.items():
        show(f"{name} is left out: {problem}")


def find_variants(recipe, settings):
    """Return {variant: the words of its command line}, for all combinations of the values.
    settings: {name: values with commas between them}. UsageError if a value is wrong."""
    values = {name: text.split(",") for name, text in settings.items()}
    several = [name for name, texts in values.items() if len(texts) > 1]
    variants = {}
    for chosen in itertools.product(*values.values()):
        pairs = dict(zip(values, chosen, strict=True))
        name = " ".join(f"{name}={pairs[name]}" for name in several) or "recipe"
        variants[name] = [recipe, *(f"--{name}={value}" for name, value in pairs.items())]
        settings_of(variants[name])
    return variants


# --- A comparison's folder --------------------------------------------------------------------


def claim(folder, variants, count):
    """Note in a comparison's folder what is compared there, and refuse to mix it with other code or
    with other settings of a variant of the same name."""
    code = {name: fingerprint(name) for name in ("model", "networks", "train")}
    path = folder / "compare.json"
    known = read_json(path) if path.exists() else {"code": code, "variants": {}}
    settings = {name: settings_of(words) for name, words in variants.items()}
    same = {name: known["variants"].get(name, given) for name, given in settings.items()}
    if known["code"] != code or same != settings:
        what = "settings" if known["code"] == code else "code"
        raise UserError(f"{folder} holds a comparison of other {what}: choose another --out_dir")
    folder.mkdir(parents=True, exist_ok=True)
    known |= {"variants": {**known["variants"], **settings}, "seeds": count}
    with replacing(path) as file:
        file.write(json.dumps(known, indent=1).encode())


def read_json(path):
    """What claim() wrote."""
    with reading(path, "python -m study compare RECIPE --out_dir=out/NAME"):
        known = json.loads(path.read_text(encoding="utf-8"))
        return known | {"code": known["code"], "variants": dict(known["variants"])}


def open_comparison(folder):
    """Return the variants and the number of seeds of an earlier comparison."""
    known = read_json(folder / "compare.json")
    return known["variants"], known["seeds"]


def between_folders(comparisons):
    """The rows of a report on folders with the same variants: each is compared with the one of the
    same name in the first folder."""
    (base, (variants, count)), *_ = comparisons.items()
    if any(other != (variants, count) for other in comparisons.values()):
        raise UserError("the folders compare different settings: " + ", ".join(comparisons))
    reference = measure(Path(base), variants, count)
    rows = []
    for folder in comparisons:
        for name, result in measure(Path(folder), variants, count).items():
            if name in reference:
                rows.append((f"{folder}: {name}", result, reference[name]))
    if not rows:
        raise UserError("there is no variant that has ended in each of them")
    return rows


# --- Training and measuring -------------------------------------------------------------------


def train_all(folder, variants, count):
    """Train each variant with each seed, in processes of one thread each: on two cores, two runs
    side by side take less time than one after the other. Returns {variant: why one of its runs
    failed}; the others are trained all the same."""
    jobs, problems = [], {}
    for seed, (name, words) in itertools.product(range(1, count + 1), variants.items()):
        run = folder / name / f"seed{seed}"
        settings = settings_of(words)
        if not finished(run, settings):
            # A run that starts from a checkpoint begins again: auto would take its place.
            scratch = settings.get("init_from", "scratch") == "scratch"
            how = "--init_from=auto" if scratch else "--overwrite"
            jobs.append((name, [*words, f"--seed={seed}", f"--out_dir={run}", how]))
    workers = 1 if torch.cuda.is_available() else os.cpu_count()
    started, executor = time.monotonic(), ThreadPoolExecutor(workers)
    try:
        futures = {executor.submit(train_one, words): name for name, words in jobs}
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                future.result()
            except UserError as error:
                problems[futures[future]] = error
            left = (time.monotonic() - started) / done * (len(jobs) - done)
            show(
                f"{done} of {len(jobs)} runs | {timedelta(seconds=round(left))} left", passing=True
            )
    finally:
        executor.shutdown(cancel_futures=True)
    return problems


def finished(run, settings):
    """Whether a run has come to its last step."""
    steps = settings.get("max_iters", train.Config.max_iters)
    return (run / "log.csv").exists() and read_log(run)["step"][-1] >= steps


def settings_of(words):
    """The settings of a command line with a recipe."""
    return read_settings(words, train.Config, "-m study compare")[0]


def train_one(words):
    """Run train.py with one thread. UserError has the last line that it printed, if it failed."""
    program = Path(train.__file__)
    ended = subprocess.run(
        [sys.executable, program, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if ended.returncode:
        last = f"status {ended.returncode}\n{ended.stdout}".strip().split("\n")[-1]
        raise UserError(f"train.py {' '.join(words)}: {last}")


def measure(folder, variants, count):
    """Return {variant: (lowest validation loss with each seed, parameters, seconds of a run)}."""
    results = {}
    for name, settings in variants.items():
        runs = [folder / name / f"seed{seed}" for seed in range(1, count + 1)]
        if not all(finished(run, settings) for run in runs):
            show(f"{folder}: {name} is left out: not all of its runs have ended")
            continue
        logs = [read_log(run) for run in runs]
        network, _ = load(find_checkpoint(runs[0]))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        seconds = statistics.mean(log["seconds"][-1] for log in logs)
        results[name] = [min(log["val_loss"]) for log in logs], parameters, seconds
    return results


# --- Statistics and the report ----------------------------------------------------------------


def mean_and_error(values):
    """The mean, and its standard error: how far it may be off by luck (nan for a single value)."""
    if len(values) == 1:
        return values[0], math.nan
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def with_error(values, sign):
    """The mean ± its standard error, as text. sign: "+" to show that of a positive mean too."""
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}")


def verdict(differences):
    """What the differences to the first variant say, in words.

    The same seed has the same batches in both variants, so much of the noise cancels out in their
    difference: the paired t-test.
    """
    if not any(differences):
        return ""  # it is the first
    if len(differences) < FEWEST:
        return f"too few seeds for a verdict: {FEWEST} at least"
    mean, error = mean_and_error(differences)
    critical = [value for count, value in CRITICAL.items() if count <= len(differences)][-1]
    if abs(mean) > critical * error:
        if abs(mean) < MATTERS:
            return f"no difference that matters: below {MATTERS}"
        return "better" if mean < 0 else "worse"
    # With so many seeds, a difference of SEEN is seen in four of five comparisons: the mean must
    # be 1.96 + 0.84 standard errors from 0, and two more seeds make up for Student's table.
    needed = math.ceil((2.8 * statistics.stdev(differences) / SEEN) ** 2) + 2
    return f"no difference seen; to see {SEEN}, about {max(needed, FEWEST)} seeds are needed"


def report(rows, folder):
    """Print the comparison as a table, and write it as .md, .csv and .png into its folder.
    rows: (name, result, the result that it is compared with)."""
    seeds = len(rows[0][1][0])
    about = "the lowest validation loss of each run: mean ± standard error; paired differences"
    show(f"{seeds} seed{'s' if seeds > 1 else ''}; {about}")
    lines = [
        "| variant | parameters | seconds | validation loss | difference | |",
        "|---" * 6 + "|",
    ]
    for name, (losses, parameters, seconds), (reference, *_) in rows:
        differences = [a - b for a, b in zip(losses, reference, strict=True)]
        cells = [name, f"{parameters:,}", f"{seconds:.0f}", with_error(losses, "")]
        cells += [with_error(differences, "+") if any(differences) else "", verdict(differences)]
        lines.append(f"| {' | '.join(cells)} |")
    show("\n".join(lines))
    with replacing(folder / "compare.md") as file:
        file.write("\n".join([*lines, ""]).encode())
    with open(folder / "compare.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "parameters", "seconds", "seed", "val_loss"])
        for name, (losses, parameters, seconds), _ in rows:
            for seed, loss in enumerate(losses, start=1):
                writer.writerow([name, parameters, f"{seconds:.1f}", seed, loss])
    if matplotlib_installed():
        with optional("the plot"):
            save(folder / "compare.png", compare_figure, rows)


def compare_figure(rows):
    """The losses of all variants, a dot for each seed: over the number of parameters if it differs,
    else side by side."""
    figure = new_figure(8, 4.5, "Lowest validation loss of each variant")
    axes = figure.subplots()
    sizes = [parameters for _, (_, parameters, _), _ in rows]
    by_size = len(set(sizes)) == len(sizes) > 1
    for i, (name, (losses, parameters, _), _) in enumerate(rows):
        place, color = parameters if by_size else i, COLORS[i % len(COLORS)]
        axes.plot([place] * len(losses), losses, "o", color=color, alpha=0.6, label=name)
        axes.plot(place, statistics.mean(losses), "_", color=color, markersize=24)
    if by_size:
        axes.set(xscale="log", xlabel="parameters")
        axes.legend()
    else:
        axes.set_xticks(range(len(rows)), [name for name, *_ in rows], rotation=20)
    axes.set_ylabel("loss (nats per character)")
    axes.grid(axis="y")
    return figure
