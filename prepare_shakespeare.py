"""Turn a text into the token ids that train.py reads.

    python prepare_shakespeare.py                                 Tiny Shakespeare, downloaded
    python prepare_shakespeare.py --source my.txt --dataset my    any UTF-8 text

The program writes four files into data/<dataset>/: input.txt (the text), train.bin and val.bin
(token ids: uint16, little-endian, no header, the same bytes as nanoGPT's) and meta.json (the
vocabulary and the source of the text). A character's id is its index in the sorted vocabulary.

The text is read in pieces, first for the vocabulary and then for the ids: memory stays the same.
"""

from quill.dataset import (
    CHUNK,
    LARGEST_VOCABULARY,
    SPLITS,
    check_vocabulary,
    checksum_of,
    listed,
    load_meta,
    sha256_of,
)
from quill.terminal import TEMPORARY, Parser, UserError, in_brief, locked, run_main, sync_folder

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from pathlib import Path

import numpy as np

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of that file
BUNDLED = Path(__file__).parent / "data" / "pastiche.txt"  # used if the download fails

TRIES = 3
BACKOFF = 1.0  # seconds before the second try; twice as many before the third
TIMEOUT = (10, 30)  # seconds to connect, and between two packets
DEADLINE = 3600  # seconds for the whole download

CODE_POINTS = 0x110000  # the number of code points in Unicode
NO_ID = 65535  # of a character that is not in the vocabulary

# --- The tokenizer: one character, one id -----------------------------------------------------


def code_points(text):
    """The Unicode code points of a string as an array of integers (len(text),)."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    # surrogatepass: half of a surrogate pair (from a broken command line, say) is in no
    # vocabulary, so it should be reported as a missing character like any other.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class Tokenizer:
    """Characters to ids and back. `vocab` is a string; a character's id is its index in it."""

    def __init__(self, vocab):
        check_vocabulary(vocab)
        self.vocab = vocab
        self.vocab_size = len(vocab)
        self.characters = code_points(vocab).astype("<u4")  # id -> code point
        self.ids = np.full(CODE_POINTS, NO_ID, dtype=np.uint16)  # code point -> id
        self.ids[self.characters] = np.arange(self.vocab_size, dtype=np.uint16)

    def encode(self, text):
        """The ids of a string: uint16 (len(text),). ValueError names the unknown characters."""
        ids = self.ids.take(code_points(text))  # (len(text),)
        if (ids == NO_ID).any():
            raise ValueError(f"not in the vocabulary: {listed(set(text) - set(self.vocab))}")
        return ids

    def decode(self, ids):
        """The string of an array of ids."""
        return self.characters[np.asarray(ids, dtype=np.intp)].tobytes().decode("utf-32-le")


# --- Getting the text -------------------------------------------------------------------------


def download(url, path, sha256=None):
    """Stream `url` into the file `path`. Raises UserError after the last of three tries."""
    import requests  # here, because the programs that import this file do without
    from urllib3.exceptions import HTTPError  # what goes wrong below requests

    plain = {"Accept-Encoding": "identity"}  # half of a compressed text would pass as a whole one
    for attempt in range(1, TRIES + 1):
        final = attempt == TRIES
        try:
            with requests.get(url, stream=True, timeout=TIMEOUT, headers=plain) as response:
                problem = refusal(response)
                if problem and response.status_code < 500 and response.status_code != 429:
                    final = True  # another try would get the same answer
                problem = problem or receive(response, path, sha256)
        except (requests.RequestException, HTTPError, ValueError) as error:
            while error.__context__ is not None:  # each error repeats the one inside it
                error = error.__context__
            problem = in_brief(error)
        if not problem:
            return
        if final:
            raise UserError(f"download failed (try {attempt}): {without_password(url)}: {problem}")
        time.sleep(BACKOFF * 2 ** (attempt - 1))


def refusal(response):
    """Why an HTTP response cannot be a whole text, or None."""
    kind = response.headers.get("Content-Type", "")
    encoding = response.headers.get("Content-Encoding", "identity")
    if response.status_code != 200:
        return f"HTTP {response.status_code}"
    if "html" in kind:
        return f"a web page ({kind}), not a text"
    return None if encoding == "identity" else f"compressed ({encoding}), unlike the request"


