"""data/<dataset>/: checking and reading the files that prepare_shakespeare.py wrote.

train.bin, val.bin and test.bin hold token ids (uint16, little-endian, no header, as in nanoGPT).
meta.json holds the vocabulary, the source of the text, and checksums.
"""

from quill.terminal import UserError, reading

import hashlib
import json
from pathlib import Path

import numpy as np

META = {"vocab": str, "source": str, "sha256": str, "characters": int, "tokens": dict}
SPLITS = ["train", "val", "test"]  # in the order in which they divide the text
LARGEST_VOCABULARY = 65535  # ids are uint16, and the last one means "not in the vocabulary"
CHUNK = 1 << 18  # bytes or characters read at a time; their arrays still fit a CPU's cache
LARGEST_CHECKED = 1 << 32  # bytes; hashing more than 4 GiB would delay the start of training


def check_types(entries, kinds):
    """Raise an exception unless a dict has an entry of each type of `kinds`: {name: type}."""
    for name, kind in kinds.items():
        if not isinstance(entries[name], kind):
            raise TypeError(f"{name} should be of type {kind.__name__}")


def check_vocabulary(vocab):
    """Raise ValueError unless a string is a vocabulary: different characters, not too many."""
    vocab.encode()  # UnicodeEncodeError, a ValueError, at half of a surrogate pair
    if len(vocab) != len(set(vocab)) or not 0 < len(vocab) <= LARGEST_VOCABULARY:
        raise ValueError(f"a vocabulary has 1 to {LARGEST_VOCABULARY} different characters")


def listed(characters):
    """The first ten characters of a set for a message: "'a', 'b' and 3 more"."""
    more = f" and {len(characters) - 10} more" if len(characters) > 10 else ""
    return ", ".join(map(repr, sorted(characters)[:10])) + more


def load_meta(path):
    """The contents of a meta.json as a dict. Raises UserError if it is missing or damaged."""
    with reading(path, maker="prepare_shakespeare.py --dataset NAME"):
        meta = json.loads(path.read_text(encoding="utf-8"))
        check_types(meta, META)
        check_vocabulary(meta["vocab"])
        counts = meta["tokens"]
        if not {"train", "val"} <= set(counts) <= set(SPLITS):
            raise ValueError("tokens should have entries for train and val")
        if not all(type(count) is int and count > 0 for count in counts.values()):
            raise ValueError("tokens should be whole numbers above 0")
        if meta.get("checksums", {}).get("meta.json") not in (None, checksum_of(meta)):
            raise ValueError("wrong checksum")
    return meta


def checksum_of(meta):
    """The sha256 of the entries of meta.json, without the checksums themselves."""
    entries = {name: meta[name] for name in META}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def sha256_of(path):
    """The sha256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def open_dataset(dataset, block_size):
    """Check data/<dataset>/; returns (contents of meta.json, {split: path of its .bin file}).

    Raises UserError if a file is missing or damaged, or if train.bin is too short for block_size.
    """
    folder = Path("data") / dataset
    meta = load_meta(folder / "meta.json")
    paths = {split: folder / f"{split}.bin" for split in SPLITS if split in meta["tokens"]}
    for split, path in paths.items():
        size, expected = path.stat().st_size if path.exists() else 0, 2 * meta["tokens"][split]
        if size != expected:
            raise UserError(f"{path} has {size:,} bytes, not {expected:,}: prepare the text again")
        if size > LARGEST_CHECKED:
            continue
        if meta.get("checksums", {}).get(path.name) not in (None, sha256_of(path)):
            raise UserError(f"{path} is damaged (wrong checksum): prepare the text again")
        largest, last = np.memmap(path, dtype="<u2", mode="r").max(), len(meta["vocab"]) - 1
        if largest > last:  # in a file that another program wrote
            raise UserError(f"{path} has the id {largest}, but the vocabulary ends at {last}")
    count = meta["tokens"]["train"]
    if count <= block_size:
        problem = f"{paths['train']} has {count} tokens, too few for block_size {block_size}"
        raise UserError(f"{problem}: lower it, or provide more text")
    return meta, paths


class Tokens:
    """The token ids of one split.

    On CUDA the whole file moves to the device if it takes less than a quarter of the free memory.
    Otherwise each window is read from the file when it is needed, so even a large text takes no
    memory. (The pages of a memory-mapped file would stay in memory once read.)
    """

    def __init__(self, path, device):
        import torch  # here, because prepare_shakespeare.py imports this file and runs without it

        self.torch, self.device = torch, device
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 (open as long as the run)
        self.length = path.stat().st_size // 2
        self.on_device = None
        if device.type == "cuda" and 2 * self.length < torch.cuda.mem_get_info(device)[0] / 4:
            # Few operations support uint16; int16 holds the same bits.
            self.on_device = torch.from_numpy(np.fromfile(path, dtype="<i2")).to(device)

    def __len__(self):
        return self.length

    def windows(self, starts, length):
        """The `length` ids from each of `starts` (B,) on: (B, length), int64, on the device."""
        if self.on_device is None:
            rows = []
            for start in starts.tolist():
                self.file.seek(2 * start)
                rows.append(np.frombuffer(self.file.read(2 * length), dtype="<u2"))  # (length,)
            ids = self.torch.from_numpy(np.stack(rows).astype(np.int64))  # (B, length)
            if self.device.type == "cuda":
                ids = ids.pin_memory()  # from other memory, a copy makes the program wait
            return ids.to(self.device, non_blocking=True)
        starts = self.torch.from_numpy(starts).pin_memory().to(self.device, non_blocking=True)
        indices = starts[:, None] + self.torch.arange(length, device=self.device)  # (B, length)
        return self.on_device[indices].long() & 0xFFFF
