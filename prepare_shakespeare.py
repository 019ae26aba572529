"""Turn a text into the token ids that train.py reads.

    python prepare_shakespeare.py                                 Tiny Shakespeare, downloaded
    python prepare_shakespeare.py --source my.txt --dataset my    any UTF-8 text

The program writes into data/<dataset>/: input.txt (the text), train.bin and val.bin (token ids:
uint16, little-endian, no header, the same bytes as nanoGPT's) and meta.json (the vocabulary, the
source of the text, checksums). A character's id is its index in the sorted vocabulary.
"""

from quill import start

start()

import hashlib
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from quill.files import locked, replacing
from quill.settings import read_options
from quill.terminal import UserError, run_main
from quill.text import download, read_text
from tokenizer import Tokenizer, list_characters

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of that file
BUNDLED = Path(__file__).parent / "data" / "pastiche.txt"  # used if the download fails

SPLITS = ["train", "val", "test"]  # in the order in which they divide the text
LARGEST_VOCABULARY = 1 << 16  # ids are uint16
PIECE = 1 << 20  # characters at a time: their ids take more memory than the text
MOST_FREQUENT = 100  # characters that meta.json lists, for plots; counted in the first piece


@dataclass(frozen=True)
class Options:
    """The command line."""

    source: tuple[str, ...] = ()  # UTF-8 texts: paths, URLs, - (a pipe); none: Tiny Shakespeare
    dataset: str = "shakespeare_char"  # the folder under data/ to write
    split: tuple[float, ...] = (0.9, 0.1)  # fractions for train, val and, if given, test
    vocab: str = ""  # a dataset or a checkpoint (.pt) whose vocabulary to use, not the text's own

    def __post_init__(self):
        if Path(self.dataset).name != self.dataset or self.dataset in ("", ".."):
            raise ValueError(f"dataset must be the name of a folder, no path: {self.dataset!r}")
        fractions = self.split
        valid = len(fractions) in (2, 3) and min(fractions) > 0 and math.isclose(sum(fractions), 1)
        if not valid:
            raise ValueError("split must be two or three fractions that sum to 1, as in 0.9,0.1")


# --- Where the text comes from ----------------------------------------------------------------


def get_tiny_shakespeare(folder):
    """Return Tiny Shakespeare, and where it came from: from an earlier call if it is in the folder,
    else downloaded; if that fails, the bundled text, with a warning."""
    earlier = folder / "input.txt"
    if earlier.is_file() and hashlib.sha256(earlier.read_bytes()).hexdigest() == SHA256:
        return earlier.read_text(encoding="utf-8"), URL
    try:
        content = download(URL)
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise UserError(f"{URL} is not the file that it should be (wrong sha256)")
        return content.decode(), URL
    except UserError as error:
        stars = "*" * 78
        print(
            f"{stars}\nWARNING: this is NOT Shakespeare: {error}.\n"
            f"The text is {BUNDLED.name}, a pastiche that comes with this project. Everything\n"
            "works, but the losses cannot be compared with those on Tiny Shakespeare. For the\n"
            f"real text, run this again with an internet connection, or get\n{URL}\n"
            f"elsewhere and run: python prepare_shakespeare.py --source FILE\n{stars}",
            file=sys.stderr,
        )
        return read_text(str(BUNDLED))[0], f"the bundled pastiche, because: {error}"


def get_text(sources, folder):
    """Return the text of all sources, and their names: Tiny Shakespeare if there are none."""
    parts = [read_text(source) for source in sources] or [get_tiny_shakespeare(folder)]
    text, _ = parts[0]
    for part, _ in parts[1:]:  # each begins on a line of its own
        text += part if text.endswith("\n") else "\n" + part
    return text, " ".join(name for _, name in parts)


# --- Text to tokens ---------------------------------------------------------------------------