def receive(response, path, sha256):
    """Write the body of an HTTP response to a file; returns what is wrong with it, or None."""
    read = getattr(response.raw, "read1", response.raw.read)  # read() waits for all of CHUNK
    deadline, received = time.monotonic() + DEADLINE, 0
    with open(path, "wb") as file:
        while piece := read(CHUNK):
            received += file.write(piece)
            if time.monotonic() > deadline:
                return f"not complete after {DEADLINE} seconds"
    promised = int(response.headers.get("Content-Length", received))
    if received != promised:
        return f"received only {received} of {promised} bytes"
    with open(path, "rb") as file:
        if file.read(200).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "a web page, not a text"
    return None if sha256 in (None, sha256_of(path)) else "not the file it should be (wrong sha256)"


def without_password(url):
    """A URL without the user's name and password."""
    return re.sub(r"//[^/]*@", "//", url)


def copy_text(source, folder, text):
    """Copy or download a source (None: Tiny Shakespeare) to `text`; returns where it came from."""
    if source is None:
        return copy_tiny_shakespeare(folder / "input.txt", text)
    if source.startswith(("http://", "https://")):
        download(source, text, SHA256 if source == URL else None)
        # meta.json and every checkpoint name the source: a query may hold secrets, too.
        return re.sub(r"[?#].*", "", without_password(source))
    if not Path(source).is_file():
        problem = "not a file" if Path(source).exists() else "no such file"
        raise UserError(f"--source {source}: {problem}")
    shutil.copyfile(source, text)
    return source


def copy_tiny_shakespeare(earlier, text):
    """Copy Tiny Shakespeare from an earlier call, download it, or fall back to the bundled text."""
    try:
        if earlier.is_file() and sha256_of(earlier) == SHA256:
            shutil.copyfile(earlier, text)
        else:
            download(URL, text, SHA256)
        return URL
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
        shutil.copyfile(BUNDLED, text)
        return f"bundled pastiche, because: {error}"


# --- Text to tokens ---------------------------------------------------------------------------


def read_text(path, name=None):
    """Yield the text of a UTF-8 file in pieces of CHUNK characters.

    Line ends become \\n, as in any text file that Python reads, and a byte-order mark is dropped.
    Raises UserError, with `name` and the offset, at the first byte that is not UTF-8.
    """
    with open(path, encoding="utf-8-sig") as file:
        try:
            while text := file.read(CHUNK):
                yield text
        except UnicodeDecodeError as error:
            # error.object ends with the last byte that was read from the file.
            bad = file.buffer.tell() - len(error.object) + error.start
            raise UserError(
                f"{name or path} is not UTF-8 text: bad byte at offset {bad:,} ({error.reason}); "
                "convert it first (iconv -f latin1 -t utf-8, say)"
            ) from error


def scan_text(path, name):
    """Read a text once; returns (sorted vocabulary, number of characters)."""
    characters = 0
    ascii_seen, seen = b"", np.zeros(CODE_POINTS, dtype=bool)
    for text in read_text(path, name):
        characters += len(text)
        if text.isascii():  # deleting the known characters and looking at the rest is fastest
            ascii_seen += bytes(set(text.encode().translate(None, ascii_seen)))
        else:
            seen[code_points(text)] = True
    seen[list(ascii_seen)] = True
    return np.flatnonzero(seen).astype("<u4").tobytes().decode("utf-32-le"), characters


def parse_split(text):
    """'0.9,0.1' -> [Decimal('0.9'), Decimal('0.1')]. Raises UserError."""
    try:
        fractions = [Decimal(fraction) for fraction in text.split(",")]
        valid = all(0 < fraction < 1 for fraction in fractions) and sum(fractions) == 1
    except InvalidOperation:
        valid = False
    if not valid or len(fractions) not in (2, 3):
        wanted = "give two or three fractions above 0 that sum to 1, as in 0.9,0.1"
        raise UserError(f"--split {text}: {wanted}")
    return fractions


