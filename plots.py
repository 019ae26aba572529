"""Every plot. This is the only file that uses matplotlib; all others run without it.

    python plots.py attention --start "ROMEO:"         where two heads look; --all: where all do
    python plots.py embeddings                         the characters, near those they resemble
    python plots.py temperature --start "To be, or "   the next character, and ways to draw it
    python plots.py runs out/a out/b                   the losses of several runs, to compare them

writes a PNG into the run's folder (the newest under out/, or --out_dir); `runs`, into the current
one. train.py plots a run's losses, loss.png, once it has two evaluations.
"""

from quill.checkpoint import find_checkpoint, load_checkpoint, network_from
from quill.inside import attention_weights
from quill.terminal import Parser, UserError, replacing, run_main

import csv
import importlib.util
import math
import unicodedata
from pathlib import Path

import numpy as np
import torch

from model import next_probabilities
from prepare_shakespeare import Tokenizer
from sample import read_prompt, temperatures

PLOTS = ["attention", "embeddings", "temperature", "runs"]
MOST_CHARACTERS = 40  # in a plot of attention: more could not be read
MOST_HEADS = 64  # in a plot of attention: each takes a fifth of a second
MOST_LISTED = 70  # characters whose neighbors are listed beside a plot of embeddings
LIKELIEST = 10  # characters in a plot of temperatures
CUTS = [{"top_k": 3}, {"top_p": 0.9}]  # what a plot of temperatures shows beside them
# Okabe and Ito's colors, for the color-blind; markers and dashes, for prints in gray.
COLORS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "0.5"]
MARKERS = ["o", "^", "s", "x", "D", "v", "P", "*"]
DASHES = ["-", "--", "-.", ":"] * 2


def available():
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def empty_figure(width, height, title):
    """A matplotlib Figure of that many inches."""
    import matplotlib
    from matplotlib.figure import Figure

    look = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    look |= {"font.size": 12, "axes.titlesize": 11, "figure.titlesize": 14, "grid.color": "0.92"}
    matplotlib.rcParams.update(look | {"text.parse_math": False})  # a $ is a character like others
    # The class itself, not pyplot, which would look for a window system and keep every figure.
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def visible(character):
    """A character as a label: a sign for a space or a line end, an escape for other controls."""
    signs = {" ": "␣", "\n": "↵"}
    return signs.get(character, character if character.isprintable() else ascii(character)[1:-1])


# --- Losses -----------------------------------------------------------------------------------


def draw_curve(axes, xs, ys, **look):
    """Plot a loss over steps or seconds. A single evaluation is a level across the plot."""
    axes.plot(xs, ys, **look)
    if len(xs) == 1:
        axes.axhline(ys[0], color=look["color"], linestyle=look["linestyle"], linewidth=0.8)


def draw_loss(columns, rows, file, resumes=()):
    """Plot both losses over the steps, and the learning rate below, as a PNG into an open file.
    rows: rows of log.csv, at least one, in the order of `columns`. resumes: steps of resumes."""
    table = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    steps, train_loss, val_loss = table["step"], table["train_loss"], table["val_loss"]
    figure = empty_figure(8, 5.5, "Training and validation loss")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    look = {"marker": "o", "markersize": 5}
    draw_curve(losses, steps, train_loss, color="0.4", linestyle="--", label="training", **look)
    draw_curve(losses, steps, val_loss, color=COLORS[2], linestyle="-", label="validation", **look)
    losses.fill_between(steps, train_loss, val_loss, color="0.88", label="the gap between them")
    best = min(range(len(rows)), key=val_loss.__getitem__)
    label = f"best: {val_loss[best]:.4f} at step {steps[best]}"
    losses.plot(steps[best], val_loss[best], "o", mfc="none", mec="k", ms=11, label=label)
    rates.plot(steps, table["learning_rate"], color="0.3", **look)
    for number, step in enumerate(resumes):
        for axes in (losses, rates):
            label = None if number else "resumed"  # once is enough
            axes.axvline(step, color="0.3", linewidth=1, linestyle=":", label=label)
    losses.set_ylabel("loss (nats per character)")
    losses.grid(axis="y")
    losses.legend()
    rates.set(xlabel="step", ylabel="rate", xlim=(0, None), ylim=(0, None))
    rates.locator_params(axis="x", integer=True)
    figure.savefig(file, format="png", dpi=100)


