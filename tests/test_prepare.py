"""prepare_shakespeare.py and tokenizer.py: the bytes they write, where a text comes from, and how
a dataset is read back."""

import codecs
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import string
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prepare_shakespeare as prepare
import quill
from quill import text as texts
from quill.checkpoint import FORMAT
from quill.dataset import open_dataset
from quill.terminal import UsageError, UserError
from tokenizer import Tokenizer

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 20
OTHER = "Another text, to be found untouched.\n" * 10

fuzz = hypothesis.settings(max_examples=60, deadline=None, database=None, derandomize=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and no test cuts the power
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between two tries of a download
    monkeypatch.setenv("no_proxy", "*")
    Path("data").mkdir()


def make(content, *arguments, dataset="d"):
    """Prepare a text as data/<dataset>; what meta.json says."""
    Path("text.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    prepare.main(["--source", "text.txt", "--dataset", dataset, *arguments])
    return json.loads(Path("data", dataset, "meta.json").read_text(encoding="utf-8"))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def tokens(split):
    return np.fromfile(f"data/d/{split}.bin", "<u2")


def whole(dataset="d"):
    """The text of a dataset, read as train.py reads it."""
    data = open_dataset(dataset)
    ids = np.concatenate([tokens.ids for tokens in data.splits.values()])
    return Tokenizer(data.meta["vocab"]).decode(ids)


def snapshot():
    """Every file under data/ with its content."""
    return {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}


# --- What is written --------------------------------------------------------------------------


@fuzz
@given(
    st.text(st.sampled_from("aé日😀\r\n\ufeff\u2028") | st.characters(codec="utf-8")),
    st.integers(1, 50),
)
def test_bins_equal_nanogpts_byte_for_byte(text, piece):
    text = "a" + text + "ab" * 20  # nanoGPT keeps a byte-order mark
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "PIECE", piece)
        patch.setattr(texts, "PIECE", piece)
        make(text)
    universal = Path("text.txt").read_text(encoding="utf-8")  # \r\n and \r are read as \n
    ids = {character: i for i, character in enumerate(sorted(set(universal)))}
    cut = int(len(universal) * 0.9)  # this and the rest as in data/shakespeare_char/prepare.py
    for split, part in (("train", universal[:cut]), ("val", universal[cut:])):
        expected = np.array([ids[character] for character in part], np.uint16)
        assert Path(f"data/d/{split}.bin").read_bytes() == expected.tobytes()
    assert whole() == universal


def test_known_text_gives_known_contents_of_meta():
    meta = make(b"\xef\xbb\xbf" + b"bca\r\n" * 5)  # a byte-order mark and Windows' newlines
    train, val = bytes([2, 0, 3, 0, 1, 0, 0, 0] * 4 + [2, 0, 3, 0]), bytes([1, 0, 0, 0])
    text = b"bca\n" * 5
    assert Path("data/d/input.txt").read_bytes() == text
    assert meta == {
        "vocab": "\nabc",
        "most_frequent": "bca\n",
        "source": "text.txt",
        "sha256": sha256(text),
        "characters": 20,
        "tokens": {"train": 18, "val": 2},
        "checksums": {"train": sha256(train), "val": sha256(val)},
    }


def test_memory_stays_below_4_times_the_text():
    content = ("😀" + "to be or not to be, that is the question\r\n" * 240_000).encode()
    tracemalloc.start()
    make(content)  # it is older, and not counted
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(content) > 10_000_000 and peak < 4 * len(content)


def test_three_fractions_give_a_test_split_until_two_are_given():
    # As binary fractions, 0.7 + 0.2 is below 0.9, and a character would change sides.
    meta = make("abcdefghij" * 4, "--split=0.7,0.2,0.1")
    assert meta["tokens"] == {"train": 28, "val": 8, "test": 4}
    assert [*tokens("train"), *tokens("val"), *tokens("test")] == [*range(10)] * 4
    assert whole() == "abcdefghij" * 4
    make(OTHER)
    assert not Path("data/d/test.bin").exists() and whole() == OTHER


# --- The network ------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int = 200
    body: bytes = TEXT.encode()
    missing: int = 0  # bytes that are promised and never come
    kind: str = "text/plain"


@pytest.fixture
def server(monkeypatch):
    """A server that gives its answers in turn, and the last one from then on. It is the home of
    Tiny Shakespeare, which is TEXT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802 (http.server's name)
            answer = http.answers[min(http.requests, len(http.answers) - 1)]
            http.requests += 1
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body) + answer.missing))
            self.send_header("Content-Type", answer.kind)
            self.end_headers()
            self.wfile.write(answer.body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.answers, http.requests = [Answer()], 0
        http.url = f"http://127.0.0.1:{http.server_port}/input.txt"
        monkeypatch.setattr(prepare, "URL", http.url)
        monkeypatch.setattr(prepare, "SHA256", sha256(TEXT.encode()))
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def test_default_is_downloaded_again_only_if_altered(server):
    for earlier, requests in [(None, 1), (TEXT, 1), (OTHER, 2)]:
        if earlier:
            Path("data/shakespeare_char/input.txt").write_text(earlier)
        prepare.main([])
        assert whole("shakespeare_char") == TEXT
        assert open_dataset("shakespeare_char").meta["source"] == server.url
        assert server.requests == requests


def test_server_that_recovers_is_asked_until_it_does(server):
    server.answers = [Answer(503), Answer(500), Answer(body=OTHER.encode())]
    prepare.main(["--source", server.url, "--dataset=d"])
    assert server.requests == 3
    assert whole() == OTHER and open_dataset("d").meta["source"] == server.url


@pytest.mark.parametrize("answer", [Answer(404), Answer(body=OTHER.encode())])
def test_failed_default_download_takes_the_bundled_text(answer, server, capsys):
    server.answers = [answer]
    prepare.main([])
    assert whole("shakespeare_char") == prepare.BUNDLED.read_text()
    warning, source = capsys.readouterr().err, open_dataset("shakespeare_char").meta["source"]
    assert "NOT Shakespeare" in warning and server.url in warning
    assert "pastiche" in source and server.url in source


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (Answer(404), 1),
        (Answer(500), 3),
        (Answer(missing=10), 1),
        (Answer(kind="text/html; charset=utf-8"), 1),  # a login page
    ],
)
def test_failed_download_is_reported_and_changes_nothing(answer, requests, server):
    make(OTHER)
    before = snapshot()
    server.answers = [answer]
    with pytest.raises(UserError, match=server.url):
        prepare.main(["--source", server.url, "--dataset=d"])
    assert (server.requests, snapshot()) == (requests, before)


def test_bundled_text_has_the_characters_of_the_real_one():
    text = prepare.BUNDLED.read_text()
    real = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
    assert "".join(sorted(set(text))) == real


# --- What is refused --------------------------------------------------------------------------

FILES = {
    "text.txt": TEXT.encode(),
    "empty.txt": b"",
    "short.txt": b"abcdefghijk",
    "latin1.txt": b"\r\n" * 10 + b"caf\xe9 au lait",
    "late.txt": "😀".encode() * 1_250_000 + b"\xff",
    "cut.txt": "ab€".encode()[:-1],
    "other.json": b'{"vocab": "abc", "most_frequent": "a", "source": "", "characters": 3, '
    b'"tokens": {}, "checksums": {}}',
}
BAD = {  # a command line, and facts that the message must have
    "--source=nowhere.txt": ["nowhere.txt"],
    "--source=data": ["data"],
    "--source=empty.txt": ["empty.txt", "0 characters"],
    "--source=short.txt --split=0.8,0.1,0.1": ["short.txt", "11 characters"],
    "--source=latin1.txt": ["latin1.txt", "offset 23 "],
    "--source=late.txt": ["late.txt", "offset 5,000,000 "],
    "--source=cut.txt": ["cut.txt", "offset 2 "],
    "--source=http://127.0.0.1:1/": ["http://127.0.0.1:1/"],  # nobody listens there
    "--vocab=nowhere.json": ["nowhere.json"],
    "--vocab=other.json": ["text.txt", "'\\n', ' '", "more"],
}
for odd in ["ftp://a/b.txt", "~nemo/a.txt", "http://[::1"]:
    BAD[f"--source={odd}"] = [odd]
for fractions in ["0.5,0.4", "most,rest", "1", "0.4,0.2,0.2,0.2", "0.5,0.5,0", "nan,0.1"]:
    BAD[f"--split={fractions}"] = ["--split", fractions]
for name in ["a/b", "..", ""]:
    BAD[f"--dataset={name}"] = ["--dataset", repr(name)]


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_reported_and_changes_nothing(words):
    make(OTHER)
    before = snapshot()
    for name, content in FILES.items():
        if name == "text.txt" or name in words:
            Path(name).write_bytes(content)
    error = UsageError if words.startswith(("--split", "--dataset")) else UserError
    with pytest.raises(error) as caught:
        sources = [] if "--source" in words else ["--source=text.txt"]
        prepare.main([*sources, "--dataset=d", *words.split()])
    assert all(fact in str(caught.value) for fact in BAD[words])
    assert snapshot() == before


@pytest.mark.parametrize("damage", ["empty", "flipped", "missing"])
@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json"])
def test_damaged_dataset_is_refused_with_the_files_name(name, damage):
    make(TEXT)
    path = Path("data/d", name)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        flipped = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes(flipped if damage == "flipped" else b"")
    with pytest.raises(UserError, match=f"data.d.{name}.*prepare_shakespeare.py"):
        open_dataset("d")


# --- What interrupts it -----------------------------------------------------------------------


def kill_after(operations):
    """End this process before the next operation on a file, after that many."""
    left = iter(range(operations))

    def audit(event, _):
        if event in ("open", "os.rename", "os.remove") and next(left, None) is None:
            os._exit(9)

    sys.addaudithook(audit)


@pytest.mark.skipif(os.name != "posix", reason="POSIX only")
def test_killed_prepare_leaves_no_mixture_of_two_texts():
    for operations in range(100):
        make(OTHER)
        child = os.fork()
        if child == 0:
            kill_after(operations)
            make(TEXT)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        try:
            assert whole() in (OTHER, TEXT)
        except UserError as error:
            assert "data/d/meta.json" in str(error)
        make(TEXT)  # it works again
        assert whole() == TEXT and len(os.listdir("data/d")) == 5  # four files and the lock
        if status == 0:
            break
    assert operations > 10


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", None])
def test_other_encodings_are_refused_by_their_name(encoding):
    text = "\u201cna\u00efve\u201d, he said.\n" * 9
    content = text.encode(encoding) if encoding else gzip.compress(text.encode())
    with pytest.raises(UserError, match="text.txt.* iconv " if encoding else "archive") as caught:
        make(content)
    advised = str(caught.value).partition("iconv -f ")[2].split()
    assert content.decode(advised[0]) == content.decode(encoding) if encoding else not advised


def test_several_sources_and_standard_input_make_one_text(monkeypatch):
    accent = "é".encode()  # two bytes
    Path("a.txt").write_text(TEXT.strip(), encoding="utf-8-sig")
    Path("b.txt").write_bytes(codecs.BOM_UTF8 + OTHER.encode() + accent[:1])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(accent[1:] + b"\n")))
    prepare.main(["--dataset=d", "--source", "a.txt", "b.txt", "--source", "-"])
    made = f"{TEXT.strip()}\n{OTHER}é\n"  # each begins a line, or goes on inside a character
    assert whole() == made == Path("data/d/input.txt").read_text()
    Path("folder").mkdir()
    for hint in (r"cannot read folder: [^(]*$", r"folder/\*.txt"):  # only where there are some
        with pytest.raises(UserError, match=hint):
            prepare.main(["--source=folder"])
        Path("folder/a.txt").touch()


def test_stored_source_has_no_folders_and_passwords(server):
    Path("deep").mkdir()
    odd = os.fsdecode(b"deep/caf\xe9.txt")
    Path(odd).write_text(TEXT)
    url = server.url.replace("http://", "http://me:secret@")
    for source, name in ((odd, "caf\\xe9.txt"), (url, server.url)):
        prepare.main(["--dataset=d", "--source", source])
        assert open_dataset("d").meta["source"] == name
    server.answers = [Answer(404)]
    with pytest.raises(UserError) as caught:
        prepare.main(["--dataset=d", "--source", url])
    assert "secret" not in str(caught.value)


def test_vocabulary_comes_from_a_dataset_or_a_checkpoint():
    vocab = make("zyxabc" * 10, dataset="first")["vocab"]
    torch.save({"format": FORMAT, "meta": {"vocab": vocab}}, "ckpt.pt")
    Path("out/run").mkdir(parents=True)
    shutil.copy("ckpt.pt", "out/run")
    for name in ("first", "data/first", "data/first/meta.json", "ckpt.pt", "out/run"):
        assert make("cab" * 10, f"--vocab={name}")["vocab"] == vocab
    assert tokens("train").tolist() == [vocab.index(character) for character in "cab" * 9]


def test_most_frequent_characters_are_listed_up_to_100():
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    text = "".join(character * count for count, character in enumerate(characters, start=1))
    assert make(text)["most_frequent"] == characters[:-101:-1]
    assert make(characters[:3] * 9, "--vocab=d")["most_frequent"] == characters[:3]


@pytest.mark.parametrize("name", ["shakespeare_char", "my"])
def test_missing_dataset_is_reported_with_its_command(name, server):
    with pytest.raises(UserError, match=re.escape(f"data/{name}/meta.json in {os.getcwd()}")) as no:
        open_dataset(name)
    Path("FILE").write_text(TEXT)
    prepare.main(str(no.value).split("python prepare_shakespeare.py")[1].split(" makes")[0].split())
    assert open_dataset(name)


def test_without_torch_a_program_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="^error: .*pip install[^\n]*$"):
        quill.require_packages()


def test_without_requests_the_bundled_text_is_taken(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "requests", None)
    prepare.main(["--dataset=d"])
    assert "requests" in capsys.readouterr().err
