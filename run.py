"""What a run works with, and the two things it does: one step of training, one evaluation.

Everything random in step i follows from (seed, i) alone, so a run that is stopped and resumed is
the same run.
"""

import contextlib
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from checkpoint import NETWORK_SETTINGS, Progress, network_from
from config import RANK, WORLD, UserError
from model import NetworkConfig, build, generate, pick_dtype
from optimizer import build_optimizers
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
        self.data = {name: Tokens(splits[name], self.device) for name in splits}

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
            self.progress.resumes.append(self.progress.step)

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
        return build(NetworkConfig(vocab_size=tokenizer.vocab_size, **shape))
    except (ValueError, RuntimeError) as error:  # RuntimeError: no memory for it
        raise UserError(f"no such network: {str(error).splitlines()[0]}") from error


# ---------------------------------------------------------------------------------------------
# One step


def tokens_a_step(config):
    """How many characters a step predicts."""
    return config.batch_size * config.gradient_accumulation_steps * config.block_size


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


def window_starts(run, split):
    """Where the windows begin that cover a split in order, each character predicted once."""
    return np.arange(0, len(run.data[split]) - 1, run.config.block_size)


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


def in_words(loss):
    """A loss in nats, and what it means in the field's other two units."""
    perplexity = math.exp(min(loss, 700))  # more would overflow
    bits = loss / math.log(2)
    return f"{loss:.4f} nats ({bits:.3f} bits per character, perplexity {perplexity:.2f})"


def short_sample(run):
    """What the network writes by itself now: a few lines."""
    first = run.tokenizer.encode("\n" if "\n" in run.tokenizer.vocab else run.tokenizer.vocab[0])
    idx = torch.from_numpy(first.astype(np.int64)).to(run.device)[None]  # (1,) -> (1, 1)
    generator = torch.Generator(run.device).manual_seed(0)
    run.network.eval()
    with run.autocast():
        idx = generate(run.network, idx, SAMPLE_LENGTH, temperature=0.8, generator=generator)
    run.network.train()
    return run.tokenizer.decode(idx[0].cpu()).strip()
