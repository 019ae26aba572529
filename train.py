"""Train a network to predict the next character.

    python train.py config/shakespeare_cpu.py --max_iters=500     a recipe, and a change to it
    python train.py config/shakespeare_cpu.py --init_from=resume  go on with a run that stopped

A run writes into out/<recipe>/: ckpt.pt (the weights with the lowest validation loss so far, which
sample.py reads), last.pt (which a resume reads), log.csv (a row per evaluation) and loss.png.
"""

from quill import require_packages

require_packages()

import math
import sys
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from model import generate
from networks import NetworkConfig, build
from quill import checkpoint, hardware, log, parallel
from quill.dataset import open_dataset
from quill.files import locked, reading
from quill.muon import Muon
from quill.optimizers import Optimizers
from quill.settings import check_limits, read_settings
from quill.terminal import UserError, run_main, show
from tokenizer import Tokenizer

# --- The settings -----------------------------------------------------------------------------

COUNTS = ["n_layer", "n_head", "n_embd", "block_size", "n_hidden", "max_iters", "batch_size"]
COUNTS += ["gradient_accumulation_steps", "eval_interval", "eval_iters", "log_interval"]
# nanoGPT's settings that mean nothing here: its recipes and command lines run all the same.
NANOGPTS = ["always_save_checkpoint", "wandb_log", "wandb_project", "wandb_run_name", "backend"]


@dataclass(frozen=True)
class Config(NetworkConfig):
    """Every setting of a run, on top of the network's. The names are nanoGPT's where it has them.
    A recipe in config/ overrides these defaults, and the command line overrides both."""

    # the run
    out_dir: str = ""  # folder for the run's files; empty: out/<recipe>
    dataset: str = "shakespeare_char"  # folder under data/, made by prepare_shakespeare.py
    init_from: str = "scratch"  # scratch, resume, auto (resume if it can), or a checkpoint's path
    overwrite: bool = False  # let a new run replace the one in out_dir
    eval_only: bool = False  # only print the losses of the run's best checkpoint
    seed: int = 1337  # for initialization, batches and dropout
    device: str = "auto"  # auto (the fastest there is), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # number format of products
    compile: bool = True  # torch.compile the network (on CUDA only: on CPUs it gains nothing)

    # the optimization
    max_iters: int = 2000  # training steps
    batch_size: int = 12  # sequences in one forward pass
    gradient_accumulation_steps: int = 1  # forward passes in one step
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: Muon for the matrices in the blocks
    learning_rate: float = 1e-3  # peak learning rate of AdamW
    muon_learning_rate: float = 0.02  # peak learning rate of Muon
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"  # shape of the decay
    warmup_iters: int = 100  # steps of linear warm-up
    lr_decay_iters: int = 0  # step at which min_lr is reached; 0: max_iters
    min_lr: float = 1e-4  # AdamW's learning rate at the end of the decay
    weight_decay: float = 0.1  # pull of the matrices towards zero
    beta1: float = 0.9  # decay rate of AdamW's average gradient, and of Muon's
    beta2: float = 0.99  # decay rate of AdamW's average squared gradient
    grad_clip: float = 1.0  # largest norm of the gradient; 0: no clipping

    # the output
    eval_interval: int = 250  # steps between evaluations
    checkpoint_interval: int = 0  # steps between extra saves of last.pt; 0: none
    eval_iters: int = 20  # batches in the estimate of the training loss
    log_interval: int = 10  # steps between progress lines

    def __post_init__(self):
        check_limits(self, at_least_one=COUNTS, below_one=["dropout", "beta1", "beta2"])


# --- The batch and the learning rate of a step ------------------------------------------------


def get_batch(tokens, config, step):
    """A step's windows, each with the character that follows it: (N, block_size + 1) token ids,
    N = batch_size * gradient_accumulation_steps. They depend only on the seed and the step, so a
    resumed run draws the same ones."""
    generator = np.random.default_rng([config.seed, step])
    count = config.batch_size * config.gradient_accumulation_steps
    starts = generator.integers(len(tokens) - config.block_size, size=count)  # (N,)
    return tokens.windows(starts, config.block_size + 1)


def tokens_per_step(config):
    """How many characters one step predicts."""
    return config.batch_size * config.gradient_accumulation_steps * config.block_size


