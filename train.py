"""Train a network: show it text, measure its surprise, turn every weight against the surprise.

    python train.py config/shakespeare_cpu.py --max_iters=500     a recipe, then changes to it
    python train.py config/shakespeare_cpu.py --init_from=resume  go on with a run that stopped

writes out/<recipe>/: ckpt.pt (the lowest validation loss so far, what sample.py reads), last.pt
(what a resume reads), log.csv (a row an evaluation) and loss.png.

Everything random in step i follows from (seed, i) alone, so a run that is stopped and resumed is
the same run.
"""

import contextlib
import math
import os
import signal
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from checkpoint import (
    NETWORK_SETTINGS,
    Progress,
    claim,
    network_from,
    save,
    save_for_resume,
    starting_point,
    write_log,
)
from config import RANK, WORLD, UserError, load, run_main
from model import GPT, GPTConfig, pick_device, pick_dtype
from optimizer import build_optimizers, set_learning_rate
from prepare_shakespeare import Tokenizer, listed, open_dataset

# ---------------------------------------------------------------------------------------------
# Data: windows of the text


class Tokens:
    """One split of the text: a file of uint16 token ids, read where it lies.

    On CUDA it moves to the device as a whole, if it takes no more than a quarter of what is free
    there, and batches are gathered there. Elsewhere each window is read from the file, so that a
    text of any size takes no memory (of a file mapped into memory, what was read once stays).
    """

    def __init__(self, ids, device):
        self.device = device
        self.length = len(ids)  # ids: (tokens,) uint16, a file seen as an array
        self.file = open(ids.filename, "rb", buffering=0)  # noqa: SIM115 (as long as the run)
        self.on_device = None
        if device.type == "cuda" and ids.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
            # Few operations know uint16; int16 holds the same bits.
            self.on_device = torch.from_numpy(np.array(ids).view(np.int16)).to(device)

    def __len__(self):
        return self.length

    def windows(self, starts, length):
        """The `length` ids from each of `starts` (B,) on: (B, length), int64, on the device."""
        if self.on_device is None:
            ids = np.stack([self.read(start, length) for start in starts.tolist()])  # (B, length)
            return torch.from_numpy(ids.astype(np.int64)).to(self.device)
        starts = torch.from_numpy(starts).pin_memory().to(self.device, non_blocking=True)
        indices = starts[:, None] + torch.arange(length, device=self.device)  # (B, length)
        return self.on_device[indices].long() & 0xFFFF

    def read(self, start, length):
        """The `length` ids from `start` on, as they are in the file: (length,) uint16."""
        self.file.seek(2 * start)
        return np.frombuffer(self.file.read(2 * length), dtype="<u2")


def training_windows(run):
    """The step's sequences and what follows them: (batch_size * accumulation, block_size + 1)."""
    config, tokens = run.config, run.data["train"]
    generator = np.random.default_rng([config.seed, run.progress.step])
    count = config.batch_size * config.gradient_accumulation_steps
    starts = generator.integers(len(tokens) - config.block_size, size=count)
    return tokens.windows(starts, config.block_size + 1)


# ---------------------------------------------------------------------------------------------
# One step


def train_step(run, forward, windows):
    """One step of gradient descent on windows (batch_size * accumulation, block_size + 1).

    Of several processes, each takes its share of every part, and the gradients are averaged once.
    Returns this process's mean loss in nats and the gradient's norm before clipping, as tensors:
    reading them is what makes a GPU wait. If the norm is not finite the weights stay as they are.
    """
    config, scaler = run.config, run.scaler
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    total = 0.0
    parts = windows.split(config.batch_size)  # (batch_size, block_size + 1) each
    share = config.batch_size // WORLD
    for number, part in enumerate(parts, start=1):
        part = part[RANK * share : (RANK + 1) * share]  # (batch_size / WORLD, block_size + 1)
        early = WORLD > 1 and number < len(parts)
        with run.autocast(), forward.no_sync() if early else contextlib.nullcontext():
            _, loss = forward(part[:, :-1], part[:, 1:])
            loss = loss / config.gradient_accumulation_steps
            scaler.scale(loss).backward()
        total = total + loss.detach()
    for optimizer in run.optimizers:
        scaler.unscale_(optimizer)
    limit = config.grad_clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), limit)
    for optimizer in run.optimizers:
        if not scaler.is_enabled():
            optimizer.found_inf = (~norm.isfinite()).float()  # where a GradScaler puts it
        scaler.step(optimizer)
    scaler.update()
    return total, norm


# ---------------------------------------------------------------------------------------------
# Evaluation