def split_sizes(characters, fractions):
    """The number of characters in each split: a list of integers that sum to `characters`."""
    ends = [int(characters * end) for end in accumulate(fractions)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def write_tokens(path, tokenizer, sizes, folder):
    """Write one .bin file per split. sizes: {split: characters}. Returns {file name: sha256}."""
    pieces, ids, checksums = read_text(path), np.empty(0, dtype="<u2"), {}
    for split, size in sizes.items():
        digest = hashlib.sha256()
        with open(folder / f"{split}.bin", "wb") as file:
            while size:
                if not len(ids):
                    ids = tokenizer.encode(next(pieces)).astype("<u2", copy=False)
                digest.update(ids[:size])
                file.write(ids[:size])
                ids, size = ids[size:], max(0, size - len(ids))
                if hasattr(os, "posix_fadvise"):
                    # Linux writes the ids to the disk now and reuses their memory, so a large text
                    # does not displace everything else. (1 GB: 6 seconds instead of 13.)
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        checksums[f"{split}.bin"] = digest.hexdigest()
    return checksums


def check_text(name, found, vocab, sizes):
    """Raise UserError unless a text can be trained on. found: its own vocabulary."""
    if not found:
        raise UserError(f"{name} is empty")
    if min(sizes) < 2:  # a character and the one that follows it
        problem = f"{name} is too short: {sum(sizes)} characters into parts of {sizes}"
        raise UserError(f"{problem}; each needs at least 2")
    if len(found) > LARGEST_VOCABULARY:
        problem = f"{name} has {len(found):,} different characters"
        raise UserError(f"{problem}; {LARGEST_VOCABULARY:,} is the most")
    unknown = set(found) - set(vocab or found)
    if unknown:
        raise UserError(f"{name} has characters that the vocabulary lacks: {listed(unknown)}")


def install(scratch, folder, names):
    """Move finished files into a dataset's folder.

    meta.json is removed first and written last (it is the last of `names`): a failure in between
    leaves a folder that is recognizably unfinished, never a mixture of two texts.
    """
    for name in names:
        with open(scratch / name, "r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())  # a full disk may report its error only now
    for name in ("meta.json", "test.bin"):  # not every text has a test split
        (folder / name).unlink(missing_ok=True)
    for name in names:
        os.replace(scratch / name, folder / name)
    sync_folder(folder)


def prepare(source, dataset, fractions, vocab=None):
    """Make data/<dataset>/ from a source (None: Tiny Shakespeare). Raises UserError.

    vocab: the one to use instead of the text's own. Returns the contents of meta.json.
    """
    folder = Path("data") / dataset
    try:
        with locked(folder), tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as scratch:
            scratch = Path(scratch)
            text = scratch / "input.txt"
            origin = copy_text(source, folder, text)
            origin = origin.encode("utf-8", "replace").decode()  # a file's name may not be UTF-8
            found, characters = scan_text(text, origin)
            sizes = split_sizes(characters, fractions)
            check_text(origin, found, vocab, sizes)
            meta = {
                "vocab": vocab or found,
                "source": origin,
                "sha256": sha256_of(text),
                "characters": characters,
                "tokens": dict(zip(SPLITS, sizes, strict=False)),
            }
            checksums = write_tokens(text, Tokenizer(meta["vocab"]), meta["tokens"], scratch)
            meta["checksums"] = {**checksums, "meta.json": checksum_of(meta)}
            written = json.dumps(meta, ensure_ascii=False, indent=1) + "\n"
            (scratch / "meta.json").write_text(written, encoding="utf-8")
            install(scratch, folder, ["input.txt", *meta["checksums"]])
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"cannot prepare {folder}: {where}: {error.strerror or error}") from error
    return meta


# --- The command line -------------------------------------------------------------------------


def main(arguments):
    description = "Turn a text into the token ids that train.py reads: data/<dataset>/."
    parser = Parser(prog="prepare_shakespeare.py", description=description)
    add = parser.add_argument
    add("--source", help="a UTF-8 text: path or URL (default: Tiny Shakespeare, downloaded)")
    add("--dataset", default="shakespeare_char", help="the folder under data/ to write")
    add("--split", default="0.9,0.1", help="for train, val and, if given, test (default: 0.9,0.1)")
    add("--vocab", metavar="META", help="meta.json of a dataset whose vocabulary to use instead")
    options = parser.parse_args(arguments)
    name = options.dataset
    if Path(name).name != name or name in ("", "..") or not name.isprintable():
        raise UserError(f"--dataset {name!r}: give the name of a folder, not a path")
    vocab = None
    if options.vocab:
        path = Path(options.vocab)
        vocab = load_meta(path / "meta.json" if path.is_dir() else path)["vocab"]

    meta = prepare(options.source, options.dataset, parse_split(options.split), vocab)

    print(f"data/{options.dataset}: {meta['characters']:,} characters from {meta['source']}")
    print(f"vocabulary: {len(meta['vocab'])} characters")
    for split, tokens in meta["tokens"].items():
        print(f"{split + '.bin:':<11} {tokens:,} tokens")


if __name__ == "__main__":
    run_main(main)
