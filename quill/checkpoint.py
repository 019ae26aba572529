"""A run on the disk: saving, checking and finding checkpoints.

out/<run>/ckpt.pt   the weights with the lowest validation loss so far: what sample.py reads
out/<run>/last.pt   the newest weights and the optimizers' state: what a resume reads

A checkpoint holds tensors and plain values only, its vocabulary and its settings among them: it is
enough to sample from, on a machine without the data.
"""

from quill.dataset import check_types, check_vocabulary, listed
from quill.muon import Muon
from quill.settings import PER_CALL, SETTINGS, Config, checked
from quill.terminal import UserError, in_brief, reading, replacing, show

import io
import math
import shlex
import time
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from ancestors import build
from model import NetworkConfig

FORMAT = 3  # of a checkpoint; raised when an older program could not read a newer file
READABLE = (2, 3)  # 2 lacks settings that came later: their defaults change nothing
TYPES = {"network": dict, "weights": dict, "vocab": str, "source": str, "sha256": str}
TYPES |= {"config": dict, "progress": dict}
OPTIONAL = {"optimizers": list, "scaler": dict, "checksums": dict, "threads": int}
NETWORK_SETTINGS = {entry.name for entry in fields(NetworkConfig)} & set(SETTINGS)
SHAPE = NETWORK_SETTINGS - {"dropout", "attention"}  # these two may change from run to run
LARGEST_TABLES = 1 << 28  # bytes of position tables, which the size of the weights does not limit
LOG_COLUMNS = ["step", "tokens", "seconds", "learning_rate", "train_loss", "val_loss"]


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

    Nothing in the file is executed (weights_only), every byte is checked against the checksums of
    the zip format, which torch.load itself ignores, and every part against the others, before a
    network is built. It takes no more memory than the file is large.
    """
    with reading(f"checkpoint {path}", maker="train.py"):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type for member in archive.infolist()):
                raise ValueError("it is compressed, which torch.save never does")
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"wrong checksum in {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        check_contents(checkpoint)
    return checkpoint


def check_contents(checkpoint):
    """Raise an exception, with the reason, unless all parts of a checkpoint fit each other."""
    if checkpoint["format"] not in READABLE:
        raise ValueError(f"its format is {checkpoint['format']}, this program reads {READABLE}")
    check_types(checkpoint, TYPES)
    check_types(checkpoint, {name: OPTIONAL[name] for name in OPTIONAL if name in checkpoint})
    check_vocabulary(checkpoint["vocab"])
    check_tensors(checkpoint["weights"])
    progress = Progress(**checkpoint["progress"])
    check_types(vars(progress), {entry.name: entry.type for entry in fields(Progress)})
    numbers = [progress.step, progress.seconds, *progress.resumes]
    for row in progress.log:
        numbers += row
        if len(row) != len(LOG_COLUMNS):
            raise ValueError("a row of progress.log should have 6 numbers")
    check_numbers("progress", numbers)
    if not progress.best_val_loss >= 0:  # it may be infinite, but not nan
        raise ValueError("progress.best_val_loss should be a number of 0 or above")

    network, weights = checkpoint["network"], checkpoint["weights"]
    for name, value in [*checkpoint["config"].items(), *network.items()]:
        if name in SETTINGS:
            checked(name, value)
        if name in SHAPE and value != network.get(name, value):
            raise ValueError(f"config and network disagree on {name}")
    if network["vocab_size"] != len(checkpoint["vocab"]):
        raise ValueError("vocab_size is not the size of the vocabulary")
    config = NetworkConfig(**network)
    if least_parameters(config) > sum(weight.numel() for weight in weights.values()):
        raise ValueError("the network is larger than its weights")  # before it takes memory
    if config.block_size * config.n_embd * 8 > LARGEST_TABLES and config.network == "gpt":
        raise ValueError(f"block_size {config.block_size} is too large")
    tied = ("lm_head.weight", "token_embedding.weight")
    if config.network == "gpt" and not torch.equal(*(weights[name] for name in tied)):
        raise ValueError("lm_head.weight is not token_embedding.weight")


def check_numbers(name, numbers):
    """Raise ValueError unless all numbers are finite and not below 0."""
    if not all(type(number) in (int, float) and 0 <= number < math.inf for number in numbers):
        raise ValueError(f"{name} should hold finite numbers of 0 or above")


def check_tensors(tensors):
    """Raise ValueError unless {name: tensor} holds finite float32 tensors only."""
    for name, tensor in tensors.items():
        plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided
        if not plain or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(f"{name} should be a contiguous float32 tensor")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} should hold finite numbers only")


def least_parameters(config):
    """How many parameters a network has at least: without biases, norms and positions."""
    V, C = config.vocab_size, config.n_embd
    if config.network == "bigram":
        return V * V
    if config.network == "mlp":
        return V * C + (config.block_size * C + V) * config.n_hidden
    return V * C + 12 * config.n_layer * C * C


def find_checkpoint(options):
    """The path of the checkpoint that --checkpoint or --out_dir names, else of the newest one."""
    if options.checkpoint:
        return Path(options.checkpoint)
    if options.out_dir:
        return Path(options.out_dir) / "ckpt.pt"
    checkpoints = Path("out").glob("*/ckpt.pt")
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        advice = "train one (python train.py config/shakespeare_cpu.py), or name one with --out_dir"
        raise UserError(f"no checkpoint under out/: {advice} or --checkpoint")
    return newest


def build_network(settings, weights=None):
    """The network that the entries of a NetworkConfig describe, fresh or with given weights.
    Raises UserError if there is no such network or the weights do not fit it."""
    try:
        network = build(NetworkConfig(**settings))
        if weights:
            network.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        problem = str(error).split("\n")[0][:120]
        raise UserError(f"cannot build this network: {problem}") from error
    return network


def network_from(checkpoint, **changes):
    """A checkpoint's network with its weights. `changes` replace entries of its NetworkConfig."""
    return build_network({**checkpoint["network"], **changes}, checkpoint["weights"])


