"""Train a network to predict the next character.

    python train.py config/shakespeare_cpu.py --max_iters=500     a recipe, and a change to it
    python train.py config/shakespeare_cpu.py --init_from=resume  go on with a run that stopped

A run writes into out/<recipe>/: ckpt.pt (the weights with the lowest validation loss so far, which
sample.py reads), last.pt (which a resume reads), log.csv (a row per evaluation) and loss.png.

From here to main(), everything is in the order in which it happens: a batch, the learning rate of a
step, the optimizers, one step, the loss on the validation split, and the loop around them.
"""

from quill import checkpoint, hardware, processes
from quill.dataset import Tokens, open_dataset
from quill.muon import Muon
from quill.processes import RANK, WORLD
from quill.settings import parse_command_line
from quill.terminal import UserError, conclude, describe_loss, introduce, locked, run_main, show

import contextlib
import math
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import plots
from prepare_shakespeare import Tokenizer
from sample import short_sample

# --- A batch: windows of the text -------------------------------------------------------------


def training_windows(run):
    """A step's sequences, each with the character that follows it: (N, block_size + 1) token ids,
    N = batch_size * gradient_accumulation_steps. They follow from the seed and the step alone, so
    a resumed run draws the same ones."""
    config, tokens = run.config, run.data["train"]
    generator = np.random.default_rng([config.seed, run.progress.step])
    count = config.batch_size * config.gradient_accumulation_steps
    starts = generator.integers(len(tokens) - config.block_size, size=count)  # (N,)
    return tokens.windows(starts, config.block_size + 1)


def tokens_per_step(config):
    """How many characters one step predicts."""
    return config.batch_size * config.gradient_accumulation_steps * config.block_size


# --- The learning rate: a linear warm-up, then a decay ----------------------------------------


def learning_rate_at(step, config):
    """AdamW's learning rate at a step, counted from 0: a warm-up, then a decay.

    The first warmup_iters steps have learning_rate * (step + 1) / (warmup_iters + 1). Then, with f
    the fraction of the decay still to come, from 1 down to 0 at lr_decay_iters (0: max_iters), and
    for good: min_lr + f * (learning_rate - min_lr) if lr_schedule is linear; the same with
    (1 - cos(pi * f)) / 2 in place of f if cosine; learning_rate if constant, or not decay_lr.
    """
    end = config.lr_decay_iters or config.max_iters
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if config.lr_schedule == "constant" or not config.decay_lr:
        return config.learning_rate
    if step >= end:
        return config.min_lr
    fraction = (end - step) / (end - config.warmup_iters)  # of the decay still to come: 1 to 0
    if config.lr_schedule == "cosine":
        fraction = (1 - math.cos(math.pi * fraction)) / 2
    return config.min_lr + fraction * (config.learning_rate - config.min_lr)


