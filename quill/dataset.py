"""Read a dataset, what prepare_shakespeare.py wrote into data/<name>/: its meta.json, and the token
ids of each split."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quill.files import reading
from quill.terminal import UserError, did_you_mean

USUAL = "shakespeare_char"  # the dataset that prepare_shakespeare.py makes without options
MOST_EVALUATED = 2_000_000  # characters of a split: on a CPU, more would take minutes each time


class Tokens:
    """The token ids of one split, read from its .bin file as they are needed."""

    def __init__(self, path, device):
        self.ids, self.device = np.memmap(path, dtype="<u2", mode="r"), torch.device(device)

    def __len__(self):
        return len(self.ids)

    def windows(self, starts, length):
        """`length` ids beginning at each of `starts` (B,): (B, length), int64, on the device."""
        ids = self.ids[starts[:, None] + np.arange(length)]  # (B, length)
        ids = torch.from_numpy(ids.astype(np.int64))
        if self.device.type == "cuda":
            ids = ids.pin_memory()  # so that the copy runs in the background
        return ids.to(self.device, non_blocking=True)

    def in_batches(self, starts, length):
        """Yield the windows of in_order() and spread(), (B, length), some at a time: on a CPU their
        activations should fit the cache; with so few, a GPU would wait for Python."""
        tokens = 32768 if self.device.type == "cuda" else 4096
        rows = max(1, tokens // (length - 1))
        for i in range(0, len(starts), rows):
            yield self.windows(starts[i : i + rows], length)

    def in_order(self, block_size, overlap=0):
        """Yield batches of windows (B, block_size + 1), one after another, that predict each
        character but the first once; the last window may be shorter.

        With an overlap, a window begins so many characters before the end of the one before it,
        and predicts these a second time. Of a split with more than MOST_EVALUATED characters, some
        windows stand for all.
        """
        if len(self) > MOST_EVALUATED:
            yield from self.spread(block_size, MOST_EVALUATED // block_size)
            return
        starts = np.arange(0, len(self) - 1 - overlap, block_size - overlap)
        whole = starts[starts + block_size < len(self)]
        yield from self.in_batches(whole, block_size + 1)
        if len(whole) < len(starts):
            yield self.windows(starts[-1:], len(self) - starts[-1])

    def spread(self, block_size, count):
        """Yield batches of `count` windows (B, block_size + 1), spread evenly over the split."""
        starts = np.linspace(0, len(self) - block_size - 1, count).astype(np.int64)
        yield from self.in_batches(starts, block_size + 1)


@dataclass(frozen=True)
class Dataset:
    """An open dataset."""

    name: str
    meta: dict  # the contents of its meta.json
    splits: dict  # {name: Tokens}
    device: torch.device

    def __str__(self):
        about = f"{self.name}, {self.meta['characters']:,} characters from {self.meta['source']}"
        if max(map(len, self.splits.values())) > MOST_EVALUATED:
            about += f"; losses are measured on {MOST_EVALUATED:,} of a split, always the same ones"
        return about

    @property
    def train(self):
        return self.splits["train"]

    @property
    def val(self):
        return self.splits["val"]


def made_by(folder):
    """The command that makes a dataset's folder."""
    options = f" --source FILE --dataset {folder.name or 'NAME'}"
    return f"python prepare_shakespeare.py{options if folder.name != USUAL else ''}"


def read_meta(path):
    """The contents of a meta.json."""
    with reading(path, made_by(path.parent)):
        meta = json.loads(path.read_text(encoding="utf-8"))
        if sorted(set(meta["vocab"])) != list(meta["vocab"]):
            raise ValueError("its vocabulary is not sorted")
        if not {"most_frequent", "source", "characters", "tokens", "checksums"} <= set(meta):
            raise ValueError("an entry is missing")
        return meta


def open_dataset(name, device="cpu"):
    """The dataset in data/<name>, after every checksum was compared."""
    folder = Path("data") / name
    if not (folder / "meta.json").exists():
        known = [path.parent.name for path in Path("data").glob("*/meta.json")]
        if hint := did_you_mean(folder.name, known):
            raise UserError(f"no {folder}/meta.json{hint}; {made_by(folder)} makes one")
    meta, splits = read_meta(folder / "meta.json"), {}
    for split in meta["tokens"]:
        path = folder / f"{split}.bin"
        with reading(path, made_by(folder)):
            splits[split] = Tokens(path, device)
            if hashlib.sha256(splits[split].ids).hexdigest() != meta["checksums"][split]:
                raise ValueError("wrong checksum")
    return Dataset(name, meta, splits, torch.device(device))
