"""Turn a text into the token ids that train.py reads.

    python prepare_shakespeare.py                                 Tiny Shakespeare, downloaded
    python prepare_shakespeare.py --source my.txt --dataset my    any UTF-8 text

The program writes into data/<dataset>/: input.txt (the text), train.bin and val.bin (token ids:
uint16, little-endian, no header, the same bytes as nanoGPT's) and meta.json (the vocabulary, the
source of the text, checksums). A character's id is its index in the sorted vocabulary.
"""

import quill  # noqa: F401, I001 (before numpy, which may not be installed)

import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from quill.files import locked, reading, replacing
from quill.settings import read_settings
from quill.terminal import UsageError, UserError, run_main
from tokenizer import Tokenizer, list_characters

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of that file
BUNDLED = Path(__file__).parent / "data" / "pastiche.txt"  # used if the download fails

SPLITS = ["train", "val", "test"]  # in the order in which they divide the text
LARGEST_VOCABULARY = 1 << 16  # ids are uint16
MOST_FREQUENT = 100  # characters that meta.json lists, for plots
PIECE = 1 << 20  # characters at a time: their ids as Python integers take 8 MB


@dataclass(frozen=True)
class Options:
    """The command line."""

    source: tuple[str, ...] = ()  # UTF-8 texts: paths, URLs, - (a pipe); none: Tiny Shakespeare
    dataset: str = "shakespeare_char"  # the folder under data/ to write
    split: str = "0.9,0.1"  # fractions for train, val and, if given, test
    vocab: str = ""  # a dataset or a checkpoint whose vocabulary to use instead of the text's own


# --- Getting the text -------------------------------------------------------------------------


def download(url):
    """The bytes at a URL. Up to three tries, with growing pauses. Raises UserError."""
    import requests  # here, because train.py reads datasets without it
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(total=2, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504])
    try:
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
            response = session.get(url, timeout=30)  # seconds, between two packets
            response.raise_for_status()
    except (requests.RequestException, ValueError) as error:
        raise UserError(f"cannot download {url}: {error}") from error
    if "html" in response.headers.get("Content-Type", ""):  # a login page, say
        raise UserError(f"cannot download {url}: it is a web page, not a text")
    return response.content


def get_tiny_shakespeare(folder):
    """(the bytes of Tiny Shakespeare, where they came from): from an earlier call if they are in
    the folder, else downloaded; if that fails, the bundled text, with a warning."""
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


def get_text(source):
    """(the bytes of a text, where they came from)."""
    if source.startswith(("http://", "https://")):
        return download(source), source
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes(), source
    except OSError as error:
        hint = f" (its files: --source {source}/*.txt)" if Path(source).is_dir() else ""
        raise UserError(f"--source {source}: {error.strerror or error}{hint}") from error


def decode(content, name):
    """The text that bytes stand for. All newlines become \\n, and a byte-order mark is dropped."""
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    if marked or content.count(0) > len(content) / 4:  # every second byte is a NUL in most UTF-16
        big = content[::2].count(0) > content[1::2].count(0)
        encoding = "utf-16" if marked else "utf-16be" if big else "utf-16le"
        raise UserError(
            f"{name} looks like UTF-16, as PowerShell's > writes it, and UTF-8 is needed: convert "
            f"it in an editor, or with iconv -f {encoding} -t utf-8"
        )
    try:
        content.decode("utf-8")  # unchanged, for the offset of a bad byte
    except UnicodeDecodeError as error:
        advice = "convert it in an editor, or with iconv -f cp1252 -t utf-8"
        if min(content) < 9:  # control characters that no text has
            advice = "it looks like an archive, a picture or a word processor's file: save its text"
        where = f"bad byte at offset {error.start:,} ({error.reason})"
        raise UserError(f"{name} is not UTF-8 text: {where}; {advice}") from error
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("utf-8-sig")


# --- Text to tokens: writing a dataset --------------------------------------------------------


def parse_split(text):
    """'0.9,0.1' -> [Decimal('0.9'), Decimal('0.1')]: exact, so that the fractions sum to 1."""
    try:
        fractions = [Decimal(fraction) for fraction in text.split(",")]
        valid = all(0 < fraction < 1 for fraction in fractions) and sum(fractions) == 1
    except InvalidOperation:
        valid = False
    if not valid or len(fractions) not in (2, 3):
        wanted = "give two or three fractions above 0 that sum to 1, as in 0.9,0.1"
        raise UsageError(f"--split {text}: {wanted}")
    return fractions


