"""Train a network: show it text, measure its surprise, turn every weight against the surprise.

    python train.py config/shakespeare_cpu.py --max_iters=500     a recipe, then changes to it
    python train.py config/shakespeare_cpu.py --init_from=resume  go on with a run that stopped

writes out/<recipe>/: ckpt.pt (the lowest validation loss so far, what sample.py reads), last.pt
(what a resume reads), log.csv (a row an evaluation) and loss.png.

Everything random in step i follows from (seed, i) alone, so a run that is stopped and resumed is
the same run.
"""

import math
import signal
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from checkpoint import (
    NETWORK_SETTINGS,
    Progress,
    network_from,
    save,
    save_for_resume,
    starting_point,
    write_log,
)
from config import UserError, load, run_main
from model import GPT, GPTConfig, pick_device, pick_dtype
from prepare_shakespeare import Tokenizer, listed, open_dataset

# ---------------------------------------------------------------------------------------------
# Data: windows of the text


class Tokens:
    """One split of the text: a file of uint16 token ids, read where it lies.

    On CUDA it moves to the device as a whole, if it takes no more than a quarter of what is free
    there, and batches are gathered there; elsewhere they are gathered from the file.
    """

    def __init__(self, ids, device):
        self.device = device
        self.ids = ids  # (tokens,) uint16, a file seen as an array
        self.on_device = None
        if device.type == "cuda" and self.ids.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
            # Few operations know uint16; int16 holds the same bits.
            self.on_device = torch.from_numpy(np.array(self.ids).view(np.int16)).to(device)

    def __len__(self):
        return len(self.ids)

    def windows(self, starts, length):
        """The `length` ids from each of `starts` (B,) on: (B, length), int64, on the device."""
        if self.on_device is None:
            indices = starts[:, None] + np.arange(length)  # (B, 1) + (length,) -> (B, length)
            return torch.from_numpy(self.ids[indices].astype(np.int64)).to(self.device)
        starts = torch.from_numpy(starts).pin_memory().to(self.device, non_blocking=True)
        indices = starts[:, None] + torch.arange(length, device=self.device)  # (B, length)
        return self.on_device[indices].long() & 0xFFFF


def training_windows(run):
    """The step's sequences and what follows them: (batch_size * accumulation, block_size + 1)."""
    config, tokens = run.config, run.data["train"]
    generator = np.random.default_rng([config.seed, run.progress.step])
    count = config.batch_size * config.gradient_accumulation_steps
    starts = generator.integers(len(tokens) - config.block_size, size=count)
    return tokens.windows(starts, config.block_size + 1)


# ---------------------------------------------------------------------------------------------
# Optimisation


def learning_rate_at(step, config):
    """The learning rate of a step: linear warm-up, then a decay to min_lr at lr_decay_iters."""
    end = config.lr_decay_iters or config.max_iters
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if config.lr_schedule == "constant":
        return config.learning_rate
    if step >= end:
        return config.min_lr
    share = (end - step) / (end - config.warmup_iters)  # what is left of the way: 1 to 0
    if config.lr_schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return config.min_lr + share * (config.learning_rate - config.min_lr)


