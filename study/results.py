"""The losses of several checkpoints, measured here: which one is the best?"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import train
from quill import hardware
from quill.checkpoint import check_same_data, find_checkpoint, network_of, read_checkpoint
from quill.dataset import open_dataset
from quill.settings import read_options
from quill.terminal import UsageError, UserError


@dataclass(frozen=True)
class ResultsOptions:
    dataset: str = "shakespeare_char"  # folder under data/: what the losses are measured on
    device: str = "auto"  # auto (the fastest there is), cpu, cuda, cuda:1, mps


def results(arguments):
    """Measure the losses of several checkpoints: python -m study results out/a out/b/last.pt.

    A loss is measured on the validation split that is prepared here, whatever the checkpoint says.
    "With context" leaves out the predictions from less than half a block of context.
    """
    paths = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    program = "-m study results out/a out/b/last.pt"
    options = read_options(arguments[len(paths) :], ResultsOptions, program)
    if not paths:
        raise UsageError(f"name folders of runs or checkpoints, as in python {program}")
    data = open_dataset(options.dataset, hardware.pick_device(options.device))
    rows, problems = [], []
    for path in map(Path, paths):
        path = find_checkpoint(path)
        try:
            checkpoint = read_checkpoint(path)
            check_same_data(checkpoint, data.meta, resume=False)
            rows.append([*measure(checkpoint, data.val), path.as_posix()])
        except UserError as error:
            problems.append(f"{path.as_posix()}: {error}")
    print("loss    with context   parameters   seconds   steps   checkpoint")
    for loss, context, parameters, seconds, step, name in sorted(rows, key=worst_last):
        print(f"{loss:.4f}{context:11.4f}{parameters:16,}{seconds:10.0f}{step:8,}   {name}")
    for problem in problems:
        print(problem)


def worst_last(row):
    """The key that sorts by loss: weights that are nan come last."""
    return math.isnan(row[0]), row[0]


def measure(checkpoint, tokens):
    """Return a checkpoint's validation loss, the same with context, its parameters, seconds of
    training, and step. The losses are in nats per character."""
    network = network_of(checkpoint)
    dtype = hardware.pick_dtype(checkpoint["config"]["dtype"], tokens.device)
    hardware.for_training(network, tokens.device, dtype)
    size, half = checkpoint["config"]["block_size"], checkpoint["config"]["block_size"] // 2
    loss = train.estimate_loss(network, tokens.in_order(size))
    context = train.estimate_loss(network, tokens.in_order(size, overlap=half), skipped=half)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return loss, context, parameters, checkpoint["state"]["seconds"], checkpoint["state"]["step"]
