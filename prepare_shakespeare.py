"""Turn a text into the token arrays that train.py reads.

    python prepare_shakespeare.py                                 Tiny Shakespeare, downloaded
    python prepare_shakespeare.py --source my.txt --dataset my    any UTF-8 text

writes data/<dataset>/: input.txt (the text), train.bin and val.bin (token ids: uint16,
little-endian, no header, byte for byte what nanoGPT writes) and meta.json (the vocabulary and
where the text came from). The id of a character is its place in the sorted vocabulary.

The text is read in pieces (once to learn its vocabulary, once to encode it), so memory stays the
same however large it is.
"""

import codecs
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from config import Parser, UserError, run_main, sync_folder

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of that file
BUNDLED = Path(__file__).parent / "data" / "pastiche.txt"  # stands in where there is no network

TRIES = 3
BACKOFF = 1.0  # seconds before the second try, twice that before the third
TIMEOUT = (10, 30)  # seconds to connect, and between two packets
CHUNK = 1 << 18  # bytes read at a time: what is made of them still fits a CPU's cache

META = {"vocab": str, "source": str, "sha256": str, "characters": int, "tokens": dict}
SPLITS = ["train", "val", "test"]  # the files' names, in the order of their shares
CODE_POINTS = 0x110000  # how many code points Unicode has
LARGEST_VOCABULARY = 65535  # ids are uint16, and the last one is kept to mean "no such character"
NO_ID = 65535
LARGEST_CHECKED = 1 << 32  # bytes; to hash more than 4 GiB would hold up the start of training

# ---------------------------------------------------------------------------------------------
# The tokenizer: one character, one number


def code_points(text):
    """The Unicode code points of a string as an array of integers, one a character."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    # surrogatepass: half a surrogate pair (from a broken command line, say) is no character of
    # any vocabulary, and should be reported as that.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class Tokenizer:
    """Characters to ids and back. `vocab` is a string; a character's id is its index in it."""

    def __init__(self, vocab):
        if len(vocab) != len(set(vocab)) or not 0 < len(vocab) <= LARGEST_VOCABULARY:
            raise ValueError(f"a vocabulary is 1 to {LARGEST_VOCABULARY} different characters")
        self.vocab = vocab
        self.vocab_size = len(vocab)
        self.characters = code_points(vocab).astype("<u4")  # id -> code point
        self.ids = np.full(CODE_POINTS, NO_ID, dtype=np.uint16)  # code point -> id
        self.ids[self.characters] = np.arange(self.vocab_size, dtype=np.uint16)

    def encode(self, text):
        """Ids of a string: uint16 array, as long as it. ValueError names unknown characters."""
        ids = self.ids.take(code_points(text))  # (len(text),)
        if (ids == NO_ID).any():
            raise ValueError(f"not in the vocabulary: {listed(set(text) - set(self.vocab))}")
        return ids

    def decode(self, ids):
        """The string of an array of ids."""
        return (
            self.characters[np.asarray(ids, dtype=np.intp)]
            .tobytes()
            .decode("utf-32-le", "surrogatepass")
        )


def listed(characters):
    """The first characters of a set in readable form: "'a', 'b' and 3 more"."""
    first = sorted(characters)[:10]
    more = len(characters) - len(first)
    return ", ".join(repr(character) for character in first) + (f" and {more} more" if more else "")