class Muon(torch.optim.Muon):
    """Momentum whose every update is turned into the nearest orthogonal matrix: it moves all
    directions of a matrix alike, where AdamW moves mostly the few that dominate its gradients.

    torch's own step computes in bfloat16 whatever the machine, which a CPU without bfloat16
    instructions emulates: 1.0 s a step for config/shakespeare_cpu.py, not 0.1. This one computes
    in `dtype`. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(self, parameters, dtype, **options):
        super().__init__(parameters, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(momentum, group["momentum"])  # Nesterov's look ahead
                update = nearly_orthogonal(update.to(self.dtype), group["ns_steps"])
                rows, columns = parameter.shape
                rate = group["lr"] * math.sqrt(max(1, rows / columns))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-rate)


def nearly_orthogonal(matrix, steps):
    """The matrix (rows, columns) with all its singular values moved close to 1.

    Each step applies a polynomial to them (Newton and Schulz's method); its coefficients, Jordan's,
    favour speed over precision: the values end between about 0.7 and 1.2.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return nearly_orthogonal(matrix.T, steps).T
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T  # (rows, columns) -> (rows, rows)
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x  # (rows, columns)
    return x


def build_optimizers(network, config, dtype):
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest.

    Matrices (and embeddings) decay towards zero, biases and the gains of norms do not: a gain
    pulled to zero would switch its part off (the rule of GPT-3 and nanoGPT).
    AdamW: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101.
    """
    parameters = network.named_parameters()
    inside, outside, vectors = [], [], []
    for name, parameter in parameters:
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif name.startswith("blocks."):
            inside.append(parameter)
        else:
            outside.append(parameter)

    muon = config.optimizer == "muon"
    groups = [
        {"params": outside if muon else inside + outside, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    optimizers = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)]
    if muon:
        rate, decay = config.muon_learning_rate, config.weight_decay
        optimizers.append(Muon(inside, dtype, lr=rate, weight_decay=decay))
    return optimizers


def set_learning_rate(optimizers, step, config):
    """Give every optimizer its rate for a step; returns AdamW's. Muon's follows in proportion."""
    rate = learning_rate_at(step, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
            if isinstance(optimizer, Muon):
                group["lr"] = rate / config.learning_rate * config.muon_learning_rate
    return rate


def check_finite(run, number):
    """Raise UserError if a loss or a gradient's norm (a tensor of one number) is inf or nan."""
    if not math.isfinite(number.item()):
        raise UserError(
            f"step {run.progress.step}: the loss or its gradient is no longer a finite number; the "
            f"usual cause is too high a learning rate (now {run.config.learning_rate}) or too "
            f"short a warm-up; the last good checkpoint stays in {run.folder}"
        )


def train_step(run, forward, windows):
    """One step of gradient descent on windows (batch_size * accumulation, block_size + 1).

    Returns the mean loss in nats, as a tensor: reading it is what makes a GPU wait.
    """
    config, scaler = run.config, run.scaler
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for part in windows.split(config.batch_size):  # (batch_size, block_size + 1)
        with run.autocast():
            _, loss = forward(part[:, :-1], part[:, 1:])
        loss = loss / config.gradient_accumulation_steps
        scaler.scale(loss).backward()
        total = total + loss.detach()
    for optimizer in run.optimizers:
        scaler.unscale_(optimizer)
    limit = config.grad_clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), limit)
    if run.device.type == "cpu" and not scaler.is_enabled():
        check_finite(run, norm)  # for nothing on a CPU; a GPU would have to be waited for
    for optimizer in run.optimizers:
        scaler.step(optimizer)
    scaler.update()
    return total


# ---------------------------------------------------------------------------------------------
# Evaluation

EVAL_TOKENS = 4096  # in one forward pass of an evaluation: its numbers fit a CPU cache
SAMPLE_LENGTH = 100  # characters shown at an evaluation: two or three lines


