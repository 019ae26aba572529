"""A run on disk: saving, validating and finding checkpoints.

out/<run>/ckpt.pt   the weights with the lowest validation loss so far: what sample.py reads
out/<run>/last.pt   the newest weights and the optimizers' state: what a resume reads

A checkpoint holds tensors and plain values only, its vocabulary and its settings among them: it is
enough to sample from, on a machine without the data.
"""

import io
import math
import os
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are not noticed there
    fcntl = None

from ancestors import build
from model import NetworkConfig
from quill.dataset import check_vocabulary, listed
from quill.settings import PER_CALL, SETTINGS, Config, checked
from quill.terminal import UserError, replacing, show

FORMAT = 3  # of a checkpoint; raised when an older program could not read a newer file
READABLE = (2, 3)  # 2 lacks settings that came later: their defaults change nothing
TYPES = {"network": dict, "weights": dict, "vocab": str, "source": str, "sha256": str}
TYPES |= {"config": dict, "progress": dict}
NETWORK_SETTINGS = {entry.name for entry in fields(NetworkConfig)} & set(SETTINGS)
SHAPE = NETWORK_SETTINGS - {"dropout", "attention"}  # these two may change from run to run


@dataclass
class Progress:
    """How far a run has come; with the weights and the optimizers, all that a resume needs."""

    step: int = 0
    best_val_loss: float = math.inf
    seconds: float = 0.0  # of wall time, resumes summed
    resumes: list = field(default_factory=list)  # the steps at which the run was resumed
    log: list = field(default_factory=list)  # rows of log.csv


def load_checkpoint(path):
    """What train.py saved, as a dict of plain values and CPU tensors. Raises UserError.

    Nothing in the file is executed (weights_only), and every byte is checked against the checksums
    of the zip format, which torch.load itself ignores.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"wrong checksum in {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        check_contents(checkpoint)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint {path}; train.py makes one") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a stranger's file can be wrong in any way
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"{path} is damaged, or no checkpoint of this program: {reason}") from error
    return checkpoint


def check_contents(checkpoint):
    """Raise an exception, with the reason, unless a checkpoint has the parts that it needs."""
    if checkpoint["format"] not in READABLE:
        raise ValueError(f"its format is {checkpoint['format']}, this program reads {READABLE}")
    for name, kind in TYPES.items():
        if not isinstance(checkpoint[name], kind):
            raise TypeError(f"{name} should be of type {kind.__name__}")
    check_vocabulary(checkpoint["vocab"])
    for name, value in checkpoint["network"].items():
        if name in SETTINGS:
            checked(name, value)
    if checkpoint["network"]["vocab_size"] != len(checkpoint["vocab"]):
        raise ValueError("vocab_size is not the size of the vocabulary")
    Progress(**checkpoint["progress"])


def find_checkpoint(options):
    """The path of the checkpoint that --checkpoint or --out_dir names, else of the newest one."""
    if options.checkpoint:
        return Path(options.checkpoint)
    if options.out_dir:
        return Path(options.out_dir) / "ckpt.pt"
    checkpoints = Path("out").glob("*/ckpt.pt")
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(
            "no checkpoint under out/: train one (python train.py config/shakespeare_cpu.py), or "
            "name one with --out_dir or --checkpoint"
        )
    return newest


def build_network(settings, weights=None):
    """The network that the entries of a NetworkConfig describe, fresh or with given weights.
    Raises UserError if there is no such network or the weights do not fit it."""
    try:
        network = build(NetworkConfig(**settings))
        if weights:
            network.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"no such network: {reason}") from error
    return network


def network_from(checkpoint, **changes):
    """A checkpoint's network with its weights. `changes` replace entries of its NetworkConfig."""
    return build_network({**checkpoint["network"], **changes}, checkpoint["weights"])


def starting_point(config, given):
    """The checkpoint to start from, or None. Settings that are not in `given` become its own."""
    last, best = Path(config.out_dir) / "last.pt", Path(config.out_dir) / "ckpt.pt"
    if config.eval_only and config.init_from in ("scratch", "resume", "auto"):
        config.init_from = str(best)
    if config.init_from == "auto":
        config.init_from = "resume" if last.exists() else "scratch"
    if config.init_from == "scratch":
        if (last.exists() or best.exists()) and not config.overwrite:
            raise UserError(
                f"{config.out_dir} already holds a run: --init_from=resume goes on with it, "
                "--out_dir=out/NAME starts beside it, --overwrite replaces it"
            )
        return None
    resume = config.init_from == "resume"
    if resume and not last.exists():
        others = ", ".join(str(path.parent) for path in sorted(Path("out").glob("*/last.pt")))
        hint = f"--out_dir takes one of {others}" if others else "no run in out/ either"
        raise UserError(f"nothing to resume: no {last}; {hint}")

    path = last if resume else Path(config.init_from)
    checkpoint = load_checkpoint(path)
    before = {**asdict(Config()), **checkpoint["config"]}  # an older program had fewer settings
    for name, new in asdict(config).items():
        fixed = name in SHAPE or (resume and name == "optimizer")
        if name in PER_CALL or new == before[name] or not (fixed or resume):
            continue
        if name not in given:
            setattr(config, name, before[name])
        elif fixed:
            was = f"{name} is {new} here but {before[name]} in {path}"
            raise UserError(f"{was}, where it cannot change")
        else:
            show(f"changed since this run stopped: {name} = {new} (was {before[name]})")
    return checkpoint


def check_same_data(checkpoint, meta, config):
    """Raise UserError unless a checkpoint can go on with the dataset that `meta` describes."""
    if checkpoint["vocab"] != meta["vocab"]:
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


def restore(run, checkpoint):
    """Put a run, which has the checkpoint's weights, into the state in which it was saved."""
    for optimizer, saved in zip(run.optimizers, checkpoint["optimizers"], strict=True):
        # The groups hold the learning rate, weight decay and betas: those that apply now.
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({**saved, "param_groups": groups})
    run.scaler.load_state_dict(checkpoint["scaler"])
    run.progress = Progress(**checkpoint["progress"])
    run.progress.resumes.append(run.progress.step)


def lock_folder(folder):
    """Make the folder, and keep other runs out of it for as long as the returned file is open.

    The operating system releases the lock when the process ends, however it ends. Raises UserError,
    with the number of the process that holds the lock, if another one does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115 (it stays open)
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise UserError(
            f"process {lock.read().strip()} is training into {folder}; wait for it, or give this "
            "run another --out_dir"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
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
        "vocab": run.meta["vocab"],
        "source": run.meta["source"],
        "sha256": run.meta["sha256"],
        "config": asdict(run.config),
        "progress": asdict(run.progress),
        **more,
    }
    buffer = io.BytesIO()  # torch.save would hide the error of a full disk
    torch.save(checkpoint, buffer)
    with replacing(run.folder / name) as file:
        file.write(buffer.getbuffer())


def save_for_resume(run):
    """Write last.pt: a checkpoint with the state of the optimizers."""
    states = [optimizer.state_dict() for optimizer in run.optimizers]
    save(run, "last.pt", optimizers=states, scaler=run.scaler.state_dict())
