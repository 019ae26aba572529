"""Checks before a run: what it will cost, whether it can learn, and which learning rate to take.

They take a recipe and settings as train.py does, and save no checkpoint.
"""

import math
import statistics
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

import train
from model import GPT
from quill import hardware
from quill.figures import COLORS, matplotlib_installed, new_figure, optional
from quill.settings import read_settings
from quill.terminal import UserError, show
from study.plots import save


def set_up(arguments, study):
    """What train.set_up() returns for the recipe and the settings of a command line."""
    given, recipe = read_settings(arguments, train.Config, f"-m study {study}", train.NANOGPTS)
    return train.set_up({"out_dir": f"out/{recipe or 'run'}", **given})


# --- dry_run: what will it cost? --------------------------------------------------------------


def dry_run(arguments):
    """Print where the parameters are, and how long a step and the whole run take."""
    network, optimizer, data, config, _ = set_up(arguments, "dry_run")
    counts = parameters_by_part(network)
    total = sum(counts.values())
    for part, count in counts.items():
        print(f"{part:<28}{count:>12,}  {count / total:6.1%}")
    tied = ", of which lm_head uses token_embedding's" if isinstance(network, GPT) else ""
    print(f"{'parameters':<28}{total:>12,}{tied}")

    windows = train.get_batch(data.train, config, 0)
    flops, tokens = flops_per_token(network, windows[:1]), train.tokens_per_step(config)
    forward = hardware.compiled(network, windows, config)
    seconds = []
    while len(seconds) < 5 or (sum(seconds) < 2 and len(seconds) < 50):
        start = time.perf_counter()
        windows = train.get_batch(data.train, config, len(seconds))
        train.train_step(forward, optimizer, windows, config, len(seconds)).item()  # a GPU too
        seconds.append(time.perf_counter() - start)
    step_time = statistics.median(seconds)
    start = time.perf_counter()
    train.estimate_loss(network, data.val.in_order(config.block_size))
    evaluation = time.perf_counter() - start
    evaluations = 1 + math.ceil(config.max_iters / config.eval_interval)
    whole = timedelta(seconds=round(config.max_iters * step_time + evaluations * evaluation))

    speed = f"{tokens / step_time:,.0f} tokens/s, {flops * tokens / step_time / 1e9:,.0f} GFLOP/s"
    print(f"{'FLOPs per token, to train':<28}{flops:>12,}")
    print(f"{'tokens per step':<28}{tokens:>12,}")
    print(f"{'a step':<28}{step_time * 1e3:>12,.1f} ms: {speed}")
    parts = f"{config.max_iters} steps, {evaluations} evaluations"
    print(f"{'the whole run':<28}{whole!s:>12}  ({parts})")


def parameters_by_part(network):
    """Return {part of the network: its parameters}, in reading order, summed over the blocks."""
    counts = {}
    for name, parameter in network.named_parameters():
        words = name.split(".")
        part = f"blocks: {words[2]}" if words[0] == "blocks" else words[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def flops_per_token(network, windows):
    """How many additions and multiplications it takes to train on one token, as PyTorch counts
    them: those of matrix products, forward and backward. windows: (B, T + 1)."""
    with FlopCounterMode(display=False) as counter:
        network(windows[:, :-1], windows[:, 1:])[1].backward()
    return counter.get_total_flops() // windows[:, 1:].numel()


# --- overfit_batch: can it learn at all? ------------------------------------------------------

OVERFIT_STEPS = 300
MEMORIZED = 0.1  # nats: a probability of 90 % for the right character
# A network that never looks at its input can still learn how frequent each character is. On Tiny
# Shakespeare, that takes a fifth off the loss (4.17 to 3.3). A table of pairs takes off almost a
# half on one batch, and can do no better.
LEARNED = 2 / 3  # of the first loss


def overfit_batch(arguments):
    """Train on a single batch again and again: a network that works memorizes it."""
    network, optimizer, data, config, _ = set_up(arguments, "overfit_batch")
    windows = train.get_batch(data.train, config, 0)
    optimizer.set_lr(1.0)
    network.eval()  # no dropout: here, overfitting is the aim
    losses = []
    for step in range(OVERFIT_STEPS + 1):
        losses.append(train.train_step(network, optimizer, windows, config, step).item())
        if step % 50 == 0:
            show(f"step {step}: loss {losses[-1]:.4f}")
        if losses[-1] < MEMORIZED:
            break
    change = f"from {losses[0]:.4f} to {losses[-1]:.4f} in {step} steps on a single batch"
    # In this form, nan is an error too. A text of one character needs no learning.
    if not losses[-1] < max(MEMORIZED, LEARNED * losses[0]):
        raise UserError(
            f"the loss went {change}, which is not enough: try another learning_rate (find_lr "
            "proposes one) or a larger network; otherwise, look for a bug"
        )
    show(f"it can learn: the loss fell {change}")


# --- find_lr: which learning rate? ------------------------------------------------------------

LOWEST_RATE, HIGHEST_RATE = 1e-5, 1.0
RATE_STEPS = 300
SMOOTHING = 0.9  # batches differ, so the loss is averaged over about ten of them


def find_lr(arguments):
    """Raise the learning rate until the loss blows up, and propose a rate.

    Source: Smith 2015, https://arxiv.org/abs/1506.01186.
    """
    network, optimizer, data, config, _ = set_up(arguments, "find_lr")
    rates, losses, average = [], [], 0.0
    for step, rate in enumerate(np.geomspace(LOWEST_RATE, HIGHEST_RATE, RATE_STEPS)):
        optimizer.set_lr(rate / config.learning_rate)
        windows = train.get_batch(data.train, config, step)
        loss = train.train_step(network, optimizer, windows, config, step).item()
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth = average / (1 - SMOOTHING ** (step + 1))  # since the average started at 0
        if not smooth < min(losses, default=math.inf) + 1:  # it has blown up, perhaps to nan
            break
        rates.append(rate)
        losses.append(smooth)
        if step % 10 == 0:
            show(f"rate {rate:.1e} | loss {smooth:.4f}", passing=True)
    if not rates:
        raise UserError("the loss of the first step is not a finite number: look for a bug")
    lowest = rates[losses.index(min(losses))]
    proposal = lowest / 3  # a whole run needs a lower rate than a single step
    show(f"the loss is lowest at a rate of {lowest:.1e}")
    muon = proposal / config.learning_rate * config.muon_learning_rate
    also = f" --muon_learning_rate={muon:.1e}" if config.optimizer == "muon" else ""
    show(f"proposal: --learning_rate={proposal:.1e} --min_lr={proposal / 10:.1e}{also}")
    if matplotlib_installed():
        with optional("the plot"):
            save(Path(config.out_dir) / "find_lr.png", rates_figure, rates, losses, proposal)


def rates_figure(rates, losses, proposal):
    """The loss over the learning rate (two lists), with its lowest point and the proposed rate."""
    figure = new_figure(8, 4.5, "The loss while the learning rate rises")
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLORS[2])
    loss, rate = min(zip(losses, rates, strict=True))
    axes.plot(rate, loss, "o", color=COLORS[1], markersize=9, label=f"lowest at {rate:.1e}")
    axes.axvline(proposal, color="0.3", ls="--", label=f"a third of that: {proposal:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats per character)")
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.legend()
    return figure