def evaluation_windows(tokens, starts, block_size):
    """Yield windows (B, block_size + 1) from ascending `starts`; one cut short at the end."""
    rows = max(1, EVAL_TOKENS // block_size)
    whole = starts[starts + block_size < len(tokens)]
    for i in range(0, len(whole), rows):
        yield tokens.windows(whole[i : i + rows], block_size + 1)
    for start in starts[len(whole) :]:
        yield tokens.windows(np.array([start]), len(tokens) - start)


@torch.no_grad()
def mean_loss(run, split, starts):
    """The mean cross-entropy in nats a character over the windows from `starts`, dropout off."""
    run.network.eval()
    losses, counts = [], []
    for windows in evaluation_windows(run.data[split], starts, run.config.block_size):
        with run.autocast():
            _, loss = run.network(windows[:, :-1], windows[:, 1:])
        losses.append(loss)
        counts.append(windows[:, 1:].numel())
    run.network.train()
    return float(np.average(torch.stack(losses).tolist(), weights=counts))


def short_sample(run):
    """What the network writes by itself now: a few lines."""
    first = run.tokenizer.encode("\n" if "\n" in run.tokenizer.vocab else run.tokenizer.vocab[0])
    idx = torch.from_numpy(first.astype(np.int64)).to(run.device)[None]  # (1,) -> (1, 1)
    generator = torch.Generator(run.device).manual_seed(0)
    run.network.eval()
    with run.autocast():
        idx = run.network.generate(idx, SAMPLE_LENGTH, temperature=0.8, generator=generator)
    run.network.train()
    return run.tokenizer.decode(idx[0].cpu()).strip()


# ---------------------------------------------------------------------------------------------
# What a run works with


class Run:
    """Everything that one run works with. Raises UserError where something does not fit."""

    def __init__(self, config, checkpoint):
        self.config = config
        self.folder = Path(config.out_dir)
        self.device = pick_device(config.device)
        # Of the matrix products. The weights are float32 always: small updates must not get lost.
        self.dtype = pick_dtype(config.dtype, self.device)

        self.meta, splits = open_dataset(config.dataset, config.block_size)
        self.tokenizer = Tokenizer(self.meta["vocab"])
        check_vocabulary(self.meta["vocab"], checkpoint)
        self.data = {name: Tokens(ids, self.device) for name, ids in splits.items()}

        torch.manual_seed(config.seed)
        self.network = build_network(config, self.tokenizer, checkpoint).to(self.device)
        self.optimizers = build_optimizers(self.network, config, self.dtype)
        # Scales losses up so that float16 gradients do not vanish; idle for the other dtypes.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

        self.progress = Progress()
        if config.init_from == "resume":
            for optimizer, state in zip(self.optimizers, checkpoint["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.scaler.load_state_dict(checkpoint["scaler"])
            self.progress = Progress(**checkpoint["progress"])

    def autocast(self):
        """The context in which forward passes compute in dtype."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def check_vocabulary(vocab, checkpoint):
    """Raise UserError unless the data's characters are the checkpoint's."""
    if checkpoint is None or checkpoint["vocab"] == vocab:
        return
    surplus, missing = set(vocab) - set(checkpoint["vocab"]), set(checkpoint["vocab"]) - set(vocab)
    raise UserError(
        "the data's vocabulary is not the checkpoint's: "
        f"{listed(surplus) or 'nothing'} only in the data, "
        f"{listed(missing) or 'nothing'} only in the checkpoint; prepare the text again with "
        "--vocab and the meta.json of the data that the checkpoint was trained on"
    )


def build_network(config, tokenizer, checkpoint):
    """The checkpoint's network, or a fresh one."""
    if checkpoint:
        return network_from(checkpoint, dropout=config.dropout, attention=config.attention)
    shape = {name: value for name, value in asdict(config).items() if name in NETWORK_SETTINGS}
    try:
        return GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape))
    except (ValueError, RuntimeError) as error:  # RuntimeError: no memory for it
        raise UserError(f"no such network: {str(error).splitlines()[0]}") from error


# ---------------------------------------------------------------------------------------------
# What the person at the terminal sees


def show(line, passing=False):
    """Print a line; a `passing` one is overwritten by the next where that can be."""
    if sys.stdout.isatty():
        print(f"\r{line}\033[K", end="" if passing else "\n", flush=True)
    else:
        print(line, flush=True)


def introduce(run):
    """Say what is about to be trained, on what, where."""
    config = run.config
    size = sum(parameter.numel() for parameter in run.network.parameters())
    batch = config.batch_size * config.gradient_accumulation_steps
    dtype = str(run.dtype).removeprefix("torch.")
    show(f"corpus:  {run.meta['source']}")
    show(f"         data/{config.dataset}, {run.meta['characters']:,} characters")
    show(
        f"network: {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
        f"block {config.block_size}: {size / 1e6:.2f} million parameters"
    )
    show(f"run:     {run.folder}, batch {batch}, on {run.device} in {dtype}")
    if run.progress.step:
        show(f"         resumed at step {run.progress.step}")


def conclude(run, stop):
    """Say how it ended and what to type next; exits with 128 + the signal if one stopped it."""
    progress = run.progress
    resume = f"python train.py --init_from=resume --out_dir={run.folder}"
    if stop.signal:
        show(f"stopped after step {progress.step}, and saved; to go on:  {resume}")
        sys.exit(128 + stop.signal)
    show(f"done: {progress.step} steps in {timedelta(seconds=round(progress.seconds))}")
    show(f"best validation loss: {progress.best_val_loss:.4f}, in {run.folder / 'ckpt.pt'}")
    show(f"read what it writes:  python sample.py --out_dir={run.folder}")


class StopRequest:
    """Ctrl-C or SIGTERM: the step in hand is finished and saved. A second Ctrl-C stops at once."""

    def __init__(self):
        self.signal = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)

    def receive(self, number, frame):
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        show("stopping after this step (Ctrl-C once more: at once)")