def load_meta(path):
    """The content of a meta.json as a dict. Raises UserError if it is missing or damaged."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in META.items():
            if type(meta[name]) is not kind:
                raise TypeError(f"{name} should be of type {kind.__name__}")
        if not {"train", "val"} <= set(meta["tokens"]) <= set(SPLITS):
            raise TypeError("tokens should tell of train and val")
        if not all(type(count) is int and count > 0 for count in meta["tokens"].values()):
            raise TypeError("tokens should be whole numbers above 0")
        if meta.get("checksums", {}).get("meta.json", checksum_of(meta)) != checksum_of(meta):
            raise ValueError("wrong checksum")
        Tokenizer(meta["vocab"].encode().decode())  # encode: no half of a surrogate pair
    except FileNotFoundError as error:
        raise UserError(f"no {path}; prepare_shakespeare.py --dataset NAME makes one") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); run prepare_shakespeare.py again"
        ) from error
    return meta


def checksum_of(meta):
    """The sha256 of meta.json's entries, but for the checksums themselves."""
    entries = {name: meta[name] for name in META}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def open_dataset(dataset, block_size):
    """Open data/<dataset>/ for training: (meta.json's content, {split: uint16 array (tokens,)}).

    The arrays are files seen as memory: what is not read takes no memory. Raises UserError where
    a file is missing, does not fit meta.json, or is too short for windows of block_size.
    """
    folder = Path("data") / dataset
    meta = load_meta(folder / "meta.json")
    splits = {}
    for name in [name for name in SPLITS if name in meta["tokens"]]:
        tokens, path = meta["tokens"][name], folder / f"{name}.bin"
        size = path.stat().st_size if path.exists() else 0
        if size != 2 * tokens:
            raise UserError(
                f"{path} has {size:,} bytes, not two for each of the {tokens:,} tokens in "
                "meta.json: run prepare_shakespeare.py again"
            )
        splits[name] = np.memmap(path, dtype="<u2", mode="r")
        if size <= LARGEST_CHECKED:
            check_tokens(path, splits[name], meta)
    if len(splits["train"]) <= block_size:
        raise UserError(
            f"{folder / 'train.bin'} has {len(splits['train'])} tokens, too few for block_size "
            f"{block_size}: lower it, or give more text"
        )
    return meta, splits


def check_tokens(path, ids, meta):
    """Raise UserError if a .bin file is not as it was written, or has ids beyond the vocabulary."""
    written = meta.get("checksums", {}).get(path.name)
    if written is None and ids.max() >= len(meta["vocab"]):  # another program's file
        raise UserError(
            f"{path} has the id {ids.max()}, but the vocabulary of meta.json ends at "
            f"{len(meta['vocab']) - 1}: the two do not belong together"
        )
    if written not in (None, sha256_of(path)):
        raise UserError(f"{path} is damaged (wrong checksum): run prepare_shakespeare.py again")


# ---------------------------------------------------------------------------------------------
# Getting the text


def download(url, path, sha256=None):
    """Stream `url` into the file `path`. Raises UserError after the last of three tries."""
    import requests  # here, because no other program that imports this file needs it

    for attempt in range(1, TRIES + 1):
        try:
            digest = hashlib.sha256()
            with requests.get(url, stream=True, timeout=TIMEOUT) as response:
                response.raise_for_status()
                with open(path, "wb") as file:
                    for piece in response.iter_content(CHUNK):
                        digest.update(piece)
                        file.write(piece)
            if sha256 in (None, digest.hexdigest()):
                return
            problem = f"{url} is not the file it should be (sha256 {digest.hexdigest()})"
        except requests.HTTPError as error:
            problem = f"{url} answers HTTP {error.response.status_code}"
            if error.response.status_code < 500:  # asking again would not change it
                break
        except (requests.RequestException, ValueError) as error:  # ValueError: no such address
            problem = f"{url}: {root_cause(error)}"
        if attempt < TRIES:
            time.sleep(BACKOFF * 2 ** (attempt - 1))
    raise UserError(f"download failed after {attempt} of {TRIES} tries: {problem}")


def root_cause(error):
    """The innermost reason of a chain of network errors, which say the same at great length."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def sha256_of(path):
    """The sha256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def obtain(source, folder, text):
    """Put the text into the file `text`, a copy of our own; returns where it came from."""
    if source is None:
        return obtain_tiny_shakespeare(folder / "input.txt", text)
    if source.startswith(("http://", "https://")):
        download(source, text, SHA256 if source == URL else None)
    elif not Path(source).exists():
        raise UserError(f"--source {source}: no such file")
    elif not Path(source).is_file():
        raise UserError(f"--source {source}: not a file")
    else:
        shutil.copyfile(source, text)
    return source