def set_learning_rate(optimizers, rate):
    """Set AdamW's learning rate; Muon's is a multiple of it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1)


# --- The optimizers: how a gradient moves the weights -----------------------------------------


def build_optimizers(network, config, dtype):
    """AdamW for all parameters; or Muon for the matrices inside the blocks, AdamW for the rest.

    AdamW keeps two running averages for each weight: of the gradient, which gives the direction of
    its step, and of the squared gradient; the step is divided by its square root. So a weight moves
    by about the learning rate, whatever the size of its gradients.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101.
    """
    named = list(network.named_parameters())
    vectors = [parameter for _, parameter in named if parameter.dim() < 2]
    matrices = [p for name, p in named if p.dim() == 2 and name.startswith("blocks.")]
    embeddings = [p for name, p in named if p.dim() == 2 and not name.startswith("blocks.")]
    muon = config.optimizer == "muon"
    if muon and not matrices:
        raise UserError(
            f"optimizer=muon is for the matrices inside a gpt's blocks: a {config.network} has none"
        )
    if muon and config.learning_rate == 0:
        raise UserError("optimizer=muon needs a learning_rate above 0: Muon's is a multiple of it")

    decay, betas = config.weight_decay, (config.beta1, config.beta2)
    groups = [
        {"params": embeddings if muon else matrices + embeddings, "weight_decay": decay},
        # Biases and the gains of norms do not decay: a gain of zero would switch its layer off.
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizers = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)]
    if muon:
        scale = config.muon_learning_rate / config.learning_rate
        group = {"params": matrices, "weight_decay": decay, "lr_scale": scale}
        optimizers.append(Muon([group], dtype, momentum=config.beta1))
    return optimizers


# --- What a run works with --------------------------------------------------------------------


class Run:
    """Everything that one run works with. Raises UserError where something does not fit."""

    def __init__(self, config, saved, device):
        self.config, self.device = config, device
        self.folder = Path(config.out_dir)
        # Of the forward pass (autocast). Weights stay float32: small updates are not rounded away.
        self.dtype = hardware.pick_dtype(config.dtype, device)
        self.batch_per_process = processes.batch_per_process(config.batch_size)

        self.meta, paths = open_dataset(config.dataset, config.block_size)
        self.data = {split: Tokens(path, device) for split, path in paths.items()}
        self.tokenizer = Tokenizer(self.meta["vocab"])
        if saved:
            checkpoint.check_same_data(saved, self.meta, config)

        torch.manual_seed(config.seed)
        shape = {name: getattr(config, name) for name in checkpoint.NETWORK_SETTINGS}
        shape["vocab_size"] = self.tokenizer.vocab_size
        shape["attention"] = hardware.pick_attention(config.attention, device)
        self.network = checkpoint.build_network(shape, saved and saved["weights"]).to(device)
        hardware.speed_up_training(self.network, device, self.dtype)
        self.optimizers = build_optimizers(self.network, config, self.dtype)
        # Scales losses up so that float16 gradients do not vanish; idle for the other dtypes.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.progress = checkpoint.Progress()
        self.plot = plots.draw_loss if plots.available() else None
        self.plotted = -math.inf  # when, in seconds of time.monotonic()
        origin = config.init_from
        if config.init_from == "resume":
            checkpoint.restore(self, saved)
            origin = saved["config"].get("init_from", "scratch")
        self.fine_tuning = origin not in ("scratch", "resume") and self.progress.step == 0

    def autocast(self):
        """The context in which a forward pass computes in dtype."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


# --- One step ---------------------------------------------------------------------------------


def train_step(run, forward, windows):
    """One step of gradient descent on training_windows().

    `forward` is run.network, possibly compiled, or wrapped for several processes. Each process
    takes an equal part of a batch. Returns this process's mean loss in nats and the norm of the
    gradient before clipping, as tensors: reading them would make a GPU wait. If the norm is not
    finite, the weights stay as they are.
    """
    config, scaler = run.config, run.scaler
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    total = 0.0
    batches = windows.split(config.batch_size)  # (batch_size, block_size + 1) each
    for number, batch in enumerate(batches, start=1):
        batch = batch.split(run.batch_per_process)[RANK]  # (batch_size / WORLD, block_size + 1)
        accumulating = WORLD > 1 and number < len(batches)  # average once, at the end
        with run.autocast(), forward.no_sync() if accumulating else contextlib.nullcontext():
            _, loss = forward(batch[:, :-1], batch[:, 1:])
            loss = loss / config.gradient_accumulation_steps
            scaler.scale(loss).backward()
        total = total + loss.detach()
    for optimizer in run.optimizers:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), config.grad_clip or math.inf)
    for optimizer in run.optimizers:
        if not scaler.is_enabled():
            optimizer.found_inf = (~norm.isfinite()).float()  # what makes it skip a step
        scaler.step(optimizer)
    scaler.update()
    return total, norm


# --- The loss on a whole split ----------------------------------------------------------------

EVAL_TOKENS = 4096  # in one forward pass of an evaluation: its activations fit a CPU cache
CUDA_EVAL_TOKENS = 32768  # with fewer, a GPU waits for Python to start the next kernel


def split_starts(run, split):
    """Where the windows start that cover a split in order, each character predicted once."""
    return np.arange(0, len(run.data[split]) - 1, run.config.block_size)


def evaluation_batches(run, split, starts):
    """Yield (starts, length) of batches of windows; a window that the end cuts short comes last."""
    end, block_size = len(run.data[split]), run.config.block_size
    rows = (CUDA_EVAL_TOKENS if run.device.type == "cuda" else EVAL_TOKENS) // block_size
    whole = starts[starts + block_size < end]
    for i in range(0, len(whole), max(1, rows)):
        yield whole[i : i + max(1, rows)], block_size + 1
    for start in starts[len(whole) :]:
        yield np.array([start]), end - start