def check_text(name, found, vocab, sizes):
    """Raise UserError unless a text can be trained on. found: its own vocabulary."""
    if len(found) > LARGEST_VOCABULARY:
        many = f"{name} has {len(found):,} different characters"
        raise UserError(f"{many}; {LARGEST_VOCABULARY:,} is the most")
    if min(sizes) < 2:  # a character and the one that follows it
        short = f"{name} is too short: {sum(sizes)} characters into parts of {sizes}"
        raise UserError(f"{short}; each needs at least 2")
    unknown = set(found) - set(vocab)
    if unknown:
        characters = list_characters(unknown)
        raise UserError(f"{name} has characters that the vocabulary lacks: {characters}")


def write_tokens(path, text, start, end, tokenizer):
    """Write the ids of text[start:end] as a .bin file; returns the file's sha256."""
    digest = hashlib.sha256()
    with replacing(path) as file:
        for at in range(start, end, PIECE):
            ids = np.array(tokenizer.encode(text[at : min(at + PIECE, end)]), dtype="<u2")
            digest.update(ids)
            file.write(ids)
    return digest.hexdigest()


def prepare(sources, dataset, fractions, vocab=""):
    """Make data/<dataset>/ from one or several sources; returns the contents of meta.json. vocab:
    the one to use instead of the text's own."""
    folder = Path("data") / dataset
    parts = [get_text(source) for source in sources] or [get_tiny_shakespeare(folder)]
    content = b"".join(part for part, _ in parts)
    text = "".join(decode(*part) for part in parts)
    source = " ".join(name for _, name in parts)
    found = "".join(sorted(set(text)))
    frequent = Counter(text[:PIECE]).most_common(MOST_FREQUENT)
    ends = [0, *(int(len(text) * end) for end in accumulate(fractions))]
    sizes = [end - start for start, end in pairwise(ends)]
    check_text(source, found, vocab or found, sizes)
    earlier = folder / "input.txt"
    if earlier.is_file() and earlier.read_bytes() != content:
        print(f"note: {folder} held another text, which this one replaces")
    meta = {
        "vocab": vocab or found,
        "most_frequent": "".join(character for character, _ in frequent),
        "source": source,
        "sha256": hashlib.sha256(content).hexdigest(),
        "characters": len(text),
        "tokens": dict(zip(SPLITS, sizes, strict=False)),
        "checksums": {},
    }
    with locked(folder):
        # meta.json is removed first and written last: a failure in between leaves a folder that is
        # recognizably unfinished, never a mixture of two texts.
        for name in ("meta.json", "test.bin"):  # not every text has a test split
            (folder / name).unlink(missing_ok=True)
        with replacing(folder / "input.txt") as file:
            file.write(content)
        for split, (start, end) in zip(SPLITS, pairwise(ends), strict=False):
            path, tokenizer = folder / f"{split}.bin", Tokenizer(meta["vocab"])
            meta["checksums"][split] = write_tokens(path, text, start, end, tokenizer)
        with replacing(folder / "meta.json") as file:
            file.write(json.dumps(meta, ensure_ascii=False, indent=1).encode() + b"\n")
    return meta


# --- Tokens for training: reading a dataset ---------------------------------------------------


def made_by(folder):
    """The command that makes a dataset's folder."""
    options = f" --source FILE --dataset {folder.name or 'NAME'}"
    return f"python prepare_shakespeare.py{options if folder.name != Options.dataset else ''}"


def read_meta(path):
    """The contents of a meta.json."""
    with reading(path, made_by(path.parent)):
        meta = json.loads(path.read_text(encoding="utf-8"))
        if sorted(set(meta["vocab"])) != list(meta["vocab"]):
            raise ValueError("its vocabulary is not sorted")
        if not {"most_frequent", "source", "characters", "tokens", "checksums"} <= set(meta):
            raise ValueError("an entry is missing")
        return meta


def read_vocab(name):
    """The vocabulary of a dataset's name, its folder, its meta.json, or a checkpoint."""
    if name.endswith(".pt"):
        from quill.checkpoint import read_checkpoint  # here, because it imports torch

        return read_checkpoint(name)["meta"]["vocab"]
    path = Path(name) if Path(name).exists() else Path("data") / name
    return read_meta(path if path.is_file() else path / "meta.json")["vocab"]


def open_dataset(dataset):
    """(the contents of data/<dataset>/meta.json, {split: path of its .bin file}), with every
    checksum compared."""
    folder = Path("data") / dataset
    meta = read_meta(folder / "meta.json")
    paths = {split: folder / f"{split}.bin" for split in meta["tokens"]}
    for split, path in paths.items():
        with reading(path, made_by(folder)):
            if hashlib.sha256(np.memmap(path, mode="r")).hexdigest() != meta["checksums"][split]:
                raise ValueError("wrong checksum")
    return meta, paths


# --- The command line -------------------------------------------------------------------------


def main(arguments):
    program = "prepare_shakespeare.py"
    options = Options(**read_settings(Options, arguments, program, about=__doc__))
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
