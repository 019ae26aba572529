"""Plots of what a network has learned, and of the losses of several runs."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from model import GPT, next_probabilities
from quill import figures
from quill.checkpoint import check_same_data, find_checkpoint, network_of, read_checkpoint
from quill.dataset import open_dataset
from quill.figures import COLORS, new_figure
from quill.log import read_log
from quill.settings import read_options
from quill.terminal import UsageError, UserError
from sample import read_prompt
from study.characters import KINDS, kind_of, principal_components, spread
from study.folders import of_each, read_folders
from study.inside import attention_weights, name_of, telling_heads
from tokenizer import Tokenizer

MOST_CHARACTERS = 40  # in a plot of attention: more would be too small to read
MEAN_OF = 250  # pieces of the validation split: the heads to show are chosen by a mean over them
MOST_LISTED = 70  # characters in the list beside the embeddings: more would not fit
MOST_LIKELY = 10  # characters in a plot of temperatures
CUTS = [{"top_k": 3}, {"top_p": 0.9}]  # shown beside the temperatures
# For scripts that matplotlib's own font lacks: of Windows, macOS and Linux. Others show as boxes.
FONTS = ["Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI", "Leelawadee UI", "Ebrima"]
FONTS += ["Arial Unicode MS", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Thai"]
MARKERS = ["o", "^", "s", "x", "D", "v", "P"]  # of runs, in case the colors are not seen


@dataclass(frozen=True)
class PlotOptions:
    out_dir: str = ""  # the run, or one of its checkpoints; empty: the newest one under out/
    output: str = ""  # the PNG; empty: the plot's name, in the run's folder


def prepare(options_class, arguments, study):
    """Return the options, the path of the PNG, the checkpoint, its network and its tokenizer."""
    options = read_options(arguments, options_class, f"-m study {study}")
    path = find_checkpoint(options.out_dir)
    checkpoint, output = read_checkpoint(path), options.output or path.parent / f"{study}.png"
    network, tokenizer = network_of(checkpoint), Tokenizer(checkpoint["meta"]["vocab"])
    return options, output, checkpoint, network, tokenizer


def save(path, draw, *arguments):
    """Write the figure that draw(*arguments) returns as a PNG, and print where."""
    figures.save_figure(path, draw, *arguments)
    print(path)


def visible(character):
    """A character as a label: a symbol for a space or a newline, an escape for other controls."""
    symbols = {" ": "␣", "\n": "↵"}
    return symbols.get(character, character if character.isprintable() else ascii(character)[1:-1])


@dataclass(frozen=True)
class AttentionOptions(PlotOptions):
    start: str = "ROMEO:"  # the text in which the heads look around, or FILE:path
    all: bool = False  # every head of every layer, instead of two


def attention(arguments):
    """Plot where two heads look, or all of them."""
    options, path, checkpoint, network, tokenizer = prepare(
        AttentionOptions, arguments, "attention"
    )
    if not isinstance(network, GPT):
        raise UserError(f"a {type(network).__name__} has no attention weights: only a GPT has")
    text, idx = read_prompt(options.start, tokenizer)
    most = min(MOST_CHARACTERS, network.config.block_size)
    if len(text) > most:
        raise UsageError(f"--start has {len(text)} characters, and {most} is the most")
    weights = attention_weights(network, idx)
    if options.all:
        heads = list(np.ndindex(*weights.shape[:2]))
    else:
        data = open_dataset(checkpoint["config"]["dataset"])
        check_same_data(checkpoint, data.meta, resume=False)
        size = min(max(2, len(text)), len(data.val) - 1)
        pieces = torch.cat([batch[:, 1:] for batch in data.val.spread(size, MEAN_OF)])
        heads = telling_heads(network, pieces)
    save(path, attention_figure, weights, text, heads)


def attention_figure(weights, text, heads):
    """A heat map for each (layer, head) of `heads`. The last row is marked: its character predicts
    the next one. weights: (n_layer, n_head, T, T)."""
    from matplotlib.colors import PowerNorm

    T, columns = len(text), min(len(heads), weights.shape[1])
    rows = len(heads) // columns
    inches = max(8 / columns, 0.15 * T) + 0.5  # of a heat map: its cells are as high as a label
    size = columns * inches + 1, rows * inches + 1
    figure = new_figure(*size, "Attention weights: where each character looks", FONTS)
    panels = figure.subplots(rows, columns, squeeze=False)
    shade = PowerNorm(0.5, 0, 1)  # the square root, so that small weights are visible
    labels = [visible(character) for character in text]
    for axes, (layer, head) in zip(panels.flat, heads, strict=True):
        image = axes.imshow(weights[layer, head].numpy(), cmap="Greys", norm=shade)
        axes.set_title(name_of(layer, head))
        axes.axhspan(T - 1.5, T - 0.5, fill=False, edgecolor=COLORS[1], linewidth=2.5)
        axes.set(xticks=range(T), yticks=range(T), xticklabels=labels, yticklabels=labels)
        axes.tick_params(length=0, pad=2, labelsize=10)
    figure.supylabel("the character that looks")
    figure.supxlabel("the character that it looks at")
    figure.colorbar(image, ax=panels, label="weight (on a square-root scale)", shrink=0.6)
    return figure


def embeddings(arguments):
    """Plot the most frequent characters in the plane in which their embeddings differ most."""
    _, path, checkpoint, network, tokenizer = prepare(PlotOptions, arguments, "embeddings")
    ids = sorted(tokenizer.encode(checkpoint["meta"]["most_frequent"]))
    vectors = next(network.parameters()).detach().numpy()[ids]  # (V, C); a bigram's table: (V, V)
    if min(vectors.shape) < 2:
        raise UserError("a plane needs two characters and two dimensions at least")
    save(path, embeddings_figure, vectors, tokenizer.decode(ids))


def embeddings_figure(vectors, vocab):
    """The characters where principal_components() puts them, and the four nearest to each. Vectors
    (V, C) are divided by their lengths first, because those of rare characters are long."""
    vectors = vectors / (1e-9 + np.linalg.norm(vectors, axis=1, keepdims=True))
    positions, fractions = principal_components(vectors)
    figure = new_figure(10, 7.5, "The characters, near those with similar embeddings", FONTS)
    axes, beside = figure.subplots(1, 2, width_ratios=[5, 2])
    places = spread(positions, 0.035 * np.ptp(positions, axis=0).max())
    labels = [visible(character) for character in vocab]
    for kind, color in zip(KINDS, COLORS, strict=False):
        members = [i for i, character in enumerate(vocab) if kind_of(character) == kind]
        axes.scatter(*places[members].T, color=color, s=0, label=kind)  # a text sets no limits
        for i in members:
            axes.text(*places[i], labels[i], color=color, size=14, ha="center", va="center")
    axes.set_aspect("equal", adjustable="datalim")  # so that what looks near is near
    axes.set_xlabel(f"first principal component ({fractions[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({fractions[1]:.0%})")
    axes.legend(labelcolor="markerfacecolor", handlelength=0)

    similar = vectors @ vectors.T - 3 * np.eye(len(vocab))  # (V, V): cosines; itself comes last
    nearest = np.argsort(-similar, axis=1)[:MOST_LISTED, :4]
    lines = [f"{labels[i]}  {' '.join(labels[j] for j in row)}" for i, row in enumerate(nearest)]
    half = math.ceil(len(lines) / 2)
    for x, part in ((0, lines[:half]), (0.5, lines[half:])):
        family = ["DejaVu Sans Mono", *FONTS]
        beside.text(x, 1, "\n".join(part), size=10, family=family, va="top")
    beside.set_title("each character and\nthe nearest four")
    beside.set_axis_off()
    return figure


@dataclass(frozen=True)
class TemperatureOptions(PlotOptions):
    start: str = "To be, or not to b"  # the text before the character, or FILE:path
    temperature: tuple[float, ...] = (0.5, 1.0, 1.5)  # a panel for each


def temperature(arguments):
    """Plot the probabilities of the next character at several temperatures."""
    options, path, _, network, tokenizer = prepare(TemperatureOptions, arguments, "temperature")
    text, idx = read_prompt(options.start, tokenizer)
    with torch.no_grad():
        logits, _ = network(idx[:, -network.config.block_size :])  # (1, T) -> (1, T, V)
    settings = [{"temperature": value} for value in options.temperature] + CUTS
    save(path, temperature_figure, logits[:, -1], tokenizer.vocab, text, settings)


def temperature_figure(logits, vocab, text, settings):
    """The probabilities of the next character, with a panel for each of `settings`: dicts of
    keyword arguments of next_probabilities(). logits: (1, V)."""
    order = logits[0].topk(min(MOST_LIKELY, len(vocab))).indices  # (<= MOST_LIKELY,)
    likely, text = [vocab[i] for i in order], text[-50:]
    labels = [*map(visible, likely), "all others"]
    width = max(5, 2 * len(settings))
    figure = new_figure(width, 4.5, f"The next character after {text!r}", FONTS)
    panels = figure.subplots(1, len(settings), sharex=True, sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, settings, strict=True):
        probabilities = next_probabilities(logits, **setting)[0]  # (V,)
        lengths = probabilities[order].tolist()
        lengths.append(max(0.0, 1 - sum(lengths)))
        bars = axes.barh(range(len(labels)), lengths, color=["0.35"] * len(order) + ["0.75"])
        percent = [f"{length:.0%}" if length >= 0.005 else "" for length in lengths]
        axes.bar_label(bars, percent, padding=2, fontsize=10)
        [(name, value)] = setting.items()
        name = name if name == "temperature" else f"temperature 1, {name}"
        bits = torch.special.entr(probabilities).sum().item() / math.log(2)
        axes.set_title(f"{name} {value:g}\n{bits:.2f} bits")
        axes.set_xlim(0, 1.3)  # room for the percentages
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    figure.supxlabel("probability", fontsize=12)
    return figure


@dataclass(frozen=True)
class RunsOptions:
    output: str = "runs.png"  # the PNG


def runs(arguments):
    """Plot the losses of several runs: python -m study runs out/a out/b."""
    folders, options = read_folders(arguments, RunsOptions, "runs")
    save(options.output, runs_figure, of_each(folders, read_log))


def look_of(i):
    """The color and the marker of run i, from 0. They are 8 and 7: the first 56 runs differ."""
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}


def runs_figure(logs):
    """The losses of several runs over steps and over seconds. logs: {name: read_log(folder)}."""
    figure = new_figure(10, 6, "Validation loss (thick) and training loss (thin)")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, unit in zip(panels, ("step", "seconds"), strict=True):
        for i, (name, log) in enumerate(logs.items()):
            label = f"{name}: {min(log['val_loss']):.4f}"
            axes.plot(log[unit], log["val_loss"], lw=2, ms=7, label=label, **look_of(i))
            axes.plot(log[unit], log["train_loss"], lw=1, ms=3, **look_of(i))
        axes.grid(axis="y")
        axes.set(xlabel=unit, xlim=(0, None))
    # The losses at step 0 may lie outside: they are so high that all others would look alike.
    later = [loss for log in logs.values() for loss in log["val_loss"][1:] or log["val_loss"]]
    panels[0].set(ylabel="loss (nats per character)", ylim=(None, max(later) + 0.1))
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        title="a run, and its lowest validation loss",
        loc="outside lower center",
        ncols=2,
    )
    return figure
