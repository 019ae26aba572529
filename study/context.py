"""What more context gives: the losses of several runs by how many characters they have read."""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from quill.checkpoint import check_same_data, find_checkpoint, network_of, read_checkpoint
from quill.dataset import open_dataset
from quill.figures import COLORS, new_figure
from quill.settings import read_options
from quill.terminal import UsageError
from study.counting import LONGEST, count_dataset
from study.plots import MARKERS, of_each, save


@dataclass(frozen=True)
class ContextOptions:
    dataset: str = "shakespeare_char"  # folder under data/: what the losses are measured on
    output: str = "context.png"  # the PNG


def open_runs(arguments, options_class, study):
    """Return the options, {folder: its network} and the dataset for a command line that begins with
    the folders of runs."""
    folders = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    program, rest = f"-m study {study} out/a", arguments[len(folders) :]
    options = read_options(rest, options_class, program)
    if not 1 <= len(folders) < len(COLORS):
        raise UsageError(f"1 to {len(COLORS) - 1} folders are needed, as in python {program}")
    data = open_dataset(options.dataset)

    def read(folder):
        checkpoint = read_checkpoint(find_checkpoint(folder))
        check_same_data(checkpoint, data.meta, resume=False)
        return network_of(checkpoint)

    return options, of_each(folders, read), data


def context(arguments):
    """Show the loss by characters of context: python -m study context out/a out/b.

    A prediction in a window of the validation split is from all characters of the window before it.
    Counted n-grams use as many of these as does them good.
    """
    options, networks, data = open_runs(arguments, ContextOptions, "context")
    losses = {name: by_context(network, data.val) for name, network in networks.items()}
    model, validation = count_dataset(data)
    counted = [model.loss(validation, n) for n in range(2, LONGEST + 1)]
    longest = max(map(len, losses.values()))
    losses["counting"] = [min(counted[: t + 1]) for t in range(longest)]
    losses = {name: in_bands(row) for name, row in losses.items()}
    bands = losses["counting"]
    print("".join(f"{band:>8}" for band in bands) + "   characters of context")
    for name, row in losses.items():
        print("".join(f"{row[band]:8.3f}" if band in row else 8 * " " for band in bands), "", name)
    save(options.output, context_figure, losses)


def context_figure(losses):
    """The losses over the characters of context. losses: {name: what in_bands() returns}."""
    figure = new_figure(9, 5.5, "Validation loss by characters of context")
    axes = figure.subplots()
    for (name, row), color, marker in zip(losses.items(), COLORS, MARKERS, strict=False):
        axes.plot(list(row), list(row.values()), f"{marker}-", color=color, lw=2, label=name)
    axes.set(xlabel="characters of context", ylabel="loss (nats per character)")
    axes.grid(axis="y")
    axes.legend()
    return figure


@torch.no_grad()
def by_context(network, tokens):
    """A list of losses: entry t is the mean loss of the predictions from t + 1 characters. A window
    begins after each quarter of one, so each position has many predictions."""
    size, losses = network.config.block_size, []
    for windows in tokens.in_order(size, overlap=size * 3 // 4):  # (B, T + 1)
        if windows.shape[1] > size or not losses:  # the last one may be shorter
            logits = network(windows[:, :-1])[0].transpose(1, 2)  # (B, T, V) -> (B, V, T)
            losses.append(F.cross_entropy(logits, windows[:, 1:], reduction="none"))  # (B, T)
    return torch.cat(losses).mean(dim=0).tolist()


def in_bands(losses):
    """Return {"1": the loss from 1 character, "2": from 2, "3-4": the mean of both, "5-8": ...}."""
    means, start = {}, 0
    while start < len(losses):
        end = 2 * start or 1
        band = losses[start:end]
        means[f"{start + 1}-{end}" if end > start + 1 else f"{end}"] = sum(band) / len(band)
        start = end
    return means
