"""Train a network to predict the next character.

    python train.py config/shakespeare_cpu.py --max_iters=500     a recipe, and a change to it
    python train.py config/shakespeare_cpu.py --init_from=resume  go on with a run that stopped

A run writes into out/<recipe>/: ckpt.pt (the weights with the lowest validation loss so far, which
sample.py reads), last.pt (which a resume reads), log.csv (a row per evaluation) and loss.png.
"""

import quill  # noqa: F401, I001 (before torch, which reads what it sets)

import contextlib
import math
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ancestors import build
from model import GPTConfig, generate
from prepare_shakespeare import open_dataset
from quill import checkpoint, hardware, log, parallel
from quill.files import locked
from quill.muon import Muon
from quill.parallel import RANK, WORLD
from quill.settings import read_settings
from quill.terminal import UserError, quoted, run_main, show
from tokenizer import Tokenizer

# --- The settings -----------------------------------------------------------------------------

AT_LEAST_ONE = {"n_layer", "n_head", "n_embd", "block_size", "n_hidden", "max_iters", "batch_size"}
AT_LEAST_ONE |= {"gradient_accumulation_steps", "eval_interval", "eval_iters", "log_interval"}
# nanoGPT's settings that mean nothing here: its recipes and command lines run all the same.
NANOGPTS = ["always_save_checkpoint", "wandb_log", "wandb_project", "wandb_run_name", "backend"]


@dataclass(frozen=True)
class Config(GPTConfig):
    """Every setting of a run, on top of the network's. The names are nanoGPT's where it has them.
    A recipe in config/ overrides these defaults, and the command line overrides both."""

    network: Literal["gpt", "mlp", "bigram"] = "gpt"  # the Transformer, or an ancestor
    n_hidden: int = 512  # width of the MLP's hidden layer

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
        """Reject values out of range."""
        for name, value in vars(self).items():
            minimum = 1 if name in AT_LEAST_ONE else 0
            if isinstance(value, (int, float)) and value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, not {value}")
            if name in ("dropout", "beta1", "beta2") and value >= 1:
                raise ValueError(f"{name} must be below 1, not {value}")


# --- A batch: windows of the text -------------------------------------------------------------


MOST_EVALUATED = 2_000_000  # characters of a split: on a CPU, more would take minutes each time


