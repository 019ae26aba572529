"""Every plot. This is the only file that uses matplotlib; all others run without it.

    python plots.py attention --start "ROMEO:"         where each head of each layer looks
    python plots.py embeddings                         the characters, near those they resemble
    python plots.py temperature --start "To be, or "   how temperature changes the next character
    python plots.py runs out/a out/b                   the losses of several runs, to compare them

writes a PNG: about the newest run under out/ or about --out_dir, into its folder; about several
runs, into the current folder. train.py plots a run's losses, loss.png, at each evaluation.
"""

from quill.checkpoint import find_checkpoint, load_checkpoint, network_from
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

MOST_CHARACTERS = 40  # in a plot of attention: more could not be read
MOST_HEADS = 64  # in a plot of attention: each takes a fifth of a second
LIKELIEST = 12  # characters in a plot of temperatures
# Okabe and Ito's colors, for the color-blind; markers and dashes, for prints in gray.
COLORS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "0.5"]
MARKERS = ["o", "^", "s", "x", "D", "v", "P", "*"]
DASHES = ["-", "--", "-.", ":"] * 2


def available():
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def empty_figure(width, height):
    """A matplotlib Figure of that many inches."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # a $ is a character like any other
    matplotlib.rcParams["axes.spines.top"] = matplotlib.rcParams["axes.spines.right"] = False
    matplotlib.rcParams["legend.frameon"] = False
    # The class itself, not pyplot, which would look for a window system and keep every figure.
    return Figure(figsize=(width, height), layout="constrained")


def visible(character):
    """A character as a label: a sign for a space or a line end, an escape for other controls."""
    signs = {" ": "␣", "\n": "↵"}
    return signs.get(character, character if character.isprintable() else ascii(character)[1:-1])


# --- Losses -----------------------------------------------------------------------------------


def loss_figure(columns, rows, resumes=()):
    """Both losses over the steps, the gap between them shaded, and the learning rate below.

    rows: rows of log.csv, at least one, in the order of `columns`. resumes: steps of resumes.
    """
    table = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    steps, train_loss, val_loss = table["step"], table["train_loss"], table["val_loss"]
    best = min(range(len(rows)), key=val_loss.__getitem__)
    figure = empty_figure(7, 5)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    losses.plot(steps, train_loss, color="0.4", linestyle="--", marker=".", label="training")
    losses.plot(steps, val_loss, color=COLORS[2], marker=".", label="validation")
    losses.fill_between(steps, train_loss, val_loss, color="0.88", label="the gap between them")
    label = f"best: {val_loss[best]:.4f} at step {steps[best]}"
    losses.plot(steps[best], val_loss[best], "o", mfc="none", mec="k", ms=11, label=label)
    rates.plot(steps, table["learning_rate"], color="0.3", marker=".")
    for number, step in enumerate(resumes):
        label = None if number else "resumed"  # once is enough
        losses.axvline(step, color="0.3", linewidth=0.9, linestyle=":", label=label)
        rates.axvline(step, color="0.3", linewidth=0.9, linestyle=":")
    losses.grid(axis="y", color="0.92")
    losses.set_ylabel("loss (nats per character)")
    losses.legend()
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    rates.set_xlabel("step")
    rates.locator_params(axis="x", integer=True)
    return figure


def draw_loss(columns, rows, file, resumes=()):
    """Write loss_figure() as a PNG into an open file."""
    loss_figure(columns, rows, resumes).savefig(file, format="png", dpi=120)


def draw_rates(rates, losses, proposal, file):
    """Plot loss over learning rate (two lists), with the proposed rate, as a PNG into a file."""
    figure = empty_figure(7, 4)
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLORS[2])
    axes.axvline(proposal, color="0.3", linestyle="--", label=f"proposal: {proposal:.1e}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (nats per character, smoothed)")
    axes.grid(color="0.92")
    axes.legend()
    figure.savefig(file, format="png", dpi=100)


def read_log(folder):
    """Four columns of a run's log.csv as {name: list of numbers}. Raises UserError."""
    path = Path(folder) / "log.csv"
    columns = {"step": [], "seconds": [], "train_loss": [], "val_loss": []}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for name, column in columns.items():
                    column.append(float(row[name]))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if not columns["step"]:
        raise UserError(f"{path} holds no evaluation")
    return columns


def runs_figure(logs):
    """The losses of several runs over steps and over seconds. logs: {name: read_log(name)}."""
    figure = empty_figure(10, 5)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, unit in zip(panels, ("step", "seconds"), strict=True):
        for i, (name, log) in enumerate(logs.items()):
            look = {"color": COLORS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
            label = f"{name}: {min(log['val_loss']):.4f}"
            axes.plot(log[unit], log["val_loss"], markersize=4, label=label, **look)
            axes.plot(log[unit], log["train_loss"], markersize=2, linewidth=0.6, **look)
        axes.grid(axis="y", color="0.92")
        axes.set_xlabel(unit)
    panels[0].set_ylabel("loss (nats per character)")
    title = "validation (training: thin), and its lowest loss"
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=2)
    return figure