def starting_point(config, given):
    """The checkpoint to start from, or None. Raises UserError.

    Settings that are not in `given` take the checkpoint's values: all of them in a resume and with
    eval_only, otherwise those of the network's shape.
    """
    last, best = Path(config.out_dir) / "last.pt", Path(config.out_dir) / "ckpt.pt"
    if config.eval_only and config.init_from in ("scratch", "resume", "auto"):
        config.init_from = str(best)
    if config.init_from == "auto":
        if config.overwrite:
            raise UserError("--init_from=auto may resume a run, --overwrite replaces it: not both")
        config.init_from = "resume" if last.exists() else "scratch"
    resume = config.init_from == "resume"
    fresh = not (resume or config.overwrite or config.eval_only)
    # A run that ended before its first step may be replaced: it has learned nothing.
    if fresh and (best.exists() or (last.exists() and load_checkpoint(last)["progress"]["step"])):
        problem = f"{config.out_dir} already holds a run: --init_from=resume goes on with it,"
        raise UserError(f"{problem} --out_dir=out/NAME starts another one, --overwrite replaces it")
    if config.init_from == "scratch":
        return None
    if resume and not last.exists():
        others = ", ".join(str(path.parent) for path in sorted(Path("out").glob("*/last.pt")))
        raise UserError(f"nothing to resume: no {last}; runs under out/: {others or 'none'}")

    path = last if resume else Path(config.init_from)
    checkpoint = load_checkpoint(path)
    before = {**asdict(Config()), **checkpoint["config"]}  # an older program had fewer settings
    for name, new in asdict(config).items():
        fixed = name in SHAPE or (resume and name == "optimizer")
        kept = fixed or resume or config.eval_only
        if name in PER_CALL or new == before[name] or not kept:
            continue
        if name not in given:
            setattr(config, name, before[name])
        elif fixed:
            was = f"{name} is {new} here but {before[name]} in {path}"
            raise UserError(f"{was}; it cannot change: leave it out, or start from scratch")
        elif resume:
            show(f"changed since this run stopped: {name} = {new} (was {before[name]})")
    return checkpoint


def check_same_data(checkpoint, meta, config):
    """Raise UserError unless a checkpoint can go on with the dataset that `meta` describes."""
    if checkpoint["vocab"] != meta["vocab"]:
        data, known = set(meta["vocab"]), set(checkpoint["vocab"])
        raise UserError(
            f"the vocabularies differ: {listed(data - known) or 'nothing'} only in the data, "
            f"{listed(known - data) or 'nothing'} only in the checkpoint; prepare the text again "
            "with --vocab and the meta.json of the data that the checkpoint was trained on"
        )
    checksums = checksums_of_splits(meta)
    before = checkpoint.get("checksums", checksums)  # an older program did not save them
    same = checkpoint["sha256"] == meta["sha256"] and before == checksums
    if config.init_from == "resume" and not same:
        raise UserError(
            f"data/{config.dataset} is not the text that this run began with, or is split in "
            f"another way; prepare that one again ({checkpoint['source']}), or train on this one "
            f"in a new run: --init_from={shlex.quote(config.out_dir)}/ckpt.pt --out_dir=out/NAME"
        )


