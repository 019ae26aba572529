"""A run on disk: what is kept of it, and how it is found again.

out/<run>/ckpt.pt   the weights with the lowest validation loss so far: what sample.py reads
out/<run>/last.pt   the newest weights and the optimizers' state: what a resume reads
out/<run>/log.csv   one row an evaluation
out/<run>/loss.png  the same as a picture, where matplotlib is installed; plots.py adds others

A checkpoint holds tensors and plain values only, its vocabulary and its settings among them: it
is enough to sample from, on a machine without the data.
"""

import io
import math
import os
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

try:
    import fcntl
except ImportError:  # Windows: there, two runs into one folder are not noticed
    fcntl = None

from config import MOMENTARY, SETTINGS, Config, UserError, replacing
from model import NetworkConfig, build

FORMAT = 3  # of a checkpoint; raised when an older program could not read a newer file
READABLE = (2, 3)  # 2 lacks settings that came later: they are as they were without them
CONTENTS = {"network", "weights", "vocab", "source", "sha256", "config", "progress"}
NETWORK_SETTINGS = {entry.name for entry in fields(NetworkConfig)} & set(SETTINGS)
SHAPE = NETWORK_SETTINGS - {"dropout", "attention"}  # these two may change from run to run


@dataclass
class Progress:
    """What a run has behind it; with the weights and the optimizers, all that a resume needs."""

    step: int = 0
    best_val_loss: float = math.inf
    seconds: float = 0.0  # of wall time, resumes summed
    resumes: list = field(default_factory=list)  # the steps at which the run was resumed
    log: list = field(default_factory=list)  # rows of log.csv


# ---------------------------------------------------------------------------------------------
# Reading


def load_checkpoint(path):
    """What train.py saved, as a dict of plain values and CPU tensors. Raises UserError.

    Nothing in the file is executed (weights_only), and every byte of it is checked against the
    checksums that the zip format carries, which torch.load itself does not look at.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise UserError(f"{path} is damaged: wrong checksum in {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint {path}; train.py makes one") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a checkpoint, or a part of one only ({error})") from error
    except UserError:
        raise
    except Exception as error:  # a stranger's file can go wrong in any way there is
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"{path} is not a checkpoint of this program ({reason})") from error
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of this program")
    if checkpoint["format"] not in READABLE:
        raise UserError(
            f"{path} has checkpoint format {checkpoint['format']}, this program reads "
            f"{' and '.join(map(str, READABLE))}: use the version of the program that wrote it"
        )
    missing = ", ".join(sorted(CONTENTS - set(checkpoint)))
    if missing:
        raise UserError(f"{path} is not a checkpoint of this program: it lacks {missing}")
    return checkpoint


def find_checkpoint(options):
    """The path of the checkpoint that the command line asks for; raises UserError."""
    if options.checkpoint:
        return Path(options.checkpoint)
    if options.out_dir:
        return Path(options.out_dir) / "ckpt.pt"
    checkpoints = sorted(Path("out").glob("*/ckpt.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise UserError(
            "no checkpoint under out/: train one (python train.py config/shakespeare_cpu.py), or "
            "name one with --out_dir or --checkpoint"
        )
    return checkpoints[-1]


def network_from(checkpoint, **changes):
    """The network of a checkpoint, weights and all, with `changes` to its NetworkConfig."""
    try:
        network = build(NetworkConfig(**{**checkpoint["network"], **changes}))
        network.load_state_dict(checkpoint["weights"])
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"the checkpoint's network and weights do not fit ({reason})") from error
    return network


def read_prompt(start, tokenizer):
    """(the prompt's text, its ids as a tensor (1, T)); raises UserError."""
    prompt = start
    if start is None:
        prompt = "\n" if "\n" in tokenizer.vocab else tokenizer.vocab[0]
    elif start.startswith("FILE:"):
        path = start.removeprefix("FILE:")
        try:
            prompt = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"--start: cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--start: {path} is not UTF-8 text ({error.reason})") from error
    if not prompt:
        raise UserError("--start: the prompt is empty; leave --start out to begin a new speech")
    try:
        ids = tokenizer.encode(prompt)
    except ValueError as error:
        raise UserError(
            f"--start: {error}; the network knows {tokenizer.vocab_size} characters: "
            f"{tokenizer.vocab!r}"
        ) from error
    return prompt, torch.from_numpy(ids.astype(np.int64))[None]  # (T,) -> (1, T)


def starting_point(config, given):
    """The checkpoint to start from, or None. Settings that were not `given` become its own."""
    folder = Path(config.out_dir)
    last = folder / "last.pt"
    if config.eval_only and config.init_from in ("scratch", "resume", "auto"):
        config.init_from = str(folder / "ckpt.pt")
    if config.init_from == "auto":
        config.init_from = "resume" if last.exists() else "scratch"
    if config.init_from == "scratch":
        studying = config.dry_run or config.overfit_batch or config.find_lr
        there = last.exists() or (folder / "ckpt.pt").exists()
        if there and not config.overwrite and not studying:
            raise UserError(
                f"{folder} already holds a run: --init_from=resume goes on with it, "
                "--out_dir=out/NAME starts beside it, --overwrite replaces it"
            )
        return None
    resume = config.init_from == "resume"
    if resume and not last.exists():
        others = [str(path.parent) for path in sorted(Path("out").glob("*/last.pt"))]
        raise UserError(
            f"nothing to resume: no {last}; "
            + (f"--out_dir takes one of {', '.join(others)}" if others else "no run in out/ either")
        )

    path = last if resume else Path(config.init_from)
    checkpoint = load_checkpoint(path)
    before = {**asdict(Config()), **checkpoint["config"]}  # an older one knew fewer settings
    for name, old in before.items():
        new = getattr(config, name, old)
        fixed = name in SHAPE or (resume and name == "optimizer")
        if fixed and name in given and new != old:
            raise UserError(f"{name} is {new} here but {old} in {path}, where it cannot change")
        asked = name in given or name in MOMENTARY
        if name in SHAPE or (resume and name in SETTINGS and not asked):
            setattr(config, name, old)
        elif resume and new != old and name not in MOMENTARY:
            print(f"changed since this run stopped: {name} = {new} (was {old})")
    return checkpoint


# ---------------------------------------------------------------------------------------------
# Writing


def claim(folder):
    """Make the folder, and make it this process's own for as long as the returned file is open.

    The system lets go of the lock when the process ends, however it ends. Raises UserError, with
    the number of the process that has it, if another one does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115 (it stays open)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise UserError(
            f"process {lock.read().strip()} is training into {folder}; wait for it, or give this "
            "run another --out_dir"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    return lock


def save(run, name, **more):
    """Write a checkpoint into the run's folder: all that sampling from it needs, and `more`."""
    checkpoint = {
        "format": FORMAT,
        "network": asdict(run.network.config),
        "weights": run.network.state_dict(),
        "vocab": run.tokenizer.vocab,
        "source": run.meta["source"],
        "sha256": run.meta["sha256"],
        "config": asdict(run.config),
        "progress": asdict(run.progress),
        **more,
    }
    buffer = io.BytesIO()  # torch.save hides what a disk complains of
    torch.save(checkpoint, buffer)
    with replacing(run.folder / name) as file:
        file.write(buffer.getbuffer())


def save_for_resume(run):
    """Write last.pt: a checkpoint with the state of the optimizers."""
    states = [optimizer.state_dict() for optimizer in run.optimizers]
    save(run, "last.pt", optimizers=states, scaler=run.scaler.state_dict())