class Tokens:
    """The token ids of one split, read from its .bin file as they are needed."""

    def __init__(self, path, device):
        self.ids, self.device = np.memmap(path, dtype="<u2", mode="r"), device

    def __len__(self):
        return len(self.ids)

    def windows(self, starts, length):
        """`length` ids beginning at each of `starts` (B,): (B, length), int64, on the device."""
        ids = self.ids[starts[:, None] + np.arange(length)]  # (B, length)
        ids = torch.from_numpy(ids.astype(np.int64))
        if self.device.type == "cuda":
            ids = ids.pin_memory()  # so that the copy runs in the background
        return ids.to(self.device, non_blocking=True)

    def in_order(self, block_size, count=None, overlap=0):
        """Yield batches of windows (B, block_size + 1) that predict each character but the first
        once; the last window may be shorter. With overlap: the first `overlap` predictions of each
        window, but of the first one, are those that the window before it ended with. With count,
        or if the split has more characters than MOST_EVALUATED: so many windows, spread evenly."""
        starts = np.arange(0, len(self) - 1 - overlap, block_size - overlap)
        if count is None and len(self) > MOST_EVALUATED:
            count = MOST_EVALUATED // block_size
        if count is not None:
            starts = np.linspace(0, len(self) - block_size - 1, count).astype(np.int64)
        whole = starts[starts + block_size < len(self)]
        rows = max(1, hardware.tokens_at_once(self.device) // block_size)
        for i in range(0, len(whole), rows):
            yield self.windows(whole[i : i + rows], block_size + 1)
        if len(whole) < len(starts):
            yield self.windows(starts[-1:], len(self) - starts[-1])


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


def get_lr(step, config):
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
    """Say what is probably a mistake in the learning rates: settings that do not fit each other."""
    end = config.lr_decay_iters or config.max_iters
    if config.lr_schedule != "constant" and 0 < config.learning_rate < config.min_lr:
        show(f"note: min_lr is above learning_rate, {config.learning_rate}, so the rate rises")
    if config.warmup_iters >= end:
        show(f"note: a warm-up of {config.warmup_iters} steps leaves no decay before step {end}")


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


class Optimizers:
    """One or two optimizers and the loss scaling of float16, as one: all that a step needs."""

    def __init__(self, optimizers, network):
        self.optimizers = optimizers
        # It scales the loss up, so that gradients in float16 do not underflow, and skips a step
        # whose gradients are infinite. For other dtypes it does nothing.
        device = next(network.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=network.dtype == torch.float16)

    def set_lr(self, factor):
        """Set every learning rate to its peak times a factor."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def step(self, parameters, gradients, grad_clip):
        """Move the parameters against their gradients, after clipping these."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(parameters, grad_clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self):
        """What load_state_dict() takes, as plain values and tensors."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"optimizers": states, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, saved):
        """Put the averages back. Learning rates, betas and weight decay are those that apply now."""
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
        if self.scaler.is_enabled() and saved["scaler"]:  # empty if it was not float16 until now
            self.scaler.load_state_dict(saved["scaler"])


def gradients(network, parameters, windows, share, scaler):
    """A part's share of the loss of its batch, in nats, and the gradients of this share: one tensor
    for the loss and one for each parameter. windows: (N, block_size + 1)."""
    x, y = windows[:, :-1], windows[:, 1:]  # 2 x (N, T): the targets y are what follows each of x
    _, loss = network(x, y)
    loss = loss * share
    found = torch.autograd.grad(scaler.scale(loss), parameters, materialize_grads=True)
    return [loss.detach(), *found]


def train_step(network, optimizer, windows, config, step):
    """One step of gradient descent on get_batch()'s windows. Returns their mean loss in nats, as a
    tensor: reading it would make a GPU wait.

    The gradient of a batch is the sum of the gradients of its parts. Some are computed one after
    the other (gradient accumulation), some side by side (threads), some elsewhere (processes).
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def of_part(numbered):
        number, part = numbered
        hardware.seed_dropout(part.device, config.seed, step, number)
        size = math.ceil(len(part) / config.gradient_accumulation_steps)
        total = None
        for piece in part.split(size):
            share = len(piece) / len(windows)
            found = gradients(network, parameters, piece, share, optimizer.scaler)
            total = torch._foreach_add(total, found) if total else found
        return total

    parts = parallel.side_by_side(of_part, parallel.split(windows), windows.device)
    loss, *total = parallel.summed(list(parts))
    optimizer.step(parameters, total, config.grad_clip)
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
    """The mean cross-entropy in nats per character over batches of windows, without dropout. The
    first `skipped` predictions of each window do not count: they have the least context."""
    network.eval()

    @torch.no_grad()  # here, because each thread has a setting of its own
    def measure(windows):  # (B, T + 1)
        x, y = windows[:, :-1], windows[:, 1:].clone()
        y[:, :skipped] = -100  # which PyTorch's cross-entropy ignores
        _, loss = network(x, y)
        counted = y[:, skipped:].numel()
        return loss.item() * counted, counted

    device = next(network.parameters()).device
    results = list(parallel.side_by_side(measure, batches, device))
    network.train()
    return sum(loss for loss, _ in results) / sum(count for _, count in results)


def evaluate(network, optimizer, splits, meta, config, state):
    """Measure both losses, write a sample, and save the run. The best weights so far are also saved
    by themselves.

    Validation covers its whole split in order, so the same weights give the same digits. The
    training loss is an estimate from eval_iters batches of windows, spread evenly over the text.
    """
    count = config.eval_iters * config.batch_size
    train_loss = estimate_loss(network, splits["train"].in_order(config.block_size, count))
    val_loss = estimate_loss(network, splits["val"].in_order(config.block_size))
    check_finite(train_loss + val_loss, config, state)
    # "<=": if a run is killed after last.pt but before ckpt.pt, its resume must save ckpt.pt.
    best = val_loss <= state.best_val_loss
    state.best_val_loss = min(val_loss, state.best_val_loss)

    tokens = state.step * tokens_per_step(config)
    lr = config.learning_rate * get_lr(state.step, config)
    state.log = [row for row in state.log if row[0] < state.step]  # a resume may repeat the last
    state.log += [[state.step, tokens, round(state.seconds, 2), lr, train_loss, val_loss]]
    if RANK > 0:
        return
    sample = state.samples[state.step] = short_sample(network, meta["vocab"], splits["val"].device)
    checkpoint.save("last.pt", network, config, meta, state, optimizer)
    if best:
        checkpoint.save("ckpt.pt", network, config, meta, state)
    with log.optional():
        log.write_log(config.out_dir, state.log)
        if state.step > 0:  # before that, there is no curve
            log.plot_loss(config.out_dir, state.log, state.losses)
    losses = f"training loss {train_loss:.4f}, validation loss {val_loss:.4f}"
    show(f"--- step {state.step}: {losses}, {'the best' if best else 'not the best'} so far")
    for line in sample.splitlines():
        show(f"    | {line}")


def short_sample(network, vocab, device):
    """A few lines that the network writes now, always with the same random numbers."""
    idx = torch.zeros(1, 1, dtype=torch.int64, device=device)  # a newline, in most texts
    generator = torch.Generator(device).manual_seed(0)
    network.eval()
    idx = generate(network, idx, 100, temperature=0.8, generator=generator)  # (1, 101)
    network.train()
    return Tokenizer(vocab).decode(idx[0].tolist()).strip()


def check_finite(number, config, state):
    """Raise UserError if a loss, or a sum of weights, is not finite."""
    if not math.isfinite(number):
        advice = f"lower learning_rate ({config.learning_rate}) or raise warmup_iters"
        raise UserError(f"step {state.step}: the loss is no longer a finite number; {advice}")


def train(network, optimizer, splits, meta, config, state, stop):
    """Train to max_iters, or until stop, a parallel.StopRequest, has received a signal. Returns
    that signal's number, or 0."""
    check_schedule(config)
    forward = network
    if config.compile:
        batch = get_batch(splits["train"], config, step=0)[: config.batch_size]
        forward = hardware.compiled(network, batch)
    started = time.perf_counter() - state.seconds
    log_step, log_time = state.step, time.perf_counter()
    while True:
        last, signal = state.step >= config.max_iters, stop.received()
        extra = config.checkpoint_interval and state.step % config.checkpoint_interval == 0
        if last or state.step % config.eval_interval == 0:
            evaluate(network, optimizer, splits, meta, config, state)
            log_step, log_time = state.step, time.perf_counter()
        elif signal or extra:
            check_finite(sum(p.sum().item() for p in network.parameters()), config, state)
            if RANK == 0:
                checkpoint.save("last.pt", network, config, meta, state, optimizer)
        if last:
            return 0
        if signal:
            return signal

        factor = get_lr(state.step, config)
        optimizer.set_lr(factor)
        windows = get_batch(splits["train"], config, state.step)
        loss = train_step(forward, optimizer, windows, config, state.step)
        state.step += 1
        state.seconds = time.perf_counter() - started

        if state.step % config.log_interval == 0 or state.step == config.max_iters:
            loss = loss.item()
            check_finite(loss, config, state)
            state.losses.append([state.step, loss])
            seconds = (time.perf_counter() - log_time) / (state.step - log_step)  # for one step
            left = timedelta(seconds=round((config.max_iters - state.step) * seconds))
            show(
                f"step {state.step}/{config.max_iters} | loss {loss:.4f} | "
                f"lr {config.learning_rate * factor:.1e} | "
                f"{tokens_per_step(config) / seconds:,.0f} tokens/s | {left} left",
                passing=True,
            )
            log_step, log_time = state.step, time.perf_counter()


def set_up(given):
    """Build all that train() takes. given: {name: value}, from the recipe and the command line."""
    asked = Config(**given)  # says which checkpoint to start from, which passes on settings
    saved, resume = parallel.from_first_process(checkpoint.starting_point, asked)
    config = Config(**checkpoint.inherited(saved, given, resume) | given)
    device = parallel.own_device(hardware.pick_device(config.device))

    meta, paths = open_dataset(config.dataset)
    splits = {split: Tokens(path, device) for split, path in paths.items()}
    show(f"text:    {config.dataset}, {meta['characters']:,} characters from {meta['source']}")
    if max(map(len, splits.values())) > MOST_EVALUATED:
        show(f"         losses are measured on {MOST_EVALUATED:,} of a split, always the same ones")
    if not config.eval_only and len(splits["train"]) <= config.block_size:
        raise UserError(f"{config.dataset} is too short for block_size {config.block_size}")

    torch.manual_seed(config.seed)
    try:
        network = build(config, len(meta["vocab"]))
    except ValueError as error:  # sizes that do not fit each other
        raise UserError(error) from error
    if saved:
        checkpoint.check_same_data(saved, meta, resume)
        checkpoint.load_weights(network, saved)
    # Sets the network's dtype, and swaps in a faster dropout on a CPU.
    hardware.for_training(network, device, hardware.pick_dtype(config.dtype, device))
    size = sum(parameter.numel() for parameter in network.parameters())
    show(f"network: {config.network}, {size:,} parameters, on {device} in {network.dtype}")

    optimizer, state = configure_optimizers(network, config), State()
    if resume:
        state = State(**saved["state"])
        checkpoint.restore(saved, optimizer)
    return network, optimizer, splits, meta, config, state


def main(arguments):
    options = {"recipe": True, "ignored": NANOGPTS, "about": __doc__}
    given = read_settings(Config, arguments, "train.py", **options)
    recipe = given.pop("recipe", "run")
    folder = given["out_dir"] = given.get("out_dir") or f"out/{Path(recipe).stem}"
    parallel.join_processes()
    writes = RANK == 0 and not given.get("eval_only")
    lock = locked(folder) if writes else contextlib.nullcontext()
    with hardware.errors_explained(), lock:
        network, optimizer, splits, meta, config, state = set_up(given)
        if config.eval_only:
            for split, tokens in splits.items():
                loss = estimate_loss(network, tokens.in_order(config.block_size))
                bits, perplexity = loss / math.log(2), math.exp(loss)
                units = f"{bits:.3f} bits per character, perplexity {perplexity:.2f}"
                show(f"{split + ':':<6} {loss:.4f} nats ({units})")
                half = config.block_size // 2
                if split != "train" and len(tokens) > half + 1:
                    batches = tokens.in_order(config.block_size, overlap=half)
                    loss = estimate_loss(network, batches, skipped=half)
                    show(f"       {loss:.4f} nats with at least {half} characters of context")
            return parallel.leave_processes()
        rest = "" if state.step < config.max_iters else "; a larger --max_iters would go further"
        show(f"run:     {folder}, from step {state.step} to {config.max_iters}{rest}")
        with parallel.StopRequest() as stop:
            signal = train(network, optimizer, splits, meta, config, state, stop)
    parallel.leave_processes()
    if signal:
        command = f"python train.py --init_from=resume --out_dir={quoted(folder)}"
        show(f"stopped after step {state.step}, and saved; to go on:  {command}")
        sys.exit(128 + signal)
    show(f"done: {state.step} steps in {timedelta(seconds=round(state.seconds))}")
    show(f"best validation loss: {state.best_val_loss:.4f}, in {folder}/ckpt.pt")
    lowest, last = min(state.log, key=lambda row: row[-1]), state.log[-1]
    if last[-1] - lowest[-1] >= 0.01:
        why = "overfitting" if last[-2] < lowest[-2] else "the training loss has risen too"
        show(f"it was at step {lowest[0]}; since then {last[-1] - lowest[-1]:.2f} worse: {why}")
        show(f"the last weights are in {folder}/last.pt (sample.py --checkpoint)")
    show(f"to generate text:  python sample.py --out_dir={quoted(folder)}")


if __name__ == "__main__":
    run_main(main)
