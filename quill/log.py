"""A run's log: log.csv, with one row for each evaluation, and loss.png, its plot."""

import contextlib
import csv
import importlib.util
import io
import logging
import os
import warnings
from pathlib import Path

from quill.files import reading, replacing
from quill.terminal import show

COLUMNS = ["step", "tokens", "seconds", "learning_rate", "train_loss", "val_loss"]
# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "0.5"]


def write_log(folder, rows):
    """Write all of log.csv. rows: lists of numbers in the order of COLUMNS, the losses in nats."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    with replacing(Path(folder) / "log.csv") as file:
        file.write(text.getvalue().encode())


def read_log(folder):
    """The log of a run's folder as {column: list of numbers}, with at least one row."""
    path = Path(folder) / "log.csv"
    with reading(path, maker="train.py"), open(path, encoding="utf-8", newline="") as file:
        rows = [[float(row[name]) for name in COLUMNS] for row in csv.DictReader(file)]
        return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def matplotlib_installed():
    """Whether plots can be made; everything else works without it."""
    return importlib.util.find_spec("matplotlib") is not None


@contextlib.contextmanager
def optional():
    """Go on if a log or a plot cannot be written, with a line that says why: no run ends for it."""
    try:
        yield
    except Exception as error:  # of matplotlib, or of the file system
        reason = str(error).split("\n")[0][:120]
        show(f"note: the log or its plot could not be written: {reason}")


def plain_matplotlib():
    """Import matplotlib, without the user's settings of it, and without its warnings."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of a folder that is read-only, say
    warnings.filterwarnings("ignore", "Glyph")  # of a character that no font has
    if "module:" not in os.environ.get("MPLBACKEND", ""):  # which a notebook needs afterwards
        os.environ["MPLBACKEND"] = "agg"  # another may not exist
    import matplotlib

    matplotlib.rcdefaults()
    return matplotlib


def new_figure(width, height, title, fonts=()):
    """An empty matplotlib Figure of that many inches. fonts: for what the usual one lacks."""
    matplotlib = plain_matplotlib()
    from matplotlib.figure import Figure

    look = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    look |= {"font.size": 12, "axes.titlesize": 11, "figure.titlesize": 14, "grid.color": "0.92"}
    look["font.family"] = ["DejaVu Sans", *fonts]
    matplotlib.rcParams.update(look | {"text.parse_math": False})  # show a $ as it is
    # The class itself, not pyplot, which would look for a window system and keep every figure.
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def plot_loss(folder, rows, batches=()):
    """Plot both losses over the steps, and the learning rate below them, as loss.png, if matplotlib
    is installed. batches: [step, loss of its batch] pairs, for a thin line."""
    if not matplotlib_installed():
        return
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    steps, train_loss, val_loss = columns["step"], columns["train_loss"], columns["val_loss"]
    best = val_loss.index(min(val_loss))
    figure = new_figure(8, 5.5, "Training and validation loss")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    if batches:
        losses.plot(*zip(*batches, strict=True), color="0.7", linewidth=0.8, label="one batch")
    losses.plot(steps, train_loss, "o--", color="0.4", markersize=5, label="training")
    losses.plot(steps, val_loss, "o-", color=COLORS[2], markersize=5, label="validation")
    label = f"best: {val_loss[best]:.4f} at step {steps[best]}"
    losses.plot(steps[best], val_loss[best], "o", mfc="none", mec="k", ms=11, label=label)
    losses.set_ylabel("loss (nats per character)")
    losses.grid(axis="y")
    losses.legend()
    rates.plot(steps, columns["learning_rate"], "o-", color="0.3", markersize=5)
    rates.set(xlabel="step", ylabel="rate", xlim=(0, None), ylim=(0, None))
    rates.locator_params(axis="x", integer=True)
    with replacing(Path(folder) / "loss.png") as file:
        figure.savefig(file, format="png", dpi=100)
