"""What more context gives: the losses of several runs by how many characters they have read."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from quill.dataset import open_dataset
from quill.figures import new_figure
from study.counting import LONGEST, count_dataset
from study.folders import FolderOptions, network_for, of_each, read_folders
from study.plots import look_of, save


@dataclass(frozen=True)
class ContextOptions(FolderOptions):
    output: str = "context.png"  # the PNG


def context(arguments):
    """Show the loss by characters of context: python -m study context out/a out/b.

    In a window of the validation split, each prediction uses all earlier characters of the window.
    Counted n-grams use the number of them that gives the lowest loss.
    """
    folders, options = read_folders(arguments, ContextOptions, "context")
    data = open_dataset(options.dataset)
    losses = of_each(folders, by_context, data)
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


@torch.no_grad()
def by_context(folder, data):
    """A list of losses: entry t is the mean loss of the predictions from t + 1 characters. A window
    begins after each quarter of one, so each position has many predictions."""
    network = network_for(folder, data)
    size, losses = network.config.block_size, []
    for windows in data.val.in_order(size, overlap=size * 3 // 4):  # (B, T + 1)
        if windows.shape[1] > size:  # the last one may be shorter
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


def context_figure(losses):
    """The losses over the characters of context. losses: {name: what in_bands() returns}."""
    figure = new_figure(9, 5.5, "Validation loss by characters of context")
    axes = figure.subplots()
    for i, (name, row) in enumerate(losses.items()):
        axes.plot(list(row), list(row.values()), lw=2, label=name, **look_of(i))
    axes.set(xlabel="characters of context", ylabel="loss (nats per character)")
    axes.grid(axis="y")
    axes.legend()
    return figure
