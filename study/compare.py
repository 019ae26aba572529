"""Did a change help? Train variants of a run with the same seeds, and compare their losses."""

import inspect
import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch

import train
from quill.checkpoint import ARCHITECTURE, PER_CALL, STARTS, fingerprint, read_checkpoint
from quill.log import read_log
from quill.settings import read_settings
from quill.terminal import UsageError, UserError, show
from study.folders import of_each, split_arguments

EXAMPLE = "python -m study compare config/shakespeare_fast.py --n_layer=1,2,3"
SEEDS = 5  # fewer would not show a difference of one standard deviation
FEWEST = 4  # seeds for a verdict: with three, a mean must be over four standard errors from 0
SEEN = 0.01  # nats: the difference for which a verdict says how many seeds would show it
MATTERS = 0.001  # nats: a smaller one is not worth a change, however certain it is
# {number of seeds: how many standard errors from 0 a mean difference must be}. Luck alone exceeds
# this in one comparison of twenty (Student's t, two-sided: https://doi.org/10.1093/biomet/6.1.1).
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
    again, so after Ctrl-C, the same command continues.
    """
    if {"-h", "--help"} & set(arguments):
        return print(inspect.getdoc(compare) or EXAMPLE)  # python -OO
    places, rest = split_arguments(arguments)
    settings = [word[2:].split("=", 1) for word in rest]
    if not places or any(len(setting) != 2 for setting in settings):
        raise UsageError(f"a recipe and then --name=value,value are needed, as in {EXAMPLE}")
    if all(Path(place).is_dir() for place in places):
        return report(between_folders(places))
    if len(places) > 1:
        raise UsageError(f"one recipe, or the folders of earlier comparisons, not {places}")
    settings = dict(settings)
    if "seed" in settings:
        raise UsageError("the seeds are 1, 2, 3 and so on: give --seeds, and not --seed")
    count = settings.pop("seeds", str(SEEDS))
    if not count.isdecimal() or count == "0":
        raise UsageError(f"--seeds must be a whole number from 1 on, not {count!r}")
    folder = Path(settings.pop("out_dir", f"out/compare/{Path(places[0]).stem}"))
    variants = find_variants(places[0], settings)
    train_all(folder, variants, int(count))
    results = of_each([folder / name for name in variants], measure, int(count))
    first = next(iter(results.values()))
    report([(path.name, result, first) for path, result in results.items()])


def between_folders(places):
    """The rows of a report on the folders of earlier comparisons: a variant is compared with the
    one of the same name in the first folder that has it."""
    variants = [run.parent for place in places for run in sorted(Path(place).glob("*/seed1"))]
    if not variants:
        raise UserError(f"no comparison in {', '.join(places)}; {EXAMPLE} makes one")
    rows, reference = [], {}
    for path, result in of_each(variants, measure).items():
        first = reference.setdefault(path.name, result)
        rows.append((f"{path.parent}: {path.name}", result, first))
    return rows


def find_variants(recipe, settings):
    """Return {variant: the words of its command line}, for all combinations of the values.
    settings: {name: values with commas between them}. UsageError if a value is wrong."""
    values = {name: text.split(",") for name, text in settings.items()}
    several = [name for name, texts in values.items() if len(texts) > 1]
    variants = {}
    for chosen in itertools.product(*values.values()):
        pairs = dict(zip(values, chosen, strict=True))
        name = " ".join(f"{name}={pairs[name]}" for name in several) or "recipe"
        name = name.replace("/", "-")  # a checkpoint's path: a variant is one folder
        variants[name] = [recipe, *(f"--{name}={value}" for name, value in pairs.items())]
        config_of(variants[name])
    return variants


def config_of(words):
    """The settings of a command line with a recipe."""
    return train.Config(**read_settings(words, train.Config, "-m study compare")[0])


# --- Training and measuring -------------------------------------------------------------------


def train_all(folder, variants, count):
    """Train each variant with each seed, in processes of one thread each: on two cores, two runs
    side by side take less time than one after the other. A run that fails stops no other."""
    jobs = []
    for seed, (name, words) in itertools.product(range(1, count + 1), variants.items()):
        run = folder / name / f"seed{seed}"
        words = [*words, f"--seed={seed}", f"--out_dir={run}"]
        config = config_of(words)
        if not is_trained(run, config):
            # A run that starts from a checkpoint begins again: auto would take its place.
            how = "--init_from=auto" if config.init_from == "scratch" else "--overwrite"
            jobs.append([*words, how])
    if len(jobs) < count * len(variants):
        show(f"trained before: {count * len(variants) - len(jobs)} of {count * len(variants)} runs")
    workers = 1 if torch.cuda.is_available() else os.cpu_count()
    started, executor = time.monotonic(), ThreadPoolExecutor(workers)
    try:
        futures = [executor.submit(train_one, words) for words in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                future.result()
            except UserError as error:
                show(f"note: {error}")
            left = round((time.monotonic() - started) / done * (len(jobs) - done))
            show(f"{done} of {len(jobs)} runs | {timedelta(seconds=left)} left", passing=True)
    finally:
        executor.shutdown(cancel_futures=True)


def is_trained(run, config):
    """Whether a run has come to its last step. UserError if what its folder holds is another run:
    one with other settings, or of another version of the network."""
    if not (run / "ckpt.pt").exists():
        return False
    checkpoint = read_checkpoint(run / "ckpt.pt")
    free = PER_CALL if config.init_from in STARTS else PER_CALL | ARCHITECTURE  # its checkpoint's
    for name in asdict(config).keys() - free:
        if checkpoint["config"].get(name) != getattr(config, name):
            raise UserError(f"{run} was trained with another {name}: choose another --out_dir")
    if checkpoint["code"] not in (fingerprint("model"), fingerprint("networks")):
        raise UserError(f"{run} was trained before the code changed: choose another --out_dir")
    return read_log(run)["step"][-1] >= config.max_iters


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


def measure(variant, count=0):
    """Return the lowest validation loss with each seed, the parameters, and the seconds of a run.
    count: of seeds; 0: all that are there."""
    count = count or len(list(variant.glob("seed*")))
    runs = [variant / f"seed{seed}" for seed in range(1, count + 1)]
    logs = [read_log(run) for run in runs]
    checkpoint = read_checkpoint(runs[0] / "ckpt.pt")
    if min(log["step"][-1] for log in logs) < checkpoint["config"]["max_iters"]:
        raise UserError("not all of its runs have ended")
    # By address: token_embedding and lm_head may be one tensor.
    weights = {tensor.data_ptr(): tensor for tensor in checkpoint["weights"].values()}
    parameters = sum(tensor.numel() for tensor in weights.values())
    seconds = statistics.mean(log["seconds"][-1] for log in logs)
    return [min(log["val_loss"]) for log in logs], parameters, seconds


# --- Statistics and the report ----------------------------------------------------------------


def standard_error(values):
    """How far the mean of several values may be off by luck."""
    return statistics.stdev(values) / math.sqrt(len(values))


def with_error(values, sign=""):
    """The mean ± its standard error, as text. sign: "+" to show that of a positive mean too."""
    mean = f"{statistics.mean(values):{sign}.4f}"
    return mean if len(values) == 1 else f"{mean} ± {standard_error(values):.4f}"


def verdict(differences):
    """What the differences to the first variant say, in words.

    The same seed has the same batches in both variants, so much of the noise cancels out in their
    difference: the paired t-test.
    """
    if len(differences) < FEWEST:
        return f"too few seeds for a verdict: {FEWEST} at least"
    mean, error = statistics.mean(differences), standard_error(differences)
    critical = [value for count, value in CRITICAL.items() if count <= len(differences)][-1]
    if abs(mean) > critical * error:
        if abs(mean) < MATTERS:
            return f"no difference that matters: below {MATTERS}"
        return "better" if mean < 0 else "worse"
    # With so many seeds, a difference of SEEN is seen in four of five comparisons: the mean must
    # be 1.96 + 0.84 standard errors from 0, and two more seeds make up for Student's table.
    needed = math.ceil((2.8 * statistics.stdev(differences) / SEEN) ** 2) + 2
    return f"no difference seen; to see {SEEN}, about {max(needed, FEWEST)} seeds are needed"


def report(rows):
    """Print a comparison as a table. rows: (name, result, the result that it is compared with)."""
    seeds = len(rows[0][1][0])
    about = "the lowest validation loss of each run: mean ± standard error; paired differences"
    show(f"{seeds} seed{'s' if seeds > 1 else ''}; {about}")
    show("| variant | parameters | seconds | validation loss | difference | |")
    show("|---" * 6 + "|")
    for name, (losses, parameters, seconds), (reference, *_) in rows:
        cells = [name, f"{parameters:,}", f"{seconds:.0f}", with_error(losses), "", ""]
        differences = [a - b for a, b in zip(losses, reference, strict=False)]
        if any(differences):
            cells[4:] = with_error(differences, "+"), verdict(differences)
        show(f"| {' | '.join(cells)} |")