def obtain_tiny_shakespeare(copy, text):
    """Tiny Shakespeare: the copy that is there, else the download, else the bundled text."""
    if copy.is_file() and sha256_of(copy) == SHA256:
        shutil.copyfile(copy, text)
        return URL
    try:
        download(URL, text, SHA256)
        return URL
    except UserError as error:
        warning = f"""
        {"*" * 78}
        WARNING: this is NOT Shakespeare.
        Tried:      {error}
        Used:       {BUNDLED.name}, a pastiche of {BUNDLED.stat().st_size:,} bytes bundled with
                    this project. Everything works, but its losses compare with nobody's.
        To mend it: run this again with a network, or fetch the file by other means
                    ({URL})
                    and run: python prepare_shakespeare.py --source FILE
        {"*" * 78}"""
        print(warning.replace("\n        ", "\n"), file=sys.stderr)
        shutil.copyfile(BUNDLED, text)
        return f"bundled pastiche, because: {error}"


# ---------------------------------------------------------------------------------------------
# Text to tokens


def read_text(path, name=None, digest=None):
    """Yield a UTF-8 file's text in pieces. Line ends become \\n, as in any Python text file, and
    a byte-order mark is dropped. Raises UserError (about `name`) at the first bad byte.
    `digest`, a hashlib object, is fed the bytes as they are."""
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    lines = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset = 0
    with open(path, "rb") as file:
        while True:
            piece = file.read(CHUNK)
            if digest:
                digest.update(piece)
            try:
                text = lines.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                # The decoder held back the start of a character that the last piece ended in.
                bad = offset + error.start - (len(error.object) - len(piece))
                raise UserError(
                    f"{name or path} is not UTF-8 text: bad byte at offset {bad:,} "
                    f"({error.reason}); convert it first (iconv -f latin1 -t utf-8, say)"
                ) from error
            if text:
                yield text
            if not piece:
                return
            offset += len(piece)


def survey(path, name):
    """Read a text once. Returns (sorted vocabulary, number of characters, sha256 of the file)."""
    digest, characters = hashlib.sha256(), 0
    ascii_seen, seen = b"", np.zeros(CODE_POINTS, dtype=bool)
    for text in read_text(path, name, digest):
        characters += len(text)
        if text.isascii():  # deleting what is known, to see what is left, is the fastest way
            ascii_seen += bytes(set(text.encode().translate(None, ascii_seen)))
        else:
            seen[code_points(text)] = True
    seen[list(ascii_seen)] = True
    vocab = np.flatnonzero(seen).astype("<u4").tobytes().decode("utf-32-le")
    return vocab, characters, digest.hexdigest()


def parse_split(text):
    """'0.9,0.1' -> [Decimal('0.9'), Decimal('0.1')]. Raises UserError."""
    try:
        shares = [Decimal(share) for share in text.split(",")]
        fit = all(0 < share < 1 for share in shares) and sum(shares) == 1
    except InvalidOperation:
        fit = False
    if not fit or len(shares) not in (2, 3):
        raise UserError(
            f"--split {text}: give two or three shares above 0 that sum to 1, as in 0.9,0.1"
        )
    return shares


