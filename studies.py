"""What one does by hand around a run. Each of these trains nothing that is kept.

python train.py RECIPE --dry_run        where the parameters sit, memory, time of the whole run
python train.py RECIPE --overfit_batch  learn one batch by heart: can network and loop learn?
python train.py RECIPE --find_lr        the loss over the learning rate, and a proposal
python train.py RECIPE --eval_only      the loss of each split for the run's best checkpoint
"""

import math
import resource
import statistics
import sys
import time
from datetime import timedelta

import numpy as np
import torch

import plots
from config import WORLD, UserError, replacing, show
from optimizer import set_rate
from run import (
    evaluation_pieces,
    in_words,
    mean_loss,
    tokens_a_step,
    train_step,
    training_windows,
    window_starts,
)

# ---------------------------------------------------------------------------------------------
# What will it cost?


def parameters_by_part(network):
    """{part of the network: how many parameters sit there}, blocks added up, in reading order."""
    counts = {}
    for name, parameter in network.named_parameters():
        words = name.split(".")
        part = f"blocks: {words[2]}" if words[0] == "blocks" else words[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def flops_a_token(network):
    """Additions and multiplications to train on one token.

    Two for each weight of a matrix on the way forward, four on the way back; attention multiplies
    queries with keys and shares with values besides. Looking up a row of a table costs nothing.
    Source: Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B.
    """
    config = network.config
    matrices = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    flops = 6 * sum(matrix.weight.numel() for matrix in matrices)
    if config.network == "gpt":
        flops += 12 * config.n_layer * config.n_embd * config.block_size
    return flops


def bytes_held(run):
    """Bytes of the weights, their gradients and the optimizers' memory of them, after a step."""
    tensors = []
    for parameter in run.network.parameters():
        tensors += [parameter, parameter.grad]
    for optimizer in run.optimizers:
        for state in optimizer.state.values():
            tensors += state.values()
    return sum(tensor.nbytes for tensor in tensors)


def timed(run, work):
    """How many seconds `work()` takes, a GPU's part included."""
    start = time.perf_counter()
    work()
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def dry_run(run):
    """Print where the parameters sit, and what a step and the whole run will take."""
    config = run.config
    counts = parameters_by_part(run.network)
    total = sum(counts.values())
    show("")
    for part, count in counts.items():
        show(f"{part:<28}{count:>12,}  {count / total:6.1%}")
    shared = ", of which lm_head uses token_embedding's" if config.network == "gpt" else ""
    show(f"{'parameters':<28}{total:>12,}{shared}")

    steps = [timed(run, lambda: train_step(run, run.network, training_windows(run)))]
    while len(steps) < 4 or (sum(steps) < 2 and len(steps) < 50):
        steps.append(timed(run, lambda: train_step(run, run.network, training_windows(run))))
    step = statistics.median(steps[1:])  # the first one also sets things up
    pieces = list(evaluation_pieces(run.data["val"], window_starts(run, "val"), config.block_size))
    one_piece = pieces[0][0]
    piece = min(timed(run, lambda: mean_loss(run, "val", one_piece)) for _ in range(3))
    evaluations = math.ceil(config.max_iters / config.eval_interval)
    seconds = config.max_iters * step + evaluations * len(pieces) * piece

    flops = flops_a_token(run.network)
    tokens = tokens_a_step(config)
    show(f"{'FLOPs a token, to train':<28}{flops:>12,}")
    show(f"{'tokens a step':<28}{tokens:>12,}")
    show(f"{'weights and optimizer':<28}{bytes_held(run) / 1e6:>12,.0f} MB")
    show(f"{'memory of it all, so far':<28}{peak_memory(run) / 1e6:>12,.0f} MB")
    show(
        f"{'a step':<28}{step * 1e3:>12,.1f} ms: {tokens / step:,.0f} tokens/s, "
        f"{flops * tokens / step / 1e9:,.0f} GFLOP/s"
    )
    whole = timedelta(seconds=round(seconds))
    show(
        f"{'the whole run':<28}{whole!s:>12}  ({config.max_iters} steps, {evaluations} evaluations)"
    )


def peak_memory(run):
    """The most bytes that this process (on a GPU: its part of the GPU) has held so far."""
    if run.device.type == "cuda":
        return torch.cuda.max_memory_allocated(run.device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ---------------------------------------------------------------------------------------------
# Can it learn at all?

HEART_STEPS = 300  # enough for each shipped recipe to know its batch


def overfit_batch(run):
    """Train on one batch again and again: a network and a loop that work learn it by heart.

    Raises UserError if the loss does not fall by a nat, which is all that a bigram can do: it
    cannot tell one "e" from another.
    """
    windows = training_windows(run)
    run.network.eval()  # no dropout: here, learning by heart is the aim
    losses = []
    for step in range(HEART_STEPS):
        set_rate(run.optimizers, run.config.learning_rate, run.config)
        loss, _ = train_step(run, run.network, windows)
        losses.append(loss.item())
        if step % 50 == 0:
            show(f"step {step}: loss {losses[-1]:.4f}")
    show(f"step {HEART_STEPS}: loss {losses[-1]:.4f}, on the one batch that it was trained on")
    if not losses[-1] < losses[0] - 1:
        raise UserError(
            f"one batch was not learned in {HEART_STEPS} steps: its loss went from "
            f"{losses[0]:.4f} to {losses[-1]:.4f}; try another learning_rate (--find_lr), less "
            "dropout, a larger network; or something is broken"
        )
    show("it can learn: network, loss, gradients and optimizer work together")


# ---------------------------------------------------------------------------------------------
# What learning rate?

LOWEST_RATE, HIGHEST_RATE = 1e-5, 1.0
RATE_STEPS = 300
SMOOTHING = 0.9  # each batch is another text: the average of about ten says more


def find_lr(run):
    """Raise the learning rate exponentially until the loss blows up; draw the one over the other.

    Proposes a rate. Source: Smith 2015, https://arxiv.org/abs/1506.01186.
    """
    rates, losses, average = [], [], 0.0
    for step in range(RATE_STEPS):
        rate = LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (step / (RATE_STEPS - 1))
        set_rate(run.optimizers, rate, run.config)
        run.progress.step = step
        loss, _ = train_step(run, run.network, training_windows(run))
        average = SMOOTHING * average + (1 - SMOOTHING) * loss.item()
        smooth = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or smooth > min([*losses, math.inf]) + 1:
            break
        rates.append(rate)
        losses.append(smooth)
        if step % 10 == 0:
            show(f"rate {rate:.1e} | loss {smooth:.4f}", passing=True)
    proposal = proposed_rate(rates, losses)
    show(f"the loss is lowest at a rate of {rates[int(np.argmin(losses))]:.1e}")
    if plots.available():
        run.folder.mkdir(parents=True, exist_ok=True)
        with replacing(run.folder / "find_lr.png") as file:
            plots.draw_rates(rates, losses, proposal, file)
        show(f"drawn in {run.folder / 'find_lr.png'}")
    show(f"proposal: --learning_rate={proposal:.1e}, --min_lr={proposal / 10:.1e}")


def proposed_rate(rates, losses):
    """A third of the rate at which the smoothed loss is lowest.

    There the loss is about to rise: the rate that a whole run bears lies below.
    """
    return rates[int(np.argmin(losses))] / 3


# ---------------------------------------------------------------------------------------------
# How good is it?


def eval_only(run):
    """Print the loss of each split, all of it, and change nothing."""
    for split in run.data:
        loss = mean_loss(run, split, window_starts(run, split))
        show(f"{split + ':':<6} {in_words(loss)}")


STUDIES = {
    "dry_run": dry_run,
    "overfit_batch": overfit_batch,
    "find_lr": find_lr,
    "eval_only": eval_only,
}


def chosen(config):
    """The study that the settings ask for, or None. Raises UserError if they ask for several."""
    names = [name for name in STUDIES if getattr(config, name)]
    if names and WORLD > 1:
        raise UserError(f"--{names[0]} is for one process: leave torchrun out")
    if len(names) > 1:
        raise UserError(f"--{' and --'.join(names)}: one at a time")
    return STUDIES[names[0]] if names else None