def checksums_of_splits(meta):
    """The checksums of a dataset's .bin files, where meta.json has them."""
    return {name: sha for name, sha in meta.get("checksums", {}).items() if name != "meta.json"}


def restore(run, checkpoint):
    """Put a run, which has the checkpoint's weights, into the state in which it was saved. Raises
    UserError if the checkpoint lacks the optimizers' state, or the state does not fit."""
    try:
        for optimizer, saved in zip(run.optimizers, checkpoint["optimizers"], strict=True):
            check_optimizer_state(optimizer, saved["state"])
            # The groups hold the learning rate, weight decay and betas: those that apply now.
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        scaler = checkpoint["scaler"]
        check_numbers("scaler", scaler.values())
        if run.scaler.is_enabled() and scaler:  # empty: until now it was not float16
            run.scaler.load_state_dict(scaler)
    except Exception as error:  # a stranger's file can be wrong in any way
        problem = f"{run.folder / 'last.pt'} cannot be resumed ({in_brief(error)})"
        raise UserError(f"{problem}; --init_from=FILE starts a new run from its weights") from error
    before, threads = checkpoint.get("threads"), torch.get_num_threads()
    if before not in (None, threads):
        show(f"this run had {before} threads and goes on with {threads}: last digits may differ")
    run.progress = Progress(**checkpoint["progress"])
    run.progress.resumes.append(run.progress.step)


def check_optimizer_state(optimizer, state):
    """Raise an exception unless `state` holds every average of every parameter, or nothing."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if state and set(state) != set(range(len(parameters))):
        raise ValueError("the optimizer's state is of other parameters")
    adamw = {"step", "exp_avg", "exp_avg_sq"}
    names = {"momentum_buffer"} if isinstance(optimizer, Muon) else adamw
    for number, averages in state.items():
        check_tensors(averages)
        shape = parameters[number].shape
        shapes = {name: shape if name != "step" else torch.Size() for name in names}
        if {name: average.shape for name, average in averages.items()} != shapes:
            raise ValueError("the optimizer's state is of another optimizer or network")
        if any((averages[name] < 0).any() for name in names & {"step", "exp_avg_sq"}):
            raise ValueError("an average of squares is below 0")


def begin(run):
    """Save the run before its first step, so that it can be resumed whatever happens, and remove
    what an earlier run left in its folder. A resume repeats what a kill may have interrupted: this,
    or the writing of the log."""
    if run.config.init_from != "resume":
        save_for_resume(run)
    if run.progress.log:
        write_log(run)
    else:
        for name in ("ckpt.pt", "log.csv", "loss.png"):
            (run.folder / name).unlink(missing_ok=True)


def save(run, name, **more):
    """Write a checkpoint into the run's folder: all that sampling from it needs, and `more`."""
    checkpoint = {
        "format": FORMAT,
        "network": asdict(run.network.config),
        "weights": run.network.state_dict(),
        **{entry: run.meta[entry] for entry in ("vocab", "source", "sha256")},
        "checksums": checksums_of_splits(run.meta),
        "threads": torch.get_num_threads(),
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


def write_log(run):
    """Write log.csv and loss.png anew, from the rows in run.progress; returns lines to print. A
    plot needs two rows: one has no curve. It takes a third of a second, so there is at most one a
    second, and one at the end."""
    rows = run.progress.log
    with replacing(run.folder / "log.csv") as file:
        for row in [LOG_COLUMNS, *rows]:
            file.write((",".join(map(str, row)) + "\n").encode())
    finished = run.progress.step == run.config.max_iters
    if run.plot and len(rows) > 1 and (finished or time.monotonic() - run.plotted > 1):
        run.plotted = time.monotonic()
        try:
            with replacing(run.folder / "loss.png") as file:
                run.plot(LOG_COLUMNS, rows, file, run.progress.resumes)
        except Exception as error:  # whatever matplotlib raises: no plot is worth a run
            run.plot = None
            return [f"no loss.png from now on: {in_brief(error)}"]
    return []