def divide(length, fractions):
    """How many characters of a text each split gets, as {name: number}."""
    # Rounded first, since 0.7 + 0.2 + 0.1 is a little less than 1.
    ends = [0, *(int(round(length * end, 6)) for end in accumulate(fractions))]
    sizes = [end - start for start, end in pairwise(ends)]
    return dict(zip(SPLITS, sizes, strict=False))


def check_text(name, found, vocab, sizes):
    """Raise UserError unless a text can be trained on. found: its own characters."""
    if len(found) > LARGEST_VOCABULARY:
        many = f"{name} has {len(found):,} different characters"
        raise UserError(f"{many}; {LARGEST_VOCABULARY:,} is the most")
    if min(sizes) < 2:  # a character and the one that follows it
        short = f"{name} is too short: {sum(sizes)} characters into parts of {sizes}"
        raise UserError(f"{short}; each needs at least 2")
    unknown = found - set(vocab)
    if unknown:
        characters = list_characters(unknown)
        raise UserError(f"{name} has characters that the vocabulary lacks: {characters}")


def write_tokens(path, text, tokenizer):
    """Write the ids of a text as a .bin file; returns the file's sha256."""
    digest = hashlib.sha256()
    with replacing(path) as file:
        for start in range(0, len(text), PIECE):
            ids = np.array(tokenizer.encode(text[start : start + PIECE]), dtype="<u2")
            digest.update(ids)
            file.write(ids)
    return digest.hexdigest()


def prepare(sources, dataset, fractions, vocab=""):
    """Make data/<dataset>/ from one or several sources; returns the contents of meta.json. vocab:
    the one to use instead of the text's own."""
    folder = Path("data") / dataset
    text, source = get_text(sources, folder)
    found, sizes = set(text), divide(len(text), fractions)
    vocab = vocab or "".join(sorted(found))
    check_text(source, found, vocab, list(sizes.values()))
    frequent = Counter(text[:PIECE]).most_common(MOST_FREQUENT)
    meta = {
        "vocab": vocab,
        "most_frequent": "".join(character for character, _ in frequent),
        "source": source,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "characters": len(text),
        "tokens": sizes,
        "checksums": {},
    }
    with locked(folder):
        # meta.json is removed first and written last: a failure in between leaves a folder that is
        # recognizably unfinished, never a mixture of two texts.
        for name in ("meta.json", "test.bin"):  # not every text has a test split
            (folder / name).unlink(missing_ok=True)
        with replacing(folder / "input.txt") as file:
            file.write(text.encode())
        start, tokenizer = 0, Tokenizer(vocab)
        for split, size in sizes.items():
            part, start = text[start : start + size], start + size
            meta["checksums"][split] = write_tokens(folder / f"{split}.bin", part, tokenizer)
        with replacing(folder / "meta.json") as file:
            file.write(json.dumps(meta, ensure_ascii=False, indent=1).encode() + b"\n")
    return meta


def read_vocab(name):
    """The vocabulary of a dataset's name, its folder, its meta.json, or a checkpoint."""
    from quill.checkpoint import read_checkpoint  # here, because these two import torch
    from quill.dataset import read_meta

    path = Path(name)
    if path.suffix == ".pt":
        return read_checkpoint(path)["meta"]["vocab"]
    if path.suffix != ".json":
        path = Path("data", path.name, "meta.json")
    return read_meta(path)["vocab"]


def main(arguments):
    options = read_options(arguments, Options, "prepare_shakespeare.py", about=__doc__)
    vocab = read_vocab(options.vocab) if options.vocab else ""
    meta = prepare(options.source, options.dataset, options.split, vocab)
    print(f"data/{options.dataset}: {meta['characters']:,} characters from {meta['source']}")
    print(f"vocabulary: {len(meta['vocab'])} characters")
    for split, tokens in meta["tokens"].items():
        print(f"{split + '.bin:':<11} {tokens:,} tokens")


if __name__ == "__main__":
    run_main(main)
