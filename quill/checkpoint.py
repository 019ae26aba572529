"""Checkpoints: saving and loading them, and what a new run inherits from an earlier one.

out/<run>/ckpt.pt   the weights with the lowest validation loss so far: what sample.py reads
out/<run>/last.pt   the newest weights and the optimizers' state: what a resume reads

A checkpoint holds tensors and plain values only, its vocabulary and its settings among them: it is
enough to sample from, on a machine without the data.
"""

import functools
import hashlib
import inspect
import io
import sys
import zipfile
from dataclasses import asdict, fields
from pathlib import Path

import torch

from networks import NetworkConfig, build
from quill.files import reading, replacing
from quill.hardware import pick_device
from quill.terminal import RANK, UserError, did_you_mean, quoted, show
from tokenizer import Tokenizer, list_characters

FORMAT = 7  # raise it whenever the format changes
# The settings that the weights were trained for: they cannot be changed.
ARCHITECTURE = {field.name for field in fields(NetworkConfig)} - {"dropout"}
PER_CALL = {"out_dir", "init_from", "overwrite", "eval_only"}  # a resume does not inherit these
STARTS = ("scratch", "resume", "auto")  # what init_from may be, beside a path


def save(name, network, config, meta, state, optimizer=None):
    """Write a checkpoint into config.out_dir: all that sampling from a network needs; with the
    optimizer, all that a resume needs. meta: the dataset's meta.json. Of several processes, only
    the first one writes."""
    if RANK > 0:
        return
    checkpoint = {
        "format": FORMAT,
        "code": fingerprint(type(network).__module__),
        "weights": network.state_dict(),
        "config": asdict(config),
        "meta": meta,
        "state": asdict(state),
    }
    if optimizer:
        checkpoint["optimizer"] = optimizer.state_dict()
    buffer = io.BytesIO()  # torch.save would hide the error of a full disk
    torch.save(checkpoint, buffer)
    with replacing(Path(config.out_dir) / name) as file:
        file.write(buffer.getbuffer())


@functools.cache  # as at the first save, even if the file is edited while the run goes on
def fingerprint(module):
    """A hash of the source of a module: a network's weights mean nothing without its code."""
    return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()[:16]


def load_weights(network, checkpoint):
    """Load a checkpoint's weights into a network that was built with its settings. If the network's
    code is not the code that trained them, say so."""
    code = f"{type(network).__module__}.py"
    try:
        network.load_state_dict(checkpoint["weights"])
    except RuntimeError as error:
        advice = "undo the change, or train a new network"
        raise UserError(f"the weights do not fit {code}, which has changed: {advice}") from error
    if checkpoint["code"] != fingerprint(type(network).__module__):
        note = f"note: {code} has changed since this network was trained"
        show(f"{note}: unless it computes the same, expect a higher loss", file=sys.stderr)


def read_checkpoint(path):
    """What save() wrote, as a dict of plain values and CPU tensors.

    Nothing in the file is executed (weights_only), and every byte is checked against the checksums
    of the zip format, which torch.load ignores.
    """
    place = Path(path)
    ours = place.name in ("ckpt.pt", "last.pt")
    maker = f"python train.py --out_dir={quoted(place.parent)}" if ours else "train.py"
    known = [file.parent.as_posix() for file in Path("out").glob(f"*/{place.name}")]
    hint = "" if place.exists() else did_you_mean(place.parent.as_posix(), known)
    with reading(f"checkpoint {path}{hint}", maker):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"wrong checksum in {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["format"] != FORMAT:
            raise ValueError(f"its format is {checkpoint['format']}, this program's is {FORMAT}")
        return checkpoint


def network_of(checkpoint):
    """A checkpoint's network with its weights, on the CPU, ready to generate."""
    names = {field.name for field in fields(NetworkConfig)}  # the code may have changed
    saved = {name: value for name, value in checkpoint["config"].items() if name in names}
    try:
        network = build(NetworkConfig(**saved), len(checkpoint["meta"]["vocab"]))
    except ValueError as error:  # there is no such network, or its sizes do not fit
        raise UserError(f"the code cannot build the checkpoint's network: {error}") from error
    load_weights(network, checkpoint)
    return network.eval()


def load(path):
    """Return the network of a checkpoint and its tokenizer, to use them from Python."""
    checkpoint = read_checkpoint(path)
    return network_of(checkpoint), Tokenizer(checkpoint["meta"]["vocab"])


