"""What a class has sent in: the losses of checkpoints, measured here."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import train
from prepare_shakespeare import open_dataset
from quill import hardware
from quill.checkpoint import check_same_data, network_of, read_checkpoint
from quill.settings import read_settings
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
    options = ResultsOptions(**read_settings(ResultsOptions, arguments[len(paths) :], program))
    if not paths:
        raise UsageError(f"name folders of runs or checkpoints, as in python {program}")
    meta, splits = open_dataset(options.dataset)
    device = hardware.pick_device(options.device)
    tokens = train.Tokens(splits["val"], device)
    rows, problems = [], []
    for path in map(Path, paths):
        path = path / "ckpt.pt" if path.is_dir() else path
        try:
            checkpoint = read_checkpoint(path)
            check_same_data(checkpoint, meta, resume=False)
            rows.append([*measure(checkpoint, tokens, device), path.as_posix()])
        except UserError as error:
            problems.append(f"{path.as_posix()}: {error}")
    print("loss    with context   parameters   seconds   steps   checkpoint")
    for loss, context, parameters, seconds, step, name in sorted(rows):
        print(f"{loss:.4f}{context:11.4f}{parameters:16,}{seconds:10.0f}{step:8,}   {name}")
    for problem in problems:
        print(problem)


def measure(checkpoint, tokens, device):
    """(validation loss, the same with context, parameters, seconds of training, step) of a
    checkpoint. The losses are in nats per character."""
    network = network_of(checkpoint).to(device)
    network.dtype = hardware.pick_dtype(checkpoint["config"]["dtype"], device)
    size, half = checkpoint["config"]["block_size"], checkpoint["config"]["block_size"] // 2
    loss = train.estimate_loss(network, tokens.in_order(size))
    context = train.estimate_loss(network, tokens.in_order(size, overlap=half), skipped=half)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return loss, context, parameters, checkpoint["state"]["seconds"], checkpoint["state"]["step"]
