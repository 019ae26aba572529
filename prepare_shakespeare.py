"""Turn a text into the token ids that train.py reads.

    python prepare_shakespeare.py                                 Tiny Shakespeare, downloaded
    python prepare_shakespeare.py --source my.txt --dataset my    any UTF-8 text

The program writes into data/<dataset>/: input.txt (the text), train.bin and val.bin (token ids:
uint16, little-endian, no header, the same bytes as nanoGPT's) and meta.json (the vocabulary, the
source of the text, checksums). A character's id is its index in the sorted vocabulary.
"""

from quill import require_packages

require_packages()

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
from quill.terminal import UsageError, UserError, run_main
from quill.text import PIECE, download, get_text, join, open_text, read_pieces
from tokenizer import Tokenizer, list_characters

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of that file
BUNDLED = Path(__file__).parent / "data" / "pastiche.txt"  # used if the download fails

SPLITS = ["train", "val", "test"]  # in the order in which they divide the text
MOST_FREQUENT = 100  # characters that meta.json lists, for plots


@dataclass(frozen=True)
class Options:
    """The command line."""

    source: tuple[str, ...] = ()  # UTF-8 texts: paths, URLs, - (a pipe); none: Tiny Shakespeare
    dataset: str = "shakespeare_char"  # the folder under data/ to write
    split: str = "0.9,0.1"  # fractions for train, val and, if given, test
    vocab: str = ""  # a dataset or a checkpoint whose vocabulary to use instead of the text's own


def get_tiny_shakespeare(folder):
    """Return the bytes of Tiny Shakespeare, and where they came from: from an earlier call if they
    are in the folder, else downloaded; if that fails, the bundled text, with a warning."""
    earlier = folder / "input.txt"
    if earlier.is_file() and hashlib.sha256(earlier.read_bytes()).hexdigest() == SHA256:
        return earlier.read_bytes(), URL
    try:
        content = download(URL)
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise UserError(f"{URL} is not the file that it should be (wrong sha256)")
        return content, URL
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
        return BUNDLED.read_bytes(), f"the bundled pastiche, because: {error}"


# --- Text to tokens ---------------------------------------------------------------------------


def parse_split(text):
    """'0.9,0.1' -> [0.9, 0.1]: two or three fractions that sum to 1."""
    try:
        fractions = [float(fraction) for fraction in text.split(",")]
    except ValueError:
        fractions = []
    valid = all(0 < fraction < 1 for fraction in fractions) and math.isclose(sum(fractions), 1)
    if not valid or len(fractions) not in (2, 3):
        wanted = "give two or three fractions above 0 that sum to 1, as in 0.9,0.1"
        raise UsageError(f"--split {text}: {wanted}")
    return fractions


def divide(length, fractions):
    """How many characters of a text each split gets, as {name: number}."""
    # Rounded first, since 0.7 + 0.2 + 0.1 is a little less than 1.
    ends = [0, *(int(round(length * end, 6)) for end in accumulate(fractions))]
    sizes = [end - start for start, end in pairwise(ends)]
    return dict(zip(SPLITS, sizes, strict=False))


def check_text(name, found, vocab, sizes):
    """Raise UserError unless a text can be trained on. found: its own characters."""
    if min(sizes) < 2:  # a character and the one that follows it
        short = f"{name} is too short: {sum(sizes)} characters into parts of {sizes}"
        raise UserError(f"{short}; each needs at least 2")
    unknown = found - set(vocab)
    if unknown:
        characters = list_characters(unknown)
        raise UserError(f"{name} has characters that the vocabulary lacks: {characters}")


def write_tokens(path, reader, size, tokenizer):
    """Write the ids of the next `size` characters as a .bin file; returns the file's sha256."""
    digest = hashlib.sha256()
    with replacing(path) as file:
        while size:
            piece = reader.read(min(size, PIECE))
            ids = np.array(tokenizer.encode(piece), dtype="<u2")
            digest.update(ids)
            file.write(ids)
            size -= len(piece)
    return digest.hexdigest()


def prepare(sources, dataset, fractions, vocab=""):
    """Make data/<dataset>/ from one or several sources; returns the contents of meta.json. vocab:
    the one to use instead of the text's own."""
    folder = Path("data") / dataset
    parts = [get_text(source) for source in sources] or [get_tiny_shakespeare(folder)]
    content, source = join([part for part, _ in parts]), " ".join(name for _, name in parts)
    found, length, frequent, digest = set(), 0, Counter(), hashlib.sha256()
    for piece in read_pieces(content, source):
        found.update(piece)
        frequent = frequent or Counter(piece)  # the first piece is enough
        length += len(piece)
        digest.update(piece.encode())
    vocab, sizes = vocab or "".join(sorted(found)), divide(length, fractions)
    check_text(source, found, vocab, list(sizes.values()))
    meta = {
        "vocab": vocab,
        "most_frequent": "".join(one for one, _ in frequent.most_common(MOST_FREQUENT)),
        "source": source,
        "sha256": digest.hexdigest(),
        "characters": length,
        "tokens": sizes,
        "checksums": {},
    }
    with locked(folder):
        # meta.json is removed first and written last: a failure in between leaves a folder that is
        # recognizably unfinished, never a mixture of two texts.
        for name in ("meta.json", "test.bin"):  # not every text has a test split
            (folder / name).unlink(missing_ok=True)
        with replacing(folder / "input.txt") as file:
            for piece in read_pieces(content, source):
                file.write(piece.encode())
        reader, tokenizer = open_text(content), Tokenizer(vocab)
        for split, size in sizes.items():
            path = folder / f"{split}.bin"
            meta["checksums"][split] = write_tokens(path, reader, size, tokenizer)
        with replacing(folder / "meta.json") as file:
            file.write(json.dumps(meta, ensure_ascii=False, indent=1).encode() + b"\n")
    return meta


def read_vocab(name):
    """The vocabulary of a dataset's name, its folder, or a checkpoint."""
    from quill import checkpoint  # here, because these two import torch
    from quill.dataset import read_meta

    path = Path(name)
    if path.suffix == ".pt" or (path / "ckpt.pt").is_file():
        return checkpoint.read_checkpoint(checkpoint.find_checkpoint(name))["meta"]["vocab"]
    if path.is_file() and path.suffix != ".json":
        raise UserError(f"--vocab {name}: give the name of a dataset, or a checkpoint (.pt)")
    path = path if path.exists() else Path("data") / name
    return read_meta(path if path.suffix == ".json" else path / "meta.json")["vocab"]


def main(arguments):
    program = "prepare_shakespeare.py"
    options = read_options(arguments, Options, program, about=__doc__)
    name = options.dataset
    if Path(name).name != name or name in ("", ".."):
        raise UsageError(f"--dataset {name!r}: give the name of a folder, not a path")
    fractions = parse_split(options.split)
    vocab = read_vocab(options.vocab) if options.vocab else ""
    meta = prepare(options.source, name, fractions, vocab)
    print(f"data/{name}: {meta['characters']:,} characters from {meta['source']}")
    print(f"vocabulary: {len(meta['vocab'])} characters")
    for split, tokens in meta["tokens"].items():
        print(f"{split + '.bin:':<11} {tokens:,} tokens")


if __name__ == "__main__":
    run_main(main)