EVAL_TOKENS = 4096  # in one forward pass of an evaluation: its numbers fit a CPU cache
SAMPLE_LENGTH = 100  # characters shown at an evaluation: two or three lines


def evaluation_pieces(tokens, starts, block_size):
    """Yield (starts, length) of batches of windows; what the split's end cuts short comes last."""
    rows = max(1, EVAL_TOKENS // block_size)
    whole = starts[starts + block_size < len(tokens)]
    for i in range(0, len(whole), rows):
        yield whole[i : i + rows], block_size + 1
    for start in starts[len(whole) :]:
        yield np.array([start]), len(tokens) - start


@torch.no_grad()
def mean_loss(run, split, starts):
    """The mean cross-entropy in nats a character over the windows from `starts`, dropout off."""
    run.network.eval()
    pieces = list(evaluation_pieces(run.data[split], starts, run.config.block_size))
    losses = torch.zeros(len(pieces), device=run.device)
    for i in range(RANK, len(pieces), WORLD):  # each process measures its share of the pieces
        windows = run.data[split].windows(*pieces[i])  # (B, block_size + 1)
        with run.autocast():
            _, losses[i] = run.network(windows[:, :-1], windows[:, 1:])
    if WORLD > 1:
        distributed.all_reduce(losses)
    run.network.train()
    counts = [len(starts) * (length - 1) for starts, length in pieces]
    return float(np.average(losses.tolist(), weights=counts))


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

    def __init__(self, config, checkpoint, device):
        self.config = config
        self.folder = Path(config.out_dir)
        self.device = device
        # Of the matrix products. The weights are float32 always: small updates must not get lost.
        self.dtype = pick_dtype(config.dtype, self.device)

        self.meta, splits = open_dataset(config.dataset, config.block_size)
        self.tokenizer = Tokenizer(self.meta["vocab"])
        check_data(self.meta, config, checkpoint)
        self.data = {name: Tokens(splits[name], self.device) for name in ("train", "val")}

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


def check_data(meta, config, checkpoint):
    """Raise UserError unless the data fit the processes and the checkpoint."""
    if config.batch_size % WORLD:
        nearest = max(1, round(config.batch_size / WORLD)) * WORLD
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared out evenly to {WORLD} processes; "
            f"the nearest that can is {nearest}"
        )
    if checkpoint and checkpoint["vocab"] != meta["vocab"]:
        data, known = set(meta["vocab"]), set(checkpoint["vocab"])
        raise UserError(
            "the data's vocabulary is not the checkpoint's: "
            f"{listed(data - known) or 'nothing'} only in the data, "
            f"{listed(known - data) or 'nothing'} only in the checkpoint; prepare the text again "
            "with --vocab and the meta.json of the data that the checkpoint was trained on"
        )
    if config.init_from == "resume" and checkpoint["sha256"] != meta["sha256"]:
        raise UserError(
            f"data/{config.dataset} is not the text that this run began with; prepare that one "
            f"again ({checkpoint['source']}), or train on the new one in a new run: "
            f"--init_from={config.out_dir}/ckpt.pt --out_dir=out/NAME"
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
    if RANK:
        return
    if sys.stdout.isatty():
        print(f"\r{line}\033[K", end="" if passing else "\n", flush=True)
    else:
        print(line, flush=True)


def introduce(run):
    """Say what is about to be trained, on what, where."""
    config = run.config
    size = sum(parameter.numel() for parameter in run.network.parameters())
    batch = config.batch_size * config.gradient_accumulation_steps
    show(f"corpus:  {run.meta['source']}")
    show(f"         data/{config.dataset}, {run.meta['characters']:,} characters")
    show(
        f"network: {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
        f"block {config.block_size}: {size / 1e6:.2f} million parameters"
    )
    show(f"run:     {run.folder}, batch {batch}, on {run.device} in {config.dtype}")
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
    """Ctrl-C or SIGTERM: the step in hand is finished and saved. A second Ctrl-C stops at once.

    `signal` changes in agree() only: one that arrives anywhere else in a step ends the next one,
    so that no process leaves the loop before it has saved, or while others go on.
    """

    def __init__(self):
        self.received = self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)

    def receive(self, number, frame):
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        show("stopping after this step (Ctrl-C once more: at once)")

    def agree(self, device):
        """Make known to all processes what signal any of them received."""
        self.signal = self.received
        if WORLD > 1:
            largest = torch.tensor(self.received, device=device)
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
            self.signal = largest.item()


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
        f"{math.exp(min(val_loss, 700)):.2f}), {'the best' if best else 'not the best'} so far"
    )
    for line in short_sample(run).splitlines() if RANK == 0 else []:
        show(f"    | {line}")

    tokens, seconds = progress.step * tokens_a_step(config), round(progress.seconds, 2)
    progress.log.append([progress.step, tokens, seconds, rate, train_loss, val_loss])
    if RANK == 0:
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
    on_cpu = run.device.type == "cpu"
    forward = DistributedDataParallel(run.network) if WORLD > 1 else run.network
    if config.compile and run.device.type == "cuda":
        forward = torch.compile(forward)
    if config.init_from not in ("scratch", "resume"):
        evaluate(run, rate=0.0)  # fine-tuning: what the network makes of the text as it comes

    started = time.monotonic() - progress.seconds
    log_step, log_time, worst_norm = progress.step, time.monotonic(), torch.tensor(0.0)
    while progress.step < config.max_iters and not stop.signal:
        # Dropout's randomness follows from the step, like the batch, and differs by process.
        torch.manual_seed(config.seed + progress.step + RANK * config.max_iters)
        rate = set_learning_rate(run.optimizers, progress.step, config)
        loss, norm = train_step(run, forward, training_windows(run))
        progress.step += 1
        progress.seconds = time.monotonic() - started

        last = progress.step == config.max_iters
        log = last or progress.step % config.log_interval == 0
        evaluation = last or progress.step % config.eval_interval == 0
        checkpoint = config.checkpoint_interval and progress.step % config.checkpoint_interval == 0
        # Looking at a number is for nothing on a CPU; a GPU has to be waited for.
        look = on_cpu or log or evaluation or checkpoint
        worst_norm = torch.maximum(worst_norm.to(norm.device), norm)
        if look:
            check_finite(run, worst_norm)
        if look or WORLD == 1:
            stop.agree(run.device)
        if log:
            now, steps = time.monotonic(), progress.step - log_step
            left = (now - started) / progress.step * (config.max_iters - progress.step)
            speed = steps * tokens_a_step(config) / (now - log_time)
            show(
                f"step {progress.step}/{config.max_iters} | loss {over_processes(loss):.4f} | "
                f"lr {rate:.1e} | {speed:,.0f} tokens/s | {timedelta(seconds=round(left))} left",
                passing=True,
            )
            log_step, log_time = progress.step, now
        if evaluation:
            evaluate(run, rate)
            log_step, log_time = progress.step, time.monotonic()
        elif RANK == 0 and (checkpoint or stop.signal):
            save_for_resume(run)