# ---------------------------------------------------------------------------------------------
# The loop, and the whole


def evaluate(run, rate):
    """Measure both losses, show them and a sample, keep the weights if they are the best so far.

    Validation covers its whole split in order, so that the same weights give the same digits. The
    training loss is an estimate from eval_iters batches of windows, spread evenly over the text.
    """
    config, progress = run.config, run.progress
    last = len(run.data["train"]) - config.block_size - 1
    spread = np.linspace(0, last, config.eval_iters * config.batch_size).astype(np.int64)
    train_loss = mean_loss(run, "train", spread)
    val_loss = mean_loss(run, "val", np.arange(0, len(run.data["val"]) - 1, config.block_size))
    best = val_loss < progress.best_val_loss
    progress.best_val_loss = min(val_loss, progress.best_val_loss)

    show(
        f"--- step {progress.step}: training loss {train_loss:.4f}, validation loss {val_loss:.4f} "
        f"nats ({val_loss / math.log(2):.3f} bits per character, perplexity "
        f"{math.exp(val_loss):.2f}), {'the best' if best else 'not the best'} so far"
    )
    for line in short_sample(run).splitlines():
        show(f"    | {line}")

    tokens, seconds = progress.step * tokens_a_step(config), round(progress.seconds, 2)
    progress.log.append([progress.step, tokens, seconds, rate, train_loss, val_loss])
    if best:
        save(run, "ckpt.pt")
    save_for_resume(run)
    write_log(run)


def tokens_a_step(config):
    """How many characters a step predicts."""
    return config.batch_size * config.gradient_accumulation_steps * config.block_size


def train(run, stop):
    """Train from where the run stands to max_iters, or to the step in which a stop is asked for."""
    config, progress = run.config, run.progress
    compiled = config.compile and run.device.type == "cuda"
    forward = torch.compile(run.network) if compiled else run.network
    if config.init_from not in ("scratch", "resume"):
        evaluate(run, rate=0.0)  # fine-tuning: what the network makes of the text as it comes
    started = time.monotonic() - progress.seconds
    log_step, log_time = progress.step, time.monotonic()
    while progress.step < config.max_iters and not stop.signal:
        torch.manual_seed(config.seed + progress.step)  # dropout's randomness, like the batch's
        rate = set_learning_rate(run.optimizers, progress.step, config)
        loss = train_step(run, forward, training_windows(run))
        progress.step += 1
        progress.seconds = time.monotonic() - started

        if progress.step % config.log_interval == 0 or progress.step == config.max_iters:
            check_finite(run, loss)
            now, steps = time.monotonic(), progress.step - log_step
            left = (now - started) / progress.step * (config.max_iters - progress.step)
            speed = steps * tokens_a_step(config) / (now - log_time)
            show(
                f"step {progress.step}/{config.max_iters} | loss {loss.item():.4f} | lr {rate:.1e} "
                f"| {speed:,.0f} tokens/s | {timedelta(seconds=round(left))} left",
                passing=True,
            )
            log_step, log_time = progress.step, now
        if progress.step % config.eval_interval == 0 or progress.step == config.max_iters:
            evaluate(run, rate)
            log_step, log_time = progress.step, time.monotonic()
    if stop.signal:
        save_for_resume(run)


def main(arguments):
    config, given = load(arguments)
    checkpoint = starting_point(config, given)
    run = Run(config, checkpoint)
    run.folder.mkdir(parents=True, exist_ok=True)
    introduce(run)
    stop = StopRequest()
    try:
        train(run, stop)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise UserError(
            f"{run.device} has not enough memory for this run: halve batch_size and double "
            "gradient_accumulation_steps (the same run in smaller pieces), or shrink the network"
        ) from error
    conclude(run, stop)


if __name__ == "__main__":
    run_main(main)