@torch.no_grad()
def mean_loss(run, split, starts):
    """The mean cross-entropy in nats per character over windows, without dropout."""
    run.network.eval()
    batches = list(evaluation_batches(run, split, starts))
    losses = torch.zeros(len(batches), device=run.device)
    for i in range(RANK, len(batches), WORLD):  # each process takes every WORLD-th batch
        windows = run.data[split].windows(*batches[i])  # (B, length <= block_size + 1)
        with run.autocast():
            _, losses[i] = run.network(windows[:, :-1], windows[:, 1:])
    run.network.train()
    counts = [len(rows) * (length - 1) for rows, length in batches]
    return float(np.average(processes.summed(losses).tolist(), weights=counts))


# --- An evaluation: both losses, a sample, and what is saved ----------------------------------


def evaluate(run, rate):
    """Measure both losses, and save the run, and its weights if they are the best so far. Returns
    the lines to print: all files are written before that, because printing can block.

    Validation covers its whole split in order, so the same weights give the same digits. The
    training loss is an estimate from eval_iters batches of windows, spread evenly over the text.
    """
    config, progress = run.config, run.progress
    last = len(run.data["train"]) - config.block_size - 1
    spread = np.linspace(0, last, config.eval_iters * config.batch_size).astype(np.int64)
    train_loss = mean_loss(run, "train", spread)
    val_loss = mean_loss(run, "val", split_starts(run, "val"))
    check_finite(run, train_loss + val_loss)
    best = val_loss < progress.best_val_loss
    progress.best_val_loss = min(val_loss, progress.best_val_loss)

    tokens, seconds = progress.step * tokens_per_step(config), round(progress.seconds, 2)
    progress.log.append([progress.step, tokens, seconds, rate, train_loss, val_loss])
    if RANK > 0:
        return []
    if best:
        checkpoint.save(run, "ckpt.pt")
    checkpoint.save_for_resume(run)
    lines = [
        f"--- step {progress.step}: training loss {train_loss:.4f}, validation loss "
        f"{describe_loss(val_loss)}, {'the best' if best else 'not the best'} so far"
    ]
    lines += [f"    | {line}" for line in short_sample(run).splitlines()]
    return lines + checkpoint.write_log(run)


# --- The loop ---------------------------------------------------------------------------------


def forward_of(run):
    """The network as training calls it: wrapped for several processes, compiled on CUDA."""
    forward = DistributedDataParallel(run.network) if WORLD > 1 else run.network
    if run.config.compile and run.device.type == "cuda":
        return hardware.compiled(forward, run, training_windows(run)[: run.batch_per_process])
    return forward


def train(run, stop):
    """Train to max_iters, or until `stop` has received a signal."""
    config, progress = run.config, run.progress
    on_cpu = run.device.type == "cpu"
    forward = forward_of(run)
    if run.fine_tuning and not progress.log:  # the loss on the new text before the first step
        for line in evaluate(run, rate=0.0):
            show(line)

    started = time.monotonic() - progress.seconds
    log_step, log_time, largest_norm = progress.step, time.monotonic(), torch.tensor(0.0)
    while progress.step < config.max_iters and not stop.signal:
        # Like the batch, dropout's randomness follows from the step; it differs by process.
        torch.manual_seed(config.seed + progress.step + RANK * config.max_iters)
        rate = learning_rate_at(progress.step, config)
        set_learning_rate(run.optimizers, rate)
        loss, norm = train_step(run, forward, training_windows(run))
        progress.step += 1
        progress.seconds = time.monotonic() - started

        last = progress.step == config.max_iters
        log = last or progress.step % config.log_interval == 0
        evaluation = last or progress.step % config.eval_interval == 0
        save = config.checkpoint_interval and progress.step % config.checkpoint_interval == 0
        # Reading a loss costs nothing on a CPU; on a GPU it waits for the device, so do it only
        # when logging or saving.
        read = on_cpu or log or evaluation or save
        largest_norm = torch.maximum(largest_norm.to(norm.device), norm)
        if read:
            check_step(run, largest_norm)
        if read or WORLD == 1:
            stop.synchronize(run.device)
        lines = []
        if log:
            now, steps = time.monotonic(), progress.step - log_step
            left = (now - started) / progress.step * (config.max_iters - progress.step)
            speed = steps * tokens_per_step(config) / (now - log_time)
            mean = processes.summed(loss).item() / WORLD
            lines.append(
                f"step {progress.step}/{config.max_iters} | loss {mean:.4f} | "
                f"lr {rate:.1e} | {speed:,.0f} tokens/s | {timedelta(seconds=round(left))} left"
            )
            log_step, log_time = progress.step, now
        if evaluation:
            lines += evaluate(run, rate)
            log_step, log_time = progress.step, time.monotonic()
        elif save or stop.signal:
            # Tried on one window, so that broken weights do not replace last.pt.
            check_finite(run, mean_loss(run, "val", split_starts(run, "val")[:1]))
            if RANK == 0:
                checkpoint.save_for_resume(run)
        for line in lines:  # printed after any save, since printing can block or fail
            show(line, passing=line.startswith("step"))