def lr_factor(step, config):
    """The factor on the peak learning rates at a step, counted from 0.

    Warm-up: it rises linearly to 1 at step warmup_iters. Decay: it falls from 1 to min_lr /
    learning_rate at step lr_decay_iters, along a line or half a cosine, and stays there.
    """
    if step < config.warmup_iters:
        return (step + 1) / (config.warmup_iters + 1)
    if config.lr_schedule == "constant":
        return 1.0
    end = config.lr_decay_iters or config.max_iters
    fraction = max(0, end - step) / max(1, end - config.warmup_iters)  # of the decay that is left
    if config.lr_schedule == "cosine":
        fraction = (1 - math.cos(math.pi * fraction)) / 2
    lowest = config.min_lr / config.learning_rate if config.learning_rate else 0.0
    return lowest + fraction * (1 - lowest)


def check_schedule(config):
    """Warn about learning-rate settings that contradict each other."""
    end = config.lr_decay_iters or config.max_iters
    if config.lr_schedule != "constant" and 0 < config.learning_rate < config.min_lr:
        show(f"note: min_lr is above learning_rate, {config.learning_rate}, so the rate rises")
    if config.warmup_iters >= end:
        show(f"note: a warm-up of {config.warmup_iters} steps leaves no decay before step {end}")


# --- The optimizers ---------------------------------------------------------------------------


def configure_optimizers(network, config):
    """AdamW for all parameters; or Muon for the matrices inside the blocks, AdamW for the rest.

    AdamW averages each weight's gradient and its square. A step is the first average divided by the
    square root of the second: about the learning rate, whatever the size of the gradients.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101.
    """
    named = list(network.named_parameters())
    vectors = [parameter for _, parameter in named if parameter.dim() < 2]
    in_blocks = [p for name, p in named if p.dim() == 2 and name.startswith("blocks.")]
    others = [p for name, p in named if p.dim() == 2 and not name.startswith("blocks.")]
    muon = config.optimizer == "muon"
    if muon and not in_blocks:
        raise UserError(f"optimizer=muon is for a gpt's blocks, and a {config.network} has none")

    decay = {"weight_decay": config.weight_decay}
    adamw = {"initial_lr": config.learning_rate, "betas": (config.beta1, config.beta2)}
    groups = [
        {"params": others if muon else in_blocks + others, **adamw, **decay},
        # Biases and the gains of norms do not decay: a gain of zero would switch its layer off.
        {"params": vectors, **adamw, "weight_decay": 0.0},
    ]
    optimizers = [torch.optim.AdamW(groups, fused=True)]
    if muon:
        group = {"params": in_blocks, "initial_lr": config.muon_learning_rate, **decay}
        optimizers.append(Muon([group], network.dtype, momentum=config.beta1))
    return Optimizers(optimizers, network)


# --- One step of gradient descent -------------------------------------------------------------


def gradients(network, parameters, windows, share, optimizer):
    """What windows (N, block_size + 1) contribute to their batch's loss, in nats, and the gradients
    of that: one tensor for the loss, one for each parameter. share: N / the size of the batch."""
    x, y = windows[:, :-1], windows[:, 1:]  # 2 x (N, T): the targets y are what follows each of x
    _, loss = network(x, y)
    loss = loss * share
    found = torch.autograd.grad(optimizer.scale(loss), parameters, materialize_grads=True)
    return [loss.detach(), *found]