def draw_rates(rates, losses, proposal, file):
    """Plot loss over learning rate (two lists), with the proposed rate, as a PNG into a file."""
    figure = empty_figure(8, 4.5, "The loss while the learning rate rises")
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLORS[2])
    loss, rate = min(zip(losses, rates, strict=True))
    axes.plot(rate, loss, "o", color=COLORS[1], markersize=9, label=f"lowest at {rate:.1e}")
    axes.axvline(proposal, color="0.3", ls="--", label=f"a third of that: {proposal:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats per character)")
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.legend()
    figure.savefig(file, format="png", dpi=100)


def read_log(folder):
    """Four columns of a run's log.csv as {name: list of numbers}. Raises UserError."""
    path = Path(folder) / "log.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = ("step", "seconds", "train_loss", "val_loss")
        columns = {name: [float(row[name]) for row in rows] for name in names}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if not rows:
        raise UserError(f"{path} holds no evaluation")
    return columns


def runs_figure(logs):
    """The losses of several runs over steps and over seconds. logs: {name: read_log(name)}."""
    figure = empty_figure(10, 6, "Validation loss (thick) and training loss (thin)")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, unit in zip(panels, ("step", "seconds"), strict=True):
        for i, (name, log) in enumerate(logs.items()):
            look = {"color": COLORS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
            label = f"{name}: {min(log['val_loss']):.4f}"
            draw_curve(axes, log[unit], log["val_loss"], lw=2, ms=7, label=label, **look)
            axes.plot(log[unit], log["train_loss"], linewidth=1, markersize=3, **look)
        axes.grid(axis="y")
        axes.set(xlabel=unit, xlim=(0, None))
    panels[0].set_ylabel("loss (nats per character)")
    title = "a run, and its lowest validation loss"
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, title=title, loc="outside lower center", ncols=2)
    return figure


# --- What a network has learned ---------------------------------------------------------------


def telling_heads(weights):
    """Two heads as (layer, head), from 0: the one whose last character gives most weight to the
    character before it, and the one whose last character looks furthest back on average."""
    n_layer, n_head, T, _ = weights.shape
    last = weights[:, :, -1]  # (n_layer, n_head, T)
    distances = torch.arange(T - 1, -1, -1.0)  # (T,), in characters
    before, furthest = last[:, :, max(0, T - 2)].argmax(), (last @ distances).argmax()
    return [divmod(int(head), n_head) for head in (before, furthest)]


def attention_figure(weights, prompt, heads):
    """A heat map for each (layer, head) of `heads`, whose last row is marked: it belongs to the
    character that predicts the next one. weights: (n_layer, n_head, T, T)."""
    from matplotlib.colors import PowerNorm

    T, columns = len(prompt), min(len(heads), weights.shape[1])
    rows = len(heads) // columns
    inches = max(8 / columns, 0.15 * T)  # of a heat map: a cell is as high as its label
    size = columns * (inches + 0.3) + 1, rows * (inches + 0.7) + 1
    figure = empty_figure(*size, "Attention weights: where each character looks")
    shade = PowerNorm(0.5, 0, 1)  # the square root: else small weights could not be seen
    labels = [visible(character) for character in prompt]
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (layer, head) in zip(panels.flat, heads, strict=True):
        image = axes.imshow(weights[layer, head].numpy(), cmap="Greys", norm=shade)
        most = labels[int(weights[layer, head, -1].argmax())]
        title = f"layer {layer + 1}, head {head + 1}:\nthe last {labels[-1]} looks most at {most}"
        axes.axhspan(T - 1.5, T - 0.5, fill=False, edgecolor=COLORS[1], linewidth=2.5)
        axes.set_title(title)
        axes.set(xticks=range(T), yticks=range(T), xticklabels=labels, yticklabels=labels)
        axes.tick_params(length=0, pad=2, labelsize=10)
    figure.supylabel("the character that looks")
    figure.supxlabel("the character that it looks at")
    figure.colorbar(image, ax=panels, label="weight", shrink=0.6)
    return figure