def check_step(run, norm):
    """Raise UserError if a gradient's norm (a tensor of one number) shows that a run diverges."""
    if run.scaler.is_enabled():  # in float16 it skips infinite gradients and halves its scale
        norm = math.inf if run.scaler.get_scale() < 1 else 0.0
    check_finite(run, norm)


def check_finite(run, number):
    """Raise UserError if a loss or a gradient norm is not finite: the run has diverged."""
    if not math.isfinite(number):
        kept = f"; the best weights so far are in {run.folder / 'ckpt.pt'}"
        raise UserError(
            f"step {run.progress.step}: the loss or its gradient is no longer a finite number; the "
            f"usual cause is too high a learning rate (now {run.config.learning_rate}) or too "
            f"short a warm-up{kept if run.progress.log else ''}"
        )


# --- The program ------------------------------------------------------------------------------


def best_test_loss(run):
    """The test loss of the weights that validation chose; None if there is no test split."""
    if "test" not in run.data:
        return None
    best = checkpoint.load_checkpoint(run.folder / "ckpt.pt")["weights"] if RANK == 0 else None
    [weights] = processes.from_first_process(best)
    run.network.load_state_dict(weights)
    return mean_loss(run, "test", split_starts(run, "test"))


def build_run(config, given):
    """The Run that the settings ask for. Raises UserError."""
    saved = checkpoint.starting_point(config, given) if RANK == 0 else None
    config, saved = processes.from_first_process(config, saved)
    device = processes.own_device(hardware.pick_device(config.device))
    # What auto means is decided once, for all processes and all resumes.
    dtype = str(hardware.pick_dtype(config.dtype, device)).removeprefix("torch.")
    [config.dtype] = processes.from_first_process(dtype)
    return Run(config, saved, device)


def train_and_save(config, given):
    """Train in a folder that no other process writes into."""
    with locked(Path(config.out_dir)) if RANK == 0 else contextlib.nullcontext():
        run = build_run(config, given)
        stop = processes.StopRequest()
        introduce(run)
        if RANK == 0:
            checkpoint.begin(run)
        train(run, stop)
        stopped = stop.signal and run.progress.step < run.config.max_iters
        test_loss = None if stopped else best_test_loss(run)
    if WORLD > 1:
        distributed.destroy_process_group()
    if stopped:
        resume = f"python train.py --init_from=resume --out_dir={shlex.quote(str(run.folder))}"
        show(f"stopped after step {run.progress.step}, and saved; to go on:  {resume}")
        sys.exit(128 + stop.signal)
    conclude(run, test_loss)


def print_losses(config, given):
    """Print the loss of every split, for the checkpoint in init_from, else the run's best."""
    run = build_run(config, given)
    introduce(run)
    for split in run.data:
        loss = mean_loss(run, split, split_starts(run, split))
        show(f"{split + ':':<6} {describe_loss(loss)}")


def main(arguments):
    config, given = parse_command_line(arguments)
    processes.join_processes()
    with hardware.errors_explained():
        if config.eval_only:
            print_losses(config, given)
        else:
            train_and_save(config, given)


if __name__ == "__main__":
    run_main(main)