def check_finite(run, norm):
    """Raise UserError if a gradient's norm (a tensor of one number) is infinite or not a number."""
    if not run.scaler.is_enabled() and not math.isfinite(norm.item()):
        raise UserError(
            f"step {run.progress.step}: the loss or its gradient is no longer a finite number; the "
            f"usual cause is too high a learning rate (now {run.config.learning_rate}) or too "
            f"short a warm-up; the last good checkpoint stays in {run.folder}"
        )


def join_processes(device):
    """Meet the processes that torchrun started beside this one; returns this one's device."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(WORLD):
        # torchrun's store outlives the processes. After a restart it still tells where the dead
        # ones listened (https://github.com/pytorch/pytorch/issues/135712), so each start has a
        # corner of its own. On several machines the starts are not counted alike.
        store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    return device


def over_processes(number):
    """The mean of a tensor of one number over all processes, as a float."""
    if WORLD > 1:
        distributed.all_reduce(number)
    return number.item() / WORLD


def from_first_process(*things):
    """What process 0 has, in every process: the others may stand at another disk."""
    things = list(things)
    if WORLD > 1:
        distributed.broadcast_object_list(things)
    return things


def main(arguments):
    config, given = load(arguments)
    device = pick_device(config.device)
    if WORLD > 1:
        device = join_processes(device)
    checkpoint = starting_point(config, given) if RANK == 0 else None
    # What auto means is settled once, for all processes and for all resumes.
    config.dtype = str(pick_dtype(config.dtype, device)).removeprefix("torch.")
    config, checkpoint = from_first_process(config, checkpoint)
    run = Run(config, checkpoint, device)
    lock = claim(run.folder) if RANK == 0 else contextlib.nullcontext()
    with lock:
        introduce(run)
        stop = StopRequest()
        try:
            train(run, stop)
        except RuntimeError as error:
            if WORLD > 1 and ("gloo" in str(error) or "NCCL" in str(error)):
                raise UserError("another process of this run has ended") from error
            if "memory" not in str(error):
                raise
            raise UserError(
                f"{run.device} has not enough memory: halve batch_size and double "
                "gradient_accumulation_steps (the same run in smaller pieces), or shrink it"
            ) from error
    if WORLD > 1:
        distributed.destroy_process_group()
    conclude(run, stop)


if __name__ == "__main__":
    run_main(main)
