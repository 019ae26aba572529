"""A run's log: log.csv, with one row for each evaluation, its plot loss.png, and what a run prints
about its progress."""

import csv
import io
import time
from datetime import timedelta
from pathlib import Path

from quill.figures import COLORS, matplotlib_installed, new_figure, optional, save_figure
from quill.files import reading, replacing
from quill.terminal import RANK, quoted, show

COLUMNS = ["step", "tokens", "seconds", "learning_rate", "train_loss", "val_loss"]


class Progress:
    """The lines about a run's progress: its speed since the line before, and the time left."""

    def __init__(self, step, steps, tokens_per_step):
        self.steps, self.tokens_per_step = steps, tokens_per_step
        self.restart(step)

    def restart(self, step):
        """Measure from now on."""
        self.step, self.time = step, time.perf_counter()

    def show(self, step, loss, lr):
        """Print the line of a step."""
        seconds = (time.perf_counter() - self.time) / (step - self.step)  # for one step
        left = timedelta(seconds=round(min(1e9, (self.steps - step) * seconds)))
        speed = f"{self.tokens_per_step / seconds:,.0f} tokens/s | {left} left"
        line = f"step {step}/{self.steps} | loss {loss:.4f} | lr {lr:.1e} | {speed}"
        show(line, passing=True)
        self.restart(step)


def print_end(state, folder, signal):
    """Print how a run has ended, and what can be done next. state: a train.State."""
    if signal:
        command = f"python train.py --init_from=resume --out_dir={quoted(folder)}"
        show(f"stopped after step {state.step}, and saved; to go on:  {command}")
        return
    show(f"done: {state.step} steps in {timedelta(seconds=round(state.seconds))}")
    show(f"best validation loss: {state.best_val_loss:.4f}, in {folder}/ckpt.pt")
    lowest, last = min(state.log, key=lambda row: row[-1]), state.log[-1]
    if last[-1] - lowest[-1] >= 0.01:
        why = "overfitting" if last[-2] < lowest[-2] else "the training loss has risen too"
        show(f"it was at step {lowest[0]}; since then {last[-1] - lowest[-1]:.2f} worse: {why}")
        show(f"the last weights are in {folder}/last.pt (sample.py --checkpoint)")
    show(f"to generate text:  python sample.py --out_dir={quoted(folder)}")


def write(folder, state):
    """Write log.csv and loss.png of a train.State. Only the first process of several writes."""
    if RANK > 0:
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *state.log])
    with optional("the log"), replacing(Path(folder) / "log.csv") as file:
        file.write(text.getvalue().encode())
    if state.step > 0 and matplotlib_installed():  # before the first step, there is no curve
        with optional("the plot of the losses"):
            plot_loss(folder, state.log, state.losses)


def read_log(folder):
    """The log of a run as {column: list of numbers}, with at least one row. folder: the run's, or a
    checkpoint in it."""
    path = (Path(folder).parent if Path(folder).is_file() else Path(folder)) / "log.csv"
    with reading(path, maker="train.py"), open(path, encoding="utf-8", newline="") as file:
        rows = [[float(row[name]) for name in COLUMNS] for row in csv.DictReader(file)]
        return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def plot_loss(folder, rows, batches=()):
    """Plot both losses over the steps, and the learning rate below them, as loss.png. batches:
    [step, loss of its batch] pairs, for a thin line."""
    save_figure(Path(folder) / "loss.png", loss_figure, rows, batches)


def loss_figure(rows, batches):
    """The figure of plot_loss()."""
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
    return figure