def find_checkpoint(out_dir="", checkpoint=""):
    """The path of the checkpoint that the options name; of the newest one if both are empty. Either
    may be the folder of a run or a file."""
    if checkpoint and out_dir:
        raise UserError("--out_dir and --checkpoint both name a checkpoint: give one of them")
    if checkpoint or out_dir:
        path = Path(checkpoint or out_dir)
        return path if path.is_file() or path.suffix == ".pt" else path / "ckpt.pt"
    found = list(Path("out").glob("*/ckpt.pt"))
    if not found:
        raise UserError(
            "no checkpoint under out/: train one (python train.py config/shakespeare_cpu.py), or "
            "name one with --out_dir or --checkpoint"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


# --- What a new run inherits ------------------------------------------------------------------


def refuse_to_overwrite(config):
    """Raise UserError if a run would replace another one in its folder, and was not told to."""
    folder = Path(config.out_dir)
    last, best = (folder / "last.pt").exists(), (folder / "ckpt.pt").exists()
    resumes = config.init_from == "resume" or (config.init_from == "auto" and last)
    if (last or best) and not resumes and not config.overwrite:
        further = "--init_from=resume goes on with it, " if last else ""
        raise UserError(
            f"{folder} already holds a run: {further}--out_dir=out/NAME starts another one, "
            "--overwrite replaces it"
        )


def origin_of(init_from):
    """The path of the checkpoint that init_from names."""
    path = find_checkpoint(init_from or "none")  # "" would be the newest run
    if not path.exists():
        known = [*STARTS, *(run.parent.as_posix() for run in Path("out").glob("*/ckpt.pt"))]
        hint = did_you_mean(init_from.lower(), known)
        gpt2 = "; GPT-2's weights cannot be loaded here" if "gpt2" in init_from.lower() else ""
        raise UserError(
            f"--init_from={init_from}: no {path} in {Path.cwd()}{hint}{gpt2}; give "
            f"{', '.join(STARTS)}, or the path of a checkpoint that train.py has written"
        )
    return path


def starting_point(config):
    """Return the checkpoint that a run starts from, or None, and whether the run is a resume."""
    how, last = config.init_from, Path(config.out_dir) / "last.pt"
    if how not in STARTS or config.eval_only:
        path = find_checkpoint(config.out_dir) if how in STARTS else origin_of(how)
        show(f"weights: {path}")
        return read_checkpoint(path), False
    if how == "resume" or (how == "auto" and last.exists()):
        return read_checkpoint(last), True
    return None, False


def inherited(checkpoint, asked, given, resume):
    """Return {name: value}, what a run takes over from the checkpoint that it starts from, unless
    given: in a resume and with eval_only all of them, otherwise only the architecture.

    asked: the settings without the checkpoint's. given: {name: value} of the recipe and the command
    line. Raises UserError if they change what cannot change, and prints what a resume changes.
    """
    if checkpoint is None:
        return {}
    names = asdict(asked).keys() - PER_CALL  # the code may have changed
    saved = {name: value for name, value in checkpoint["config"].items() if name in names}
    for name, value in saved.items():
        if given.get(name, value) == value:
            continue
        if name in ARCHITECTURE or (resume and name == "optimizer"):
            raise UserError(
                f"{name} is {given[name]} here but {value} in the checkpoint; it cannot change: "
                "leave it out, or start from scratch"
            )
        if resume:
            show(f"changed since this run stopped: {name} = {given[name]} (was {value})")
    if not (resume or asked.eval_only):
        return {name: value for name, value in saved.items() if name in ARCHITECTURE}
    if "device" not in given:  # the run may have been moved to another machine
        try:
            pick_device(saved["device"])
        except UserError as error:
            show(f"note: {error}")
            saved |= {"device": "auto", "dtype": asked.dtype}
    return saved


def check_same_data(checkpoint, meta, resume):
    """Raise UserError unless a run can go on with the dataset that `meta` describes: a resume needs
    the same text and split, any other run the same vocabulary."""
    saved = checkpoint["meta"]
    if resume and saved["checksums"] != meta["checksums"]:
        raise UserError(
            f"the dataset ({meta['source']}) is not the text that this run began with "
            f"({saved['source']}), or it is split differently; prepare that one again, or train "
            "on this one in a new run, with --init_from=FILE and --out_dir=out/NAME"
        )
    different = set(meta["vocab"]) ^ set(saved["vocab"])
    if different:
        raise UserError(
            f"the vocabularies of the data and of the checkpoint differ by "
            f"{list_characters(different)}; prepare the text with --vocab=CHECKPOINT"
        )