# --- What a network has learned ---------------------------------------------------------------


@torch.no_grad()
def attention_weights(network, idx):
    """The attention weights of each head of each layer: (n_layer, n_head, T, T).

    Row t belongs to the character that looks, column s to the one looked at; a row sums to 1.
    idx: (1, T). network: a GPT in eval mode with attention "written_out", since the fused kernel
    does not keep the weights.
    """
    layers = []

    def keep(module, inputs, output):
        layers.append(inputs[0][0])  # (1, n_head, T, T) -> (n_head, T, T)

    dropouts = [block.attention.attention_dropout for block in network.blocks]
    hooks = [dropout.register_forward_hook(keep) for dropout in dropouts]
    network(idx)
    for hook in hooks:
        hook.remove()
    return torch.stack(layers)


def attention_figure(weights, prompt):
    """A heat map per head: a row per layer. weights: (n_layer, n_head, T, T)."""
    from matplotlib.colors import PowerNorm

    n_layer, n_head, T, _ = weights.shape
    inches = max(1.5, 0.115 * T)  # of a heat map: a cell is as high as its label
    figure = empty_figure(n_head * (inches + 0.25) + 1, n_layer * (inches + 0.45) + 0.5)
    panels = figure.subplots(n_layer, n_head, squeeze=False)
    shade = PowerNorm(0.5, 0, 1)  # the square root: else small weights could not be seen
    labels = [visible(character) for character in prompt]
    for layer, head in np.ndindex(n_layer, n_head):
        axes = panels[layer, head]
        image = axes.imshow(weights[layer, head].numpy(), cmap="Greys", norm=shade)
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
        axes.set_xticks(range(T), labels, fontsize=7)
        axes.set_yticks(range(T), labels, fontsize=7)
        axes.tick_params(length=0, pad=2)
        axes.label_outer()
    figure.supylabel("the character that looks", fontsize=9)
    figure.supxlabel("what it looks at", fontsize=9)
    figure.colorbar(image, ax=panels, label="weight", shrink=0.5)
    return figure


KINDS = ["vowels", "consonants", "capitals", "punctuation, digits, others"]


def kind_of(character):
    """The one of KINDS that a character belongs to, whatever its accents."""
    plain = unicodedata.normalize("NFD", character)[0]
    if plain in "aeiou":
        return "vowels"
    if plain.islower():
        return "consonants"
    return "capitals" if plain.isupper() else KINDS[-1]


def principal_components(vectors):
    """The rows of vectors (V, C) in the plane in which they differ most; V and C at least 2.

    Returns their positions (V, 2), and the fraction of the variance along each axis (2,).
    Source: Pearson 1901, https://doi.org/10.1080/14786440109462720.
    """
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * sizes[:2], sizes[:2] ** 2 / (sizes**2).sum()


def embeddings_figure(vectors, vocab):
    """The characters of vocab at the positions that principal_components() gives their vectors."""
    positions, fractions = principal_components(vectors)
    figure = empty_figure(9, 8)
    axes = figure.subplots()
    for kind, marker, color in zip(KINDS, MARKERS, COLORS, strict=False):
        members = [i for i, character in enumerate(vocab) if kind_of(character) == kind]
        axes.scatter(*positions[members].T, marker=marker, color=color, s=20, label=kind)
    for i, character in enumerate(vocab):
        steps = positions[i] - np.delete(positions, i, axis=0)  # (V - 1, 2): from all others
        away = (steps / (1e-9 + np.linalg.norm(steps, axis=1, keepdims=True) ** 3)).sum(axis=0)
        offset = 9 * away / (1e-9 + np.linalg.norm(away))  # where there is most room for a label
        spot = {"xytext": offset, "textcoords": "offset points", "ha": "center", "va": "center"}
        axes.annotate(visible(character), positions[i], **spot)
    axes.set_aspect("equal", adjustable="datalim")  # what looks near is near
    axes.set_xlabel(f"first principal component ({fractions[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({fractions[1]:.0%})")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def entropy(probabilities):
    """The entropy in bits: log2(n) for n equal probabilities. (..., V) -> (...)."""
    return torch.special.entr(probabilities).sum(-1) / math.log(2)