def split_sizes(characters, shares):
    """How many characters each split gets: each ends at the whole part of its cumulated share."""
    ends = [int(characters * sum(shares[: i + 1])) for i in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def write_tokens(path, tokenizer, sizes, names, folder):
    """Encode a text into one .bin file a split, piece by piece. Returns {file: its sha256}."""
    pieces, checksums = read_text(path), {}
    ids = np.empty(0, dtype="<u2")
    for name, size in zip(names, sizes, strict=True):
        digest = hashlib.sha256()
        with open(folder / f"{name}.bin", "wb") as file:
            while size:
                if not len(ids):
                    ids = tokenizer.encode(next(pieces)).astype("<u2", copy=False)
                digest.update(ids[:size])
                file.write(ids[:size])
                ids, size = ids[size:], max(0, size - len(ids))
                forget(file)
        checksums[f"{name}.bin"] = digest.hexdigest()
    return checksums


def forget(file):
    """Tell the system that what was written so far will not be read soon (Linux; idle elsewhere).

    It then goes to the disk at once and leaves the memory, where a text of gigabytes would take
    the place of everything else. (1 GB of text: 6 seconds instead of 13, on a virtual machine.)
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def install(scratch, folder, names):
    """Move finished files into a dataset's folder.

    meta.json is removed first and comes back last: whatever happens in between leaves a folder
    that is plainly unfinished, never one that mixes two texts.
    """
    finished = ["input.txt", *(f"{name}.bin" for name in names), "meta.json"]
    for name in finished:
        with open(scratch / name, "rb") as file:
            os.fsync(file.fileno())  # a disk that is full may say so only now
    (folder / "meta.json").unlink(missing_ok=True)
    for name in set(SPLITS) - set(names):
        (folder / f"{name}.bin").unlink(missing_ok=True)
    for name in finished:
        os.replace(scratch / name, folder / name)
    sync_folder(folder)


def prepare(source, dataset, shares, vocab=None):
    """Make data/<dataset>/ from a source (None: Tiny Shakespeare). Returns meta.json's content."""
    folder = Path("data") / dataset
    names = SPLITS[: len(shares)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as scratch:
            scratch = Path(scratch)
            text = scratch / "input.txt"
            origin = obtain(source, folder, text)
            origin = origin.encode("utf-8", "replace").decode()  # file names need not be UTF-8
            found, characters, sha256 = survey(text, origin)
            sizes = split_sizes(characters, shares)
            check_text(origin, found, vocab, sizes)
            tokenizer = Tokenizer(vocab or found)
            meta = {
                "vocab": tokenizer.vocab,
                "source": origin,
                "sha256": sha256,
                "characters": characters,
                "tokens": dict(zip(names, sizes, strict=True)),
            }
            checksums = write_tokens(text, tokenizer, sizes, names, scratch)
            meta["checksums"] = {**checksums, "meta.json": checksum_of(meta)}
            written = json.dumps(meta, ensure_ascii=False, indent=1) + "\n"
            (scratch / "meta.json").write_text(written, encoding="utf-8")
            install(scratch, folder, names)
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"cannot prepare {folder}: {where}: {error.strerror or error}") from error
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise UserError(f"--source {source!r}: no file has such a name") from error
    finally:
        with contextlib.suppress(OSError):  # not empty, say
            folder.rmdir()  # made for a text that turned out to be unfit
    return meta


def check_text(name, found, vocab, sizes):
    """Raise UserError where a text cannot be trained on."""
    if not found:
        raise UserError(f"{name} is empty")
    if min(sizes) < 2:  # a character and the one that follows it
        raise UserError(
            f"{name} is too short to split: {sum(sizes)} characters into parts of "
            f"{', '.join(str(size) for size in sizes)}; each needs at least 2"
        )
    if len(found) > LARGEST_VOCABULARY:
        raise UserError(
            f"{name} has {len(found):,} different characters; {LARGEST_VOCABULARY:,} is the most"
        )
    unknown = set(found) - set(vocab or found)
    if unknown:
        raise UserError(f"{name} has characters that the vocabulary lacks: {listed(unknown)}")


def main(arguments):
    parser = Parser(
        prog="prepare_shakespeare.py",
        description="Turn a text into data/<dataset>/: train.bin, val.bin, meta.json.",
    )
    parser.add_argument(
        "--source", metavar="PATH_OR_URL", help="a UTF-8 text (default: download Tiny Shakespeare)"
    )
    parser.add_argument("--dataset", default="shakespeare_char", help="folder under data/ to write")
    parser.add_argument(
        "--split",
        default="0.9,0.1",
        help="shares of train and validation, and of test if there are three (default: 0.9,0.1)",
    )
    parser.add_argument(
        "--vocab", metavar="PATH/meta.json", help="use another dataset's vocabulary (fine-tuning)"
    )
    options = parser.parse_args(arguments)
    name = options.dataset
    if Path(name).name != name or name in ("", "..") or not name.isprintable():
        raise UserError(f"--dataset {name!r}: give the name of a folder, not a path")
    shares = parse_split(options.split)
    vocab = None
    if options.vocab:
        path = Path(options.vocab)
        vocab = load_meta(path / "meta.json" if path.is_dir() else path)["vocab"]

    meta = prepare(options.source, options.dataset, shares, vocab)

    print(f"data/{options.dataset}: {meta['characters']:,} characters from {meta['source']}")
    print(f"vocabulary: {len(meta['vocab'])} characters")
    for name, tokens in meta["tokens"].items():
        print(f"{name + '.bin:':<11} {tokens:,} tokens")


if __name__ == "__main__":
    run_main(main)
