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
import tokenize
import zipfile
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path

import torch

from networks import NetworkConfig, build
from quill.files import reading, replacing
from quill.hardware import is_usable
from quill.parallel import RANK
from quill.terminal import UserError, did_you_mean, quoted, show
from tokenizer import Tokenizer, list_characters

FORMAT = 7  # raise it whenever the format changes
# The settings that the weights were trained for: they cannot be changed.
ARCHITECTURE = {field.name for field in fields(NetworkConfig)} - {"dropout"}
PER_CALL = {"out_dir", "init_from", "overwrite", "eval_only"}  # a resume does not inherit these
STARTS = ("scratch", "resume", "auto")  # what init_from may be, beside a path
CHANGED = (
    "as the code has changed since the checkpoint was made: undo the change, or train a new network"
)
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


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


@functools.cache  # as the program began, even if the file is edited while it runs
def fingerprint(module):
    """A hash of the source of a module, without its comments and layout: the weights of a network
    mean nothing without its code."""
    source = io.StringIO(inspect.getsource(sys.modules[module])).readline
    tokens = [token for token in tokenize.generate_tokens(source) if token.type not in LAYOUT]
    return hashlib.sha256("".join(token.string for token in tokens).encode()).hexdigest()[:16]


def load_weights(network, checkpoint):
    """Load a checkpoint's weights into a network that was built with its settings. If the network's
    code is not the code that trained them, say so."""
    module = type(network).__module__
    changed = checkpoint["code"] != fingerprint(module)
    try:
        network.load_state_dict(checkpoint["weights"])
    except RuntimeError as error:
        if not changed:
            raise
        raise UserError(f"the weights do not fit {module}.py, {CHANGED}") from error
    if changed:
        note = f"note: {module}.py has changed since this network was trained"
        show(f"{note}: unless it computes the same, expect a higher loss", file=sys.stderr)


def read_checkpoint(path):
    """What save() wrote, as a dict of plain values and CPU tensors.

    Nothing in the file is executed (weights_only), and every byte is checked against the checksums
    of the zip format, which torch.load ignores.
    """
    place = Path(path)
    ours = place.name in ("ckpt.pt", "last.pt")
    maker = f"python train.py --out_dir={quoted(place.parent)}" if ours else "train.py"
    with reading(f"checkpoint {path}", maker):
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
    saved, names = checkpoint["config"], [field.name for field in fields(NetworkConfig)]
    missing = [name for name in names if name not in saved]
    if missing:
        raise UserError(f"the checkpoint has no setting {missing[0]!r}, {CHANGED}")
    config = NetworkConfig(**{name: saved[name] for name in names})
    network = build(config, len(checkpoint["meta"]["vocab"]))
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
    found = [path for path in Path("out").glob("*/ckpt.pt") if path.is_file()]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(
            "no checkpoint under out/: train one (python train.py config/shakespeare_cpu.py), or "
            "name one with --out_dir or --checkpoint"
        )
    return newest


# --- What a new run inherits ------------------------------------------------------------------


def origin_of(config):
    """The path of the checkpoint that init_from names, or None. UserError if there is none."""
    if config.init_from in STARTS:
        return None
    path = find_checkpoint(config.init_from)
    if not path.exists():
        known = [*STARTS, *(path.parent.as_posix() for path in Path("out").glob("*/ckpt.pt"))]
        hint = did_you_mean(config.init_from.lower(), known)
        gpt2 = "; GPT-2's weights cannot be loaded here" if "gpt2" in config.init_from else ""
        raise UserError(
            f"--init_from={config.init_from}: no {path} in {Path.cwd()}{hint}{gpt2}; it is "
            f"{', '.join(STARTS)}, or the path of a checkpoint"
        )
    return path


def refuse_to_overwrite(config):
    """Raise UserError if a run would replace another one in its folder, and was not told to."""
    folder, _ = Path(config.out_dir), origin_of(config)
    last, best = (folder / "last.pt").exists(), (folder / "ckpt.pt").exists()
    resumes = config.init_from == "resume" or (config.init_from == "auto" and last)
    if (last or best) and not resumes and not config.overwrite:
        further = "--init_from=resume goes on with it, " if last else ""
        raise UserError(
            f"{folder} already holds a run: {further}--out_dir=out/NAME starts another one, "
            "--overwrite replaces it"
        )


def starting_point(config):
    """Return the checkpoint that a run starts from, or None, and whether the run is a resume."""
    folder, how, origin = Path(config.out_dir), config.init_from, origin_of(config)
    last = folder / "last.pt"
    if config.eval_only:
        return read_checkpoint(origin or find_checkpoint(folder)), False
    if how == "resume" and not last.exists():
        runs = [path.parent.as_posix() for path in Path("out").glob("*/last.pt")]
        nearest = ", ".join(get_close_matches(folder.as_posix(), runs, 5, 0.0)) or "none"
        raise UserError(f"nothing to resume: no {last}; the nearest runs: {nearest}")
    if how == "resume" or (how == "auto" and last.exists()):
        return read_checkpoint(last), True
    return (read_checkpoint(origin) if origin else None), False


def inherited(checkpoint, asked, given, resume):
    """Return {name: value}, what a run takes over from the checkpoint that it starts from, unless
    given: in a resume and with eval_only all of them, otherwise only the architecture.

    asked: the settings without the checkpoint's. given: {name: value} of the recipe and the command
    line. Raises UserError if they change what cannot change, and prints what a resume changes.
    """
    if checkpoint is None:
        return {}
    saved = {name: x for name, x in checkpoint["config"].items() if name not in PER_CALL}
    unknown = sorted(saved.keys() - asdict(asked).keys())
    if unknown:
        raise UserError(f"the code has no setting {unknown[0]!r}, {CHANGED}")
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
        return {name: saved[name] for name in ARCHITECTURE}
    if "device" not in given and not is_usable(saved["device"]):
        show(f"note: the device {saved['device']!r} of this run is not here: another one is taken")
        saved |= {"device": "auto", "dtype": asked.dtype}
    return saved


def check_same_data(checkpoint, meta, resume):
    """Raise UserError unless a run can go on with the dataset that `meta` describes: a resume needs
    the same text and split, any other run the same vocabulary."""
    saved = checkpoint["meta"]
    if resume and saved["checksums"] != meta["checksums"]:
        raise UserError(
            f"the dataset is not the text that this run began with ({saved['source']}) but another "
            f"one ({meta['source']}), or it is split differently; prepare that one again, or train "
            "on this one in a new run, with --init_from=FILE and --out_dir=out/NAME"
        )
    data, known = set(meta["vocab"]), set(saved["vocab"])
    if data != known:
        advice = "take the first out of the text, and then " if data - known else ""
        raise UserError(
            f"the vocabularies differ: {list_characters(data - known) or 'nothing'} only in the "
            f"data, {list_characters(known - data) or 'nothing'} only in the checkpoint; {advice}"
            "prepare it with --vocab=CHECKPOINT"
        )


def restore(checkpoint, optimizer):
    """Put an optimizer into the state in which it was saved."""
    with reading("last.pt", maker="train.py"):
        optimizer.load_state_dict(checkpoint["optimizer"])
