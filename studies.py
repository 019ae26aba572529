"""Checks and experiments around a run. None of them trains anything that is kept.

    python studies.py dry_run RECIPE [--name=value ...]   parameters, memory, time of the whole run
    python studies.py overfit_batch RECIPE                can the network memorize one batch?
    python studies.py find_lr RECIPE                      the loss over the learning rate
    python studies.py ngrams [--dataset=NAME]             how far counting comes, without a network
    python studies.py example                             a tiny network, with every number in it

The settings are train.py's. `python train.py RECIPE --eval_only` measures a finished run.
"""

from quill.dataset import open_dataset
from quill.hardware import errors_explained
from quill.inside import example
from quill.processes import WORLD
from quill.settings import parse_command_line
from quill.terminal import Parser, UserError, introduce, replacing, run_main, show

import math
import random
import statistics
import sys
import time
from datetime import timedelta

import numpy as np
import torch

import plots
import train
from ancestors import NGrams
from prepare_shakespeare import Tokenizer

try:
    import resource
except ImportError:  # Windows
    resource = None

# --- dry_run: what will it cost? --------------------------------------------------------------


def parameters_by_part(network):
    """{part of the network: its number of parameters}, blocks added up, in reading order."""
    counts = {}
    for name, parameter in network.named_parameters():
        words = name.split(".")
        part = f"blocks: {words[2]}" if words[0] == "blocks" else words[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def flops_per_token(network):
    """Additions and multiplications to train on one token.

    Two for each weight of a matrix in the forward pass, four in the backward pass; attention also
    multiplies queries with keys, and weights with values. Looking up an embedding costs nothing.
    Source: Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B.
    """
    config = network.config
    matrices = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    flops = 6 * sum(matrix.weight.numel() for matrix in matrices)
    if config.network == "gpt":
        flops += 12 * config.n_layer * config.n_embd * config.block_size
    return flops


def megabytes(run):
    """(of the weights, gradients and the optimizers' averages; the most that was held so far)."""
    tensors = list(run.network.parameters())
    tensors += [parameter.grad for parameter in tensors]
    for optimizer in run.optimizers:
        for state in optimizer.state.values():
            tensors += state.values()
    held = sum(tensor.nbytes for tensor in tensors)
    if run.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(run.device)
    elif resource is None:
        peak = math.nan
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in kilobytes elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return held / 1e6, peak / 1e6


def seconds_for(run, work, *arguments):
    """How many seconds `work(*arguments)` takes, a GPU's part included."""
    start = time.perf_counter()
    work(*arguments)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter() - start


def dry_run(run):
    """Print where the parameters are, and what a step and the whole run will take."""
    config = run.config
    counts = parameters_by_part(run.network)
    total = sum(counts.values())
    show("")
    for part, count in counts.items():
        show(f"{part:<28}{count:>12,}  {count / total:6.1%}")
    shared = ", of which lm_head uses token_embedding's" if config.network == "gpt" else ""
    show(f"{'parameters':<28}{total:>12,}{shared}")

    forward, seconds = train.forward_of(run), []
    while len(seconds) < 5 or (sum(seconds) < 2 and len(seconds) < 50):
        windows = train.training_windows(run)
        seconds.append(seconds_for(run, train.train_step, run, forward, windows))
    step = statistics.median(seconds[1:])  # the first one also sets things up
    starts = train.split_starts(run, "val")
    batches = list(train.evaluation_batches(run, "val", starts))
    one_batch = (run, "val", batches[0][0])
    batch = min(seconds_for(run, train.mean_loss, *one_batch) for _ in range(3))
    evaluations = math.ceil(config.max_iters / config.eval_interval)
    whole = timedelta(seconds=round(config.max_iters * step + evaluations * len(batches) * batch))

    flops, tokens = flops_per_token(run.network), train.tokens_per_step(config)
    speed = f"{tokens / step:,.0f} tokens/s, {flops * tokens / step / 1e9:,.0f} GFLOP/s"
    held, peak = megabytes(run)
    show(f"{'FLOPs per token, to train':<28}{flops:>12,}")
    show(f"{'tokens per step':<28}{tokens:>12,}")
    show(f"{'weights and optimizer':<28}{held:>12,.0f} MB")
    if not math.isnan(peak):
        show(f"{'memory of it all, so far':<28}{peak:>12,.0f} MB")
    show(f"{'a step':<28}{step * 1e3:>12,.1f} ms: {speed}")
    about = f"({config.max_iters} steps, {evaluations} evaluations)"
    show(f"{'the whole run':<28}{whole!s:>12}  {about}")


# --- overfit_batch: can it learn at all? ------------------------------------------------------

OVERFIT_STEPS = 300  # enough for each shipped recipe to memorize its batch


def pair_entropy(windows):
    """The lowest loss in nats on windows (N, T + 1) for a model that sees one character only."""
    pairs, counts = windows.unfold(1, 2, 1).flatten(0, 1).unique(dim=0, return_counts=True)
    first = torch.zeros(int(pairs.max()) + 1).index_add_(0, pairs[:, 0].cpu(), counts.cpu().float())
    probabilities = counts.cpu() / first[pairs[:, 0].cpu()]  # of the second, given the first
    return -(counts.cpu() * probabilities.log()).sum().item() / counts.sum().item()


def overfit_batch(run):
    """Train on one batch again and again: a network and a loop that work memorize it.

    Raises UserError if the loss does not come half of the way down to what a table of pairs could
    reach on this batch, which each of the networks can learn.
    """
    windows = train.training_windows(run)
    floor = pair_entropy(windows)
    run.network.eval()  # no dropout: here, overfitting is the aim
    train.set_learning_rate(run.optimizers, run.config.learning_rate)
    losses = []
    for step in range(OVERFIT_STEPS):
        loss, _ = train.train_step(run, run.network, windows)
        losses.append(loss.item())
        if step % 50 == 0:
            show(f"step {step}: loss {losses[-1]:.4f}")
    show(f"step {OVERFIT_STEPS}: loss {losses[-1]:.4f}, on the one batch that it was trained on")
    if not losses[-1] < (losses[0] + floor) / 2:
        raise UserError(
            f"one batch was not memorized in {OVERFIT_STEPS} steps: its loss went from "
            f"{losses[0]:.4f} to {losses[-1]:.4f}; try another learning_rate (find_lr proposes "
            "one), less dropout, a larger network; or something is broken"
        )
    show("it can learn: network, loss, gradients and optimizer work together")


# --- find_lr: what learning rate? -------------------------------------------------------------

LOWEST_RATE, HIGHEST_RATE = 1e-5, 1.0
RATE_STEPS = 300
SMOOTHING = 0.9  # batches differ: the mean of about ten of them says more than one


def find_lr(run):
    """Raise the learning rate exponentially until the loss blows up, plot one over the other, and
    propose a rate. Source: Smith 2015, https://arxiv.org/abs/1506.01186."""
    rates, losses, average = [], [], 0.0
    for step in range(RATE_STEPS):
        rate = LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (step / (RATE_STEPS - 1))
        train.set_learning_rate(run.optimizers, rate)
        run.progress.step = step
        loss, _ = train.train_step(run, run.network, train.training_windows(run))
        average = SMOOTHING * average + (1 - SMOOTHING) * loss.item()
        smooth = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or smooth > min([*losses, math.inf]) + 1:
            break
        rates.append(rate)
        losses.append(smooth)
        if step % 10 == 0:
            show(f"rate {rate:.1e} | loss {smooth:.4f}", passing=True)
    if not rates or max(losses) - min(losses) < 0.01:
        raise UserError("no rate changes the loss of this network on this text: nothing to propose")
    lowest = rates[int(np.argmin(losses))]
    proposal = lowest / 3  # at `lowest` it is about to rise, and a run tolerates less than a moment
    show(f"the loss is lowest at a rate of {lowest:.1e}")
    if plots.available():
        run.folder.mkdir(parents=True, exist_ok=True)
        with replacing(run.folder / "find_lr.png") as file:
            plots.draw_rates(rates, losses, proposal, file)
        show(f"plotted in {run.folder / 'find_lr.png'}")
    show(f"proposal: --learning_rate={proposal:.1e}, --min_lr={proposal / 10:.1e}")


# --- ngrams: how far does counting come? ------------------------------------------------------

LONGEST = 6  # characters in a string: for a megabyte of text, longer ones help no more
SAMPLE_LENGTH = 200  # characters


def ngrams(config):
    """Print the validation loss of counted n-grams for each n, and a text by the best of them."""
    meta, paths = open_dataset(config.dataset, block_size=1)
    decode, vocab = Tokenizer(meta["vocab"]).decode, meta["vocab"]
    text, validation = (decode(np.fromfile(paths[name], "<u2")) for name in ("train", "val"))
    model = NGrams(text, LONGEST, len(vocab))
    losses = {}
    show(" n   different strings   of them once   new in validation   validation loss")
    for n in range(1, LONGEST + 1):
        counts = [count for string, count in model.count.items() if len(string) == n]
        strings = [validation[i : i + n] for i in range(len(validation) - n + 1)]
        once = counts.count(1) / len(counts)
        new = sum(string not in model.count for string in strings) / max(1, len(strings))
        losses[n] = model.loss(validation, n)
        show(f"{n:2}{len(counts):20,}{once:15.0%}{new:20.1%}{losses[n]:18.3f}")
    best, written, generator = min(losses, key=losses.get), "\n", random.Random(config.seed)
    for _ in range(SAMPLE_LENGTH):
        context = written[max(0, len(written) - best + 1) :]
        probabilities = [model.probability(character, context) for character in vocab]
        written += generator.choices(vocab, probabilities)[0]
    show(f"\na text by n = {best}:{written}")


# --- The program ------------------------------------------------------------------------------

STUDIES = {study.__name__: study for study in (dry_run, overfit_batch, find_lr, ngrams, example)}


def main(arguments):
    usage = "python studies.py STUDY [RECIPE] [--name=value ...]"
    description = f"STUDY is one of {', '.join(STUDIES)}; train.py --help lists all settings."
    parser = Parser(prog="studies.py", usage=usage, description=description)
    parser.add_argument("study", metavar="STUDY", choices=STUDIES)
    study = STUDIES[parser.parse_args(arguments[:1]).study]
    config, given = parse_command_line(arguments[1:])
    if WORLD > 1:
        raise UserError("studies are for one process: leave torchrun out")
    if study in (ngrams, example):
        return study(config)
    config.overwrite = True  # nothing is: a study saves no checkpoint
    with errors_explained():
        run = train.build_run(config, given)
        introduce(run)
        study(run)


if __name__ == "__main__":
    run_main(main)