def temperature_figure(logits, vocab, prompt, temperatures):
    """The probabilities of the next character at each temperature. logits: (1, V)."""
    likeliest = logits[0].topk(min(LIKELIEST, len(vocab))).indices  # (<= LIKELIEST,)
    labels = [visible(vocab[i]) for i in likeliest] + ["all others"]
    figure = empty_figure(max(5, 2 * len(temperatures)), 4)
    panels = figure.subplots(1, len(temperatures), sharex=True, sharey=True, squeeze=False)[0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        probabilities = next_probabilities(logits, temperature)[0]  # (V,)
        lengths = probabilities[likeliest].tolist()
        lengths.append(max(0.0, 1 - sum(lengths)))
        bars = axes.barh(range(len(labels)), lengths, color=["0.35"] * len(likeliest) + ["0.75"])
        percent = [f"{length:.0%}" if length >= 0.005 else "" for length in lengths]
        axes.bar_label(bars, percent, padding=2, fontsize=8)
        bits = entropy(probabilities).item()
        axes.set_title(f"temperature {temperature:g}\n{bits:.2f} bits", fontsize=10)
        axes.set_xlim(0, 1.2)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    figure.suptitle(f"what follows {prompt[-50:]!r}", fontsize=11)
    figure.supxlabel("probability", fontsize=10)
    return figure


# --- The command line -------------------------------------------------------------------------


def read_options(arguments):
    """The command line as a namespace; raises UserError where a value makes no sense."""
    parser = Parser(prog="plots.py", description="Plot what a network has learned, and how.")
    plots = parser.add_subparsers(dest="plot", metavar="PLOT", required=True)
    attention = plots.add_parser("attention", help="where each head of each layer looks")
    embeddings = plots.add_parser("embeddings", help="the characters, near those they resemble")
    temperature = plots.add_parser("temperature", help="what it does to the next character")
    runs = plots.add_parser("runs", help="several runs' losses, to compare settings")
    runs.add_argument("folders", nargs="+", metavar="RUN", help="a run's folder, as out/NAME")
    for one in (attention, embeddings, temperature):
        one.add_argument("--out_dir", help="the run (default: the newest under out/)")
        one.add_argument("--checkpoint", help="the file itself (default: ckpt.pt of that run)")
    for one in (attention, temperature):
        one.add_argument("--start", required=True, help="the prompt, or FILE:path")
    usual = {"default": "0.2,0.5,0.8,1,1.5", "help": "such as %(default)s"}
    temperature.add_argument("--temperatures", type=temperatures, **usual)
    for name, one in plots.choices.items():
        one.set_defaults(plot=name)
        place = "current" if one is runs else "run's"
        one.add_argument("--output", help=f"the PNG (default: {name}.png in the {place} folder)")

    # Once more with the plot's own parser, which can suggest an option for a misspelled one.
    plot = parser.parse_known_args(arguments)[0].plot
    options = plots.choices[plot].parse_args(arguments[1:])
    if plot == "runs" and len(options.folders) > len(COLORS):
        raise UserError(f"{len(options.folders)} runs are too many: {len(COLORS)} look different")
    return options


def figure_of_network(options, checkpoint):
    """The figure of a checkpoint that the command line asks for; raises UserError."""
    network = network_from(checkpoint, attention="written_out").eval()
    tokenizer, config = Tokenizer(checkpoint["vocab"]), network.config
    if options.plot == "embeddings":
        if config.network == "bigram":
            raise UserError("a bigram network has no embeddings, only a table of pairs")
        if min(config.vocab_size, config.n_embd) < 2:
            raise UserError("a plane needs at least 2 characters and an n_embd of at least 2")
        return embeddings_figure(network.token_embedding.weight.detach().numpy(), tokenizer.vocab)

    prompt, idx = read_prompt(options.start, tokenizer)
    if options.plot == "temperature":
        with torch.no_grad():
            logits, _ = network(idx[:, -config.block_size :])  # (1, T) -> (1, T, V)
        return temperature_figure(logits[:, -1], tokenizer.vocab, prompt, options.temperatures)
    if config.network != "gpt":
        raise UserError(f"only a gpt has attention weights, and this network is {config.network}")
    if len(prompt) > min(config.block_size, MOST_CHARACTERS):
        raise UserError(
            f"--start: {len(prompt)} characters are too many: the network reads "
            f"{config.block_size} at once, and labels of more than {MOST_CHARACTERS} would overlap"
        )
    heads = config.n_layer * config.n_head
    if heads > MOST_HEADS:
        raise UserError(f"{heads} attention heads, too many for one plot: {MOST_HEADS} is the most")
    return attention_figure(attention_weights(network, idx), prompt)


def main(arguments):
    options = read_options(arguments)
    if not available():
        raise UserError("matplotlib is missing: pip install matplotlib")
    if options.plot == "runs":
        folder = Path()
        figure = runs_figure({name: read_log(name) for name in options.folders})
    else:
        path = find_checkpoint(options)
        folder = path.parent
        figure = figure_of_network(options, load_checkpoint(path))
    output = Path(options.output or folder / f"{options.plot}.png")
    with replacing(output) as file:
        figure.savefig(file, format="png", dpi=100)
    print(output)


if __name__ == "__main__":
    run_main(main)