def train_step(network, optimizer, windows, config, step):
    """One step of gradient descent on get_batch()'s windows. Returns their mean loss in nats, as a
    tensor: reading it would make a GPU wait.

    The gradient of a batch is the sum of the gradients of its parts. Some are computed one after
    the other (gradient accumulation), some side by side (threads), some elsewhere (processes).
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def gradients_of_part(numbered_part):
        number, part = numbered_part
        hardware.seed_dropout(part.device, config.seed, step, number)
        size = math.ceil(len(part) / config.gradient_accumulation_steps)
        total = None
        for piece in part.split(size):
            share = len(piece) / len(windows)
            found = gradients(network, parameters, piece, share, optimizer)
            total = torch._foreach_add(total, found) if total else found
        return total

    parts = parallel.side_by_side(gradients_of_part, parallel.split(windows), windows.device)
    loss, *total = parallel.summed(list(parts))
    for parameter, gradient in zip(parameters, total, strict=True):
        parameter.grad = gradient
    optimizer.unscale()
    if config.grad_clip > 0:
        torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
    optimizer.step()
    return loss


# --- An evaluation: both losses, a sample, and what is saved ----------------------------------


@dataclass
class State:
    """How far a run has come: what a checkpoint keeps beside the weights and the optimizers."""

    step: int = 0
    best_val_loss: float = math.inf
    seconds: float = 0.0  # of wall time, resumes summed
    log: list = field(default_factory=list)  # rows of log.csv
    samples: dict = field(default_factory=dict)  # {step: the text written at its evaluation}
    losses: list = field(default_factory=list)  # [step, loss of its batch] of each progress line


def estimate_loss(network, batches, skipped=0):
    """The mean cross-entropy in nats per character over batches of windows, without dropout; nan of
    nothing. The first `skipped` predictions of each window, with the least context, don't count."""

    @torch.no_grad()  # here, because each thread has a setting of its own
    def measure(windows):  # (B, T + 1)
        x, y = windows[:, :-1], windows[:, 1:].clone()  # 2 x (B, T)
        y[:, :skipped] = -100  # which PyTorch's cross-entropy ignores
        _, loss = network(x, y)
        counted = y[:, skipped:].numel()
        return loss.item() * counted, counted

    network.eval()
    device = next(network.parameters()).device
    results = list(parallel.side_by_side(measure, batches, device))
    network.train()
    count = sum(count for _, count in results)
    return sum(loss for loss, _ in results) / count if count else math.nan


def evaluate(network, optimizer, data, config, state):
    """Measure both losses, write a sample, and save the run, and the best weights by themselves.

    The validation split is read in order, so the same weights give the same digits. The training
    loss is an estimate from eval_iters batches of windows, spread evenly over the text.
    """
    count = config.eval_iters * config.batch_size
    train_loss = estimate_loss(network, data.train.spread(config.block_size, count))
    val_loss = estimate_loss(network, data.val.in_order(config.block_size))
    check_finite(train_loss + val_loss, config, state)
    # "<=": if a run is killed after last.pt but before ckpt.pt, its resume must save ckpt.pt.
    best = val_loss <= state.best_val_loss
    state.best_val_loss = min(val_loss, state.best_val_loss)

    tokens = state.step * tokens_per_step(config)
    lr = config.learning_rate * lr_factor(state.step, config)
    state.log = [row for row in state.log if row[0] < state.step]  # a resume may repeat the last
    state.log += [[state.step, tokens, round(state.seconds, 2), lr, train_loss, val_loss]]
    sample = state.samples[state.step] = short_sample(network, data)
    save_last(network, optimizer, data, config, state)
    if best:
        checkpoint.save("ckpt.pt", network, config, data.meta, state)
    log.write(config.out_dir, state)
    losses = f"training loss {train_loss:.4f}, validation loss {val_loss:.4f}"
    show(f"--- step {state.step}: {losses}, {'the best' if best else 'not the best'} so far")
    for line in sample.splitlines():
        show(f"    | {line}")


def save_last(network, optimizer, data, config, state):
    """Save all that a resume needs, unless the run has diverged."""
    check_finite(sum(p.sum().item() for p in network.parameters()), config, state)
    checkpoint.save("last.pt", network, config, data.meta, state, optimizer)


def short_sample(network, data):
    """A few lines that the network writes now, always with the same random numbers."""
    idx = torch.zeros(1, 1, dtype=torch.int64, device=data.device)  # a newline, in most texts
    generator = torch.Generator(data.device).manual_seed(0)
    network.eval()
    idx = generate(network, idx, 100, temperature=0.8, generator=generator)  # (1, 101)
    network.train()
    return Tokenizer(data.meta["vocab"]).decode(idx[0].tolist()).strip()


def check_finite(number, config, state):
    """Raise UserError if a loss, or a sum of weights, is not finite."""
    if not math.isfinite(number):
        advice = f"lower learning_rate ({config.learning_rate}) or raise warmup_iters"
        raise UserError(f"step {state.step}: the loss is no longer a finite number; {advice}")


# --- The run ----------------------------------------------------------------------------------


