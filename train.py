"""Train a network: show it text, measure its surprise, turn every weight against the surprise.

    python train.py config/shakespeare_cpu.py --max_iters=500     a recipe, then changes to it
    python train.py config/shakespeare_cpu.py --init_from=resume  go on with a run that stopped

writes out/<recipe>/: ckpt.pt (the lowest validation loss so far, what sample.py reads), last.pt
(what a resume reads), log.csv (a row an evaluation) and loss.png.
"""

import contextlib
import csv
import io
import math
import os
import signal
import sys
import time
from datetime import timedelta

import numpy as np
import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

import plots
import studies
from checkpoint import claim, load_checkpoint, save, save_for_resume, starting_point
from config import RANK, WORLD, UserError, load, replacing, run_main, show
from model import pick_device, pick_dtype
from optimizer import set_learning_rate
from run import (
    Run,
    in_words,
    mean_loss,
    short_sample,
    tokens_a_step,
    train_step,
    training_windows,
    window_starts,
)

# ---------------------------------------------------------------------------------------------
# What the person at the terminal sees


def introduce(run):
    """Say what is about to be trained, on what, where."""
    config = run.config
    size = sum(parameter.numel() for parameter in run.network.parameters())
    batch = config.batch_size * config.gradient_accumulation_steps
    show(f"corpus:  {run.meta['source']}")
    show(f"         data/{config.dataset}, {run.meta['characters']:,} characters")
    shapes = {
        "bigram": "bigram, a table of pairs",
        "mlp": f"mlp, {config.block_size} places of {config.n_embd} numbers, "
        f"{config.n_hidden} hidden",
        "gpt": f"gpt, {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
        f"block {config.block_size}",
    }
    show(f"network: {shapes[config.network]}: {size:,} parameters")
    show(f"run:     {run.folder}, batch {batch}, on {run.device} in {config.dtype}")
    if run.progress.step:
        show(f"         resumed at step {run.progress.step}")


def conclude(run, test_loss):
    """Say how the run ended, and what to type next."""
    progress = run.progress
    show(f"done: {progress.step} steps in {timedelta(seconds=round(progress.seconds))}")
    show(f"best validation loss: {progress.best_val_loss:.4f}, in {run.folder / 'ckpt.pt'}")
    if test_loss is not None:
        show(f"test loss of those weights: {test_loss:.4f}")
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

LOG_COLUMNS = ["step", "tokens", "seconds", "learning_rate", "train_loss", "val_loss"]


def evaluate(run, rate):
    """Measure both losses, show them and a sample, keep the weights if they are the best so far.

    Validation covers its whole split in order, so that the same weights give the same digits. The
    training loss is an estimate from eval_iters batches of windows, spread evenly over the text.
    """
    config, progress = run.config, run.progress
    last = len(run.data["train"]) - config.block_size - 1
    spread = np.linspace(0, last, config.eval_iters * config.batch_size).astype(np.int64)
    train_loss = mean_loss(run, "train", spread)
    val_loss = mean_loss(run, "val", window_starts(run, "val"))
    best = val_loss < progress.best_val_loss
    progress.best_val_loss = min(val_loss, progress.best_val_loss)

    show(
        f"--- step {progress.step}: training loss {train_loss:.4f}, validation loss "
        f"{in_words(val_loss)}, {'the best' if best else 'not the best'} so far"
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


def write_log(run):
    """Write log.csv and loss.png, whole, from the rows that the run carries with it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LOG_COLUMNS)
    writer.writerows(run.progress.log)
    with replacing(run.folder / "log.csv") as file:
        file.write(text.getvalue().encode())
    if plots.available():
        with replacing(run.folder / "loss.png") as file:
            plots.draw_loss(LOG_COLUMNS, run.progress.log, file, run.progress.resumes)


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


def test_loss_of_the_best(run):
    """The test split's loss of the weights that validation chose; None without such a split."""
    if "test" not in run.data:
        return None
    [weights] = from_first_process(
        load_checkpoint(run.folder / "ckpt.pt")["weights"] if RANK == 0 else None
    )
    run.network.load_state_dict(weights)
    return mean_loss(run, "test", window_starts(run, "test"))


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


@contextlib.contextmanager
def errors_explained(device):
    """Turn what PyTorch says of memory, and of processes that ended, into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if WORLD > 1 and ("gloo" in str(error) or "NCCL" in str(error)):
            raise UserError("another process of this run has ended") from error
        if "memory" not in str(error):
            raise
        raise UserError(
            f"{device} has not enough memory: halve batch_size and double "
            "gradient_accumulation_steps (the same run in smaller pieces), or shrink it"
        ) from error


def main(arguments):
    config, given = load(arguments)
    study = studies.chosen(config)
    device = pick_device(config.device)
    if WORLD > 1:
        device = join_processes(device)
    checkpoint = starting_point(config, given) if RANK == 0 else None
    # What auto means is settled once, for all processes and for all resumes.
    config.dtype = str(pick_dtype(config.dtype, device)).removeprefix("torch.")
    config, checkpoint = from_first_process(config, checkpoint)
    run = Run(config, checkpoint, device)
    if study:
        introduce(run)
        with errors_explained(device):
            study(run)
        return
    lock = claim(run.folder) if RANK == 0 else contextlib.nullcontext()
    with lock, errors_explained(device):
        introduce(run)
        stop = StopRequest()
        train(run, stop)
        test_loss = None if stop.signal else test_loss_of_the_best(run)
    if WORLD > 1:
        distributed.destroy_process_group()
    if stop.signal:
        resume = f"python train.py --init_from=resume --out_dir={run.folder}"
        show(f"stopped after step {run.progress.step}, and saved; to go on:  {resume}")
        sys.exit(128 + stop.signal)
    conclude(run, test_loss)


if __name__ == "__main__":
    run_main(main)