KINDS = ["vowels", "consonants", "capitals", "punctuation, digits, others"]


def kind_of(character):
    """The one of KINDS that a character belongs to, whatever its accents."""
    plain = unicodedata.normalize("NFD", character)[0]
    if plain.islower():
        return "vowels" if plain in "aeiou" else "consonants"
    return "capitals" if plain.isupper() else KINDS[-1]


def principal_components(vectors):
    """The rows of vectors (V, C) in the plane in which they differ most; V and C at least 2. Gives
    their positions (V, 2), and the fraction of the variance along each axis (2,).
    Source: Pearson 1901, https://doi.org/10.1080/14786440109462720."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * sizes[:2], sizes[:2] ** 2 / (sizes**2).sum()


def spread(positions, room):
    """Move positions (V, 2) away from each other until hardly two are nearer than `room`."""
    positions = positions + np.random.default_rng(0).normal(0, room / 1000, positions.shape)
    for _ in range(300):
        steps = positions[:, None] - positions  # (V, V, 2), from each to each
        distances = np.maximum(np.linalg.norm(steps, axis=2, keepdims=True), room / 100)
        push = steps * np.maximum(0, room / distances - 1) / 2
        positions = positions + push.sum(axis=1)
    return positions


def embeddings_figure(vectors, vocab):
    """The characters of vocab as principal_components() places them, and the nearest of each.
    Every vector is divided by its length first: rare characters have long ones."""
    vectors = vectors / (1e-9 + np.linalg.norm(vectors, axis=1, keepdims=True))
    positions, fractions = principal_components(vectors)
    figure = empty_figure(10, 7.5, "The characters, near those with similar embeddings")
    axes, beside = figure.subplots(1, 2, width_ratios=[5, 2])
    places = spread(positions, 0.035 * np.ptp(positions, axis=0).max())
    labels = [visible(character) for character in vocab]
    for kind, color in zip(KINDS, COLORS, strict=False):
        members = [i for i, character in enumerate(vocab) if kind_of(character) == kind]
        axes.scatter(*places[members].T, color=color, s=0, label=kind)  # only to set the limits
        for i in members:
            axes.text(*places[i], labels[i], color=color, size=14, ha="center", va="center")
    axes.set_aspect("equal", adjustable="datalim")  # what looks near is near
    axes.set_xlabel(f"first principal component ({fractions[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({fractions[1]:.0%})")
    axes.legend(labelcolor="markerfacecolor", handlelength=0)
    similar = vectors @ vectors.T - 3 * np.eye(len(vocab))  # (V, V): cosines; itself comes last
    nearest = np.argsort(-similar, axis=1)[:MOST_LISTED, :4]
    lines = [f"{labels[i]}  {' '.join(labels[j] for j in row)}" for i, row in enumerate(nearest)]
    half = math.ceil(len(lines) / 2)
    for column, part in enumerate((lines[:half], lines[half:])):
        beside.text(column / 2, 1, "\n".join(part), size=10, family="monospace", va="top")
    beside.set_title("each character and\nthe nearest four")
    beside.set_axis_off()
    return figure


def temperature_figure(logits, vocab, prompt, settings):
    """The probabilities of the next character in several settings. logits: (1, V). settings: dicts
    of keyword arguments of next_probabilities()."""
    likeliest = logits[0].topk(min(LIKELIEST, len(vocab))).indices  # (<= LIKELIEST,)
    labels = [*(visible(vocab[i]) for i in likeliest), "all others"]
    width, title = max(5, 2 * len(settings)), f"The next character after {prompt[-50:]!r}"
    figure = empty_figure(width, 4.5, title)
    panels = figure.subplots(1, len(settings), sharex=True, sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, settings, strict=True):
        probabilities = next_probabilities(logits, **setting)[0]  # (V,)
        lengths = probabilities[likeliest].tolist()
        lengths.append(max(0.0, 1 - sum(lengths)))
        bars = axes.barh(range(len(labels)), lengths, color=["0.35"] * len(likeliest) + ["0.75"])
        percent = [f"{length:.0%}" if length >= 0.005 else "" for length in lengths]
        axes.bar_label(bars, percent, padding=2, fontsize=10)
        [(name, value)] = setting.items()
        bits = torch.special.entr(probabilities).sum().item() / math.log(2)
        axes.set_title(f"{name} {value:g}\n{bits:.2f} bits")
        axes.set_xlim(0, 1.3)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    figure.supxlabel("probability", fontsize=12)
    return figure


# --- The command line -------------------------------------------------------------------------


def read_options(arguments):
    """The command line as a namespace; raises UserError where a value makes no sense."""
    usage, description = "python plots.py PLOT [options]", f"PLOT is one of {', '.join(PLOTS)}."
    parser = Parser(prog="plots.py", usage=usage, description=description)
    add = parser.add_argument
    add("plot", metavar="PLOT", choices=PLOTS)
    add("folders", nargs="*", metavar="RUN", help="for runs: their folders, such as out/NAME")
    add("--out_dir", help="the run that a plot is about (default: the newest under out/)")
    add("--checkpoint", help="the file itself (default: ckpt.pt of that run)")
    add("--start", help="the prompt, or FILE:path: for attention and temperature")
    add("--all", action="store_true", help="for attention: every head of every layer")
    add("--temperatures", type=temperatures, default="0.5,1,1.5", help="such as %(default)s")
    add("--output", help="the PNG (default: the plot's name, in the run's folder)")
    options = parser.parse_args(arguments)
    if options.plot in ("attention", "temperature") and options.start is None:
        parser.error(f"{options.plot} needs a prompt, as in --start ROMEO:")
    if (options.plot == "runs") != bool(options.folders):
        parser.error("runs needs folders of runs (RUN); for the other plots, use --out_dir")
    if len(options.folders) > len(COLORS):
        raise UserError(f"{len(options.folders)} runs are too many: {len(COLORS)} look different")
    return options


def figure_of_network(options, checkpoint):
    """The figure of a checkpoint that the command line asks for; raises UserError."""
    network = network_from(checkpoint, attention="written_out").eval()
    vocab, config = checkpoint["vocab"], network.config
    if options.plot == "embeddings":
        if config.network == "bigram":
            raise UserError("a bigram network has no embeddings, only a table of pairs")
        if min(config.vocab_size, config.n_embd) < 2:
            raise UserError("a plane needs at least 2 characters and an n_embd of at least 2")
        return embeddings_figure(network.token_embedding.weight.detach().numpy(), vocab)

    prompt, idx = read_prompt(options.start, Tokenizer(vocab))
    if options.plot == "temperature":
        with torch.no_grad():
            logits, _ = network(idx[:, -config.block_size :])  # (1, T) -> (1, T, V)
        settings = [{"temperature": number} for number in options.temperatures] + CUTS
        return temperature_figure(logits[:, -1], vocab, prompt, settings)
    if config.network != "gpt":
        raise UserError(f"only a gpt has attention weights, and this network is {config.network}")
    most = min(config.block_size, MOST_CHARACTERS)
    if len(prompt) > most:
        raise UserError(f"--start: {len(prompt)} characters are too many: {most} is the most")
    weights = attention_weights(network, idx)
    heads = list(np.ndindex(*weights.shape[:2])) if options.all else telling_heads(weights)
    if len(heads) > MOST_HEADS:
        raise UserError(f"{len(heads)} heads are too many for one plot: {MOST_HEADS} is the most")
    return attention_figure(weights, prompt, heads)


def main(arguments):
    options = read_options(arguments)
    if not available():
        raise UserError("matplotlib is missing: pip install matplotlib")
    folder = Path()
    if options.plot == "runs":
        figure = runs_figure({name: read_log(name) for name in options.folders})
    else:
        path = find_checkpoint(options)
        folder, figure = path.parent, figure_of_network(options, load_checkpoint(path))
    output = Path(options.output or folder / f"{options.plot}.png")
    with replacing(output) as file:
        figure.savefig(file, format="png", dpi=100)
    print(output)


if __name__ == "__main__":
    run_main(main)