def set_up(given):
    """Build all that train() takes: the network, its optimizer, the data, the config and the state.
    given: {name: value}, from the recipe and the command line."""
    asked = Config(**given)  # it says which checkpoint to start from; that adds its own settings
    saved, resume = parallel.from_first_process(checkpoint.starting_point, asked)
    config = Config(**checkpoint.inherited(saved, asked, given, resume) | given)
    device = hardware.pick_device(config.device)

    data = open_dataset(config.dataset, device)
    show(f"text:    {data}")
    if not config.eval_only and len(data.train) <= config.block_size:
        raise UserError(f"{config.dataset} is too short for block_size {config.block_size}")

    torch.manual_seed(config.seed)
    try:
        network = build(config, len(data.meta["vocab"]))
    except ValueError as error:  # sizes that do not fit each other
        raise UserError(error) from error
    if saved:
        checkpoint.check_same_data(saved, data.meta, resume)
        checkpoint.load_weights(network, saved)
    hardware.for_training(network, device, hardware.pick_dtype(config.dtype, device))
    size = sum(parameter.numel() for parameter in network.parameters())
    show(f"network: {config.network}, {size:,} parameters, on {device} in {network.dtype}")

    optimizer, state = configure_optimizers(network, config), State()
    if resume:
        state = State(**saved["state"])
        with reading("last.pt", maker="train.py"):  # it may be a copy of ckpt.pt
            optimizer.load_state_dict(saved["optimizer"])
    return network, optimizer, data, config, state


def train(network, optimizer, data, config, state, stop):
    """Train to max_iters, or until a signal: returns its number, or 0. stop: a StopRequest."""
    forward = hardware.compiled(network, get_batch(data.train, config, 0), config)
    started = time.perf_counter() - state.seconds
    progress = log.Progress(state.step, config.max_iters, tokens_per_step(config))
    while True:
        done, signal = state.step >= config.max_iters, stop.received()
        extra = config.checkpoint_interval and state.step % config.checkpoint_interval == 0
        if done or state.step % config.eval_interval == 0:
            evaluate(network, optimizer, data, config, state)
            progress.restart(state.step)
        elif signal or extra:
            save_last(network, optimizer, data, config, state)
        if done or signal:
            return 0 if done else signal

        factor = lr_factor(state.step, config)
        optimizer.set_lr(factor)
        windows = get_batch(data.train, config, state.step)
        loss = train_step(forward, optimizer, windows, config, state.step)
        state.step += 1
        state.seconds = time.perf_counter() - started
        if state.step % config.log_interval == 0 or state.step == config.max_iters:
            check_finite(loss.item(), config, state)
            state.losses.append([state.step, loss.item()])
            progress.show(state.step, loss.item(), config.learning_rate * factor)


def print_losses(network, data, config):
    """Print the loss of each split, in several units, and the loss with more context."""
    size, half = config.block_size, config.block_size // 2
    for split, tokens in data.splits.items():
        loss = estimate_loss(network, tokens.in_order(size))
        units = f"{loss / math.log(2):.3f} bits per character, perplexity {math.exp(loss):.2f}"
        show(f"{split + ':':<6} {loss:.4f} nats ({units})")
        if split != "train":
            loss = estimate_loss(network, tokens.in_order(size, overlap=half), skipped=half)
            if not math.isnan(loss):  # a short split has no such character
                show(f"       {loss:.4f} nats with at least {half} characters of context")


def main(arguments):
    given, recipe = read_settings(arguments, Config, "train.py", NANOGPTS, __doc__)
    folder = given["out_dir"] = given.get("out_dir") or f"out/{recipe or 'run'}"
    with parallel.processes():
        if given.get("eval_only"):
            network, _, data, config, _ = set_up(given)
            return print_losses(network, data, config)
        with locked(folder):
            checkpoint.refuse_to_overwrite(Config(**given))
            network, optimizer, data, config, state = set_up(given)
            check_schedule(config)
            rest = "" if state.step < config.max_iters else "; to train further, raise --max_iters"
            show(f"run:     {folder}, from step {state.step} to {config.max_iters}{rest}")
            with parallel.StopRequest() as stop:
                signal = train(network, optimizer, data, config, state, stop)
            log.print_end(state, folder, signal)
    if signal:
        sys.exit(128 + signal)


if __name__ == "__main__":
    run_main(main)
