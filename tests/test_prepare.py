"""prepare_shakespeare.py: what it writes, where it gets the text, and how it refuses."""

from quill.dataset import open_dataset
from quill.terminal import TEMPORARY, UserError, locked, run_main

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import string
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prepare_shakespeare as prepare

SCRIPT = Path(prepare.__file__)
TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 20
OTHER = "Another text, to be found untouched.\n" * 10
FILES = ("input.txt", "train.bin", "val.bin", "meta.json")

fuzz = settings(max_examples=100, deadline=None, database=None)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "BACKOFF", 0)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and no test pulls the plug
    monkeypatch.setenv("no_proxy", "*")
    Path("data").mkdir()
    return tmp_path


def write(name, content):
    data = content if isinstance(content, bytes) else content.encode()
    Path(name).write_bytes(data)


def make(content, *arguments, dataset="d"):
    """Prepare `content` as data/<dataset>; its meta.json."""
    write("text.txt", content)
    prepare.main(["--source", "text.txt", "--dataset", dataset, *arguments])
    return meta(dataset)


def meta(dataset):
    return json.loads(Path("data", dataset, "meta.json").read_text(encoding="utf-8"))


def tokens(dataset="d"):
    return np.concatenate(
        [np.fromfile(f"data/{dataset}/{name}.bin", "<u2") for name in meta(dataset)["tokens"]]
    )


def failure(arguments, monkeypatch):
    """The one line that main() ends in."""
    monkeypatch.setattr(sys, "argv", ["prepare_shakespeare.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(prepare.main)
    line = stop.value.code
    assert isinstance(line, str)
    assert line.startswith("error: ")
    assert len(line.splitlines()) == 1
    return line


def snapshot():
    """Every path under data/ with its content."""
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in Path("data").rglob("*")
    }


# --- What is written --------------------------------------------------------------------------


def test_a_known_text_gives_known_bytes():
    make("bca\n" * 5)
    assert Path("data/d/train.bin").read_bytes() == bytes(
        [2, 0, 3, 0, 1, 0, 0, 0] * 4 + [2, 0, 3, 0]
    )
    assert Path("data/d/val.bin").read_bytes() == bytes([1, 0, 0, 0])


def test_ids_above_255_are_little_endian():
    make("".join(map(chr, range(0x4E00, 0x4E00 + 300))), "--split", "0.5,0.5")
    assert Path("data/d/val.bin").read_bytes() == b"".join(
        number.to_bytes(2, "little") for number in range(150, 300)
    )


def test_meta_tells_vocabulary_origin_and_sizes():
    told = make("bca\n" * 5)
    checksums = told.pop("checksums")
    for name in ("train.bin", "val.bin"):
        assert checksums[name] == hashlib.sha256(Path("data/d", name).read_bytes()).hexdigest()
    assert told == {
        "vocab": "\nabc",
        "source": "text.txt",
        "sha256": hashlib.sha256(b"bca\n" * 5).hexdigest(),
        "characters": 20,
        "tokens": {"train": 18, "val": 2},
    }


def test_the_text_is_kept_byte_for_byte():
    text = b"\xef\xbb\xbfsome\r\ntext\r\n" * 5
    make(text)
    assert Path("data/d/input.txt").read_bytes() == text


def test_a_dataset_can_be_prepared_again_from_its_own_text():
    make(TEXT)
    prepare.main(["--source", "data/d/input.txt", "--dataset", "d", "--split", "0.5,0.5"])
    assert Path("data/d/input.txt").read_bytes() == TEXT.encode()
    assert meta("d")["tokens"] == {"train": len(TEXT) // 2, "val": len(TEXT) // 2}


def test_tiny_shakespeare_splits_as_in_nanogpt():
    assert prepare.split_sizes(1115394, prepare.parse_split("0.9,0.1")) == [1003854, 111540]


@fuzz
@given(st.integers(0, 10**9))
def test_any_text_splits_as_in_nanogpt(characters):
    train = int(characters * 0.9)
    sizes = prepare.split_sizes(characters, prepare.parse_split("0.9,0.1"))
    assert sizes == [train, characters - train]


@pytest.mark.parametrize(
    "split, sizes",
    [("0.7,0.2,0.1", [7, 2, 1]), ("0.1,0.2,0.7", [1, 2, 7]), ("0.3,0.3,0.4", [3, 3, 4])],
)
@pytest.mark.parametrize("tens", [1, 10**3, 10**12])
def test_fractions_are_added_in_decimal(split, sizes, tens):
    # As binary fractions 0.7 + 0.2 is below 0.9, and a character would change sides.
    fractions = prepare.parse_split(split)
    assert prepare.split_sizes(10 * tens, fractions) == [size * tens for size in sizes]


def test_three_fractions_give_a_test_split():
    make("abcdefghij" * 4, "--split", "0.7,0.2,0.1")
    sizes = [np.fromfile(f"data/d/{name}.bin", "<u2").size for name in ("train", "val", "test")]
    assert sizes == [28, 8, 4]
    assert tokens().tolist() == [*range(10)] * 4


def test_two_fractions_remove_the_test_split_of_an_earlier_text():
    make(TEXT, "--split", "0.7,0.2,0.1")
    make(OTHER)
    assert sorted(os.listdir("data/d")) == sorted(FILES)


@pytest.mark.parametrize("path", ["data/first/meta.json", "data/first"])
def test_another_datasets_vocabulary_gives_its_ids(path):
    vocab = make("zyxabc" * 10, dataset="first")["vocab"]
    assert make("cab" * 10, "--vocab", path)["vocab"] == vocab
    assert tokens().tolist() == [vocab.index(character) for character in "cab" * 10]


@pytest.mark.parametrize("dataset", ["d", "my.json", "ünï", "with space"])
def test_a_prepared_dataset_opens(dataset):
    make(TEXT, dataset=dataset)
    found, paths = open_dataset(dataset, block_size=8)
    assert list(paths) == ["train", "val"]
    ids = np.concatenate([np.fromfile(path, "<u2") for path in paths.values()])
    assert prepare.Tokenizer(found["vocab"]).decode(ids) == TEXT


# --- The tokenizer ----------------------------------------------------------------------------


@fuzz
@given(st.text())
def test_decoding_undoes_encoding(text):
    tokenizer = prepare.Tokenizer("".join(sorted(set(text) | {"a"})))
    ids = tokenizer.encode(text)
    assert [tokenizer.vocab[number] for number in ids] == list(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("unknown", ["z", "é", "😀", "\x00", "\U0010ffff", "\udcff"])
def test_encoding_names_an_unknown_character(unknown):
    with pytest.raises(ValueError, match=re.escape(f"not in the vocabulary: {unknown!r}")):
        prepare.Tokenizer("abc").encode(f"ab{unknown}c")


def test_encoding_names_ten_unknown_characters_and_counts_the_rest():
    with pytest.raises(ValueError, match=r"'b', .*'k' and 15 more$"):
        prepare.Tokenizer("a").encode(string.ascii_lowercase)


@pytest.mark.parametrize("vocab", ["", "aa"])
def test_a_vocabulary_is_of_different_characters(vocab):
    with pytest.raises(ValueError, match="vocabulary"):
        prepare.Tokenizer(vocab)


# --- Reading in pieces ------------------------------------------------------------------------


@fuzz
@given(
    pieces=st.lists(
        st.sampled_from(["a", "é", "日", "😀", "\r", "\n", "\r\n", "\ufeff", "\u2028"])
    ),
    mark=st.booleans(),
    chunk=st.integers(1, 7),
    filler=st.just(0) | st.integers(8170, 8195),  # Python reads a text file 8,192 bytes at a time
)
def test_pieces_of_any_size_give_what_the_whole_text_gives(pieces, mark, chunk, filler):
    data = ("\ufeff" * mark + "a" * filler + "".join(pieces) + "ab" * 20).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "CHUNK", chunk)
        vocab = make(data)["vocab"]
    whole = Path("text.txt").read_text(encoding="utf-8-sig")
    assert vocab == "".join(sorted(set(whole)))
    assert [vocab[number] for number in tokens()] == list(whole)


@fuzz
@given(
    text=st.text(st.sampled_from("aé日😀\r\n"), min_size=1),
    bad=st.sampled_from([b"\xff", b"\x80", b"\xc3", b"\xe6\x97", b"\xf0\x9f\x98", b"\xed\xa0\x80"]),
    rest=st.text(st.sampled_from("aé😀")),
    mark=st.booleans(),
    chunk=st.integers(1, 7),
    filler=st.just(0) | st.integers(8170, 8195),  # Python reads a text file 8,192 bytes at a time
)
def test_pieces_of_any_size_give_the_offset_of_the_first_bad_byte(
    text, bad, rest, mark, chunk, filler
):
    start = ("\ufeff" * mark + "a" * filler + text).encode()
    write("bad.txt", start + bad + rest.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "CHUNK", chunk)
        with pytest.raises(UserError, match=f"bad byte at offset {len(start):,} "):
            list(prepare.read_text("bad.txt"))


def test_memory_does_not_grow_with_the_text():
    line = "😀🎉 to be or nöt to be, 日本語 is it\r\n".encode()
    write("large.txt", line * (60_000_000 // len(line)))
    tracemalloc.start()
    try:
        prepare.main(["--source", "large.txt", "--dataset", "d"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A piece is 4 MB, and a few copies of it at four bytes a character are alive at a time. The
    # text as one string would be 170 MB.
    assert peak < 64_000_000


@pytest.mark.parametrize("now", [TEXT[:100], TEXT * 2], ids=["shorter", "longer"])
def test_a_text_that_changes_meanwhile_is_refused_or_taken_whole(now, monkeypatch):
    real = prepare.check_text

    def change(*arguments):
        real(*arguments)
        write("text.txt", now)

    monkeypatch.setattr(prepare, "check_text", change)
    with contextlib.suppress(UserError):
        found = make(TEXT)
        kept = Path("data/d/input.txt").read_bytes()
        assert (found["characters"], found["sha256"]) == (
            len(kept),
            hashlib.sha256(kept).hexdigest(),
        )


# --- The network ------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int = 200
    body: bytes = TEXT.encode()
    missing: int = 0  # bytes that are promised and never come
    silent: bool = False  # keeps the connection open, so that only a time-out ends it
    slow: bool = False  # sends a byte at a time, for as long as it is read
    headers: dict = field(default_factory=dict)


class Server:
    """Gives its answers in turn, and the last one from then on."""

    def __init__(self):
        self.answers, self.requests, self.over = [Answer()], 0, threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802 (http.server's name)
                answer = server.answers[min(server.requests, len(server.answers) - 1)]
                server.requests += 1
                if answer.body or not answer.silent:
                    self.send_response(answer.status)
                    self.send_header("Content-Length", str(len(answer.body) + answer.missing))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    step = 1 if answer.slow else max(1, len(answer.body))
                    with contextlib.suppress(ConnectionError):  # the client has had enough
                        for i in range(0, len(answer.body), step):
                            self.wfile.write(answer.body[i : i + step])
                            server.over.wait(0.05 if answer.slow else 0)
                if answer.silent:
                    server.over.wait(20)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/input.txt"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self):
        self.over.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    """A server that the default command takes for the home of Tiny Shakespeare, which is TEXT."""
    server = Server()
    monkeypatch.setattr(prepare, "URL", server.url)
    monkeypatch.setattr(prepare, "SHA256", hashlib.sha256(TEXT.encode()).hexdigest())
    yield server
    server.stop()


NETWORK_FAILURES = {
    "gone": (Answer(404), "HTTP 404", 1),
    "broken": (Answer(503), "HTTP 503", 3),
    "in part": (Answer(206), "HTTP 206", 1),
    "redirected to nowhere": (Answer(302), "HTTP 302", 1),
    "asked too often": (Answer(429), "HTTP 429", 3),
    "a login page": (Answer(headers={"Content-Type": "text/html; charset=utf-8"}), "web page", 1),
    "a page in disguise": (Answer(body=b"\n<!DOCTYPE html>\n" + TEXT.encode()), "web page", 3),
    "compressed": (Answer(headers={"Content-Encoding": "gzip"}), "compressed (gzip)", 1),
    "a strange length": (Answer(headers={"Content-Length": "many"}), "", 3),
    "truncated": (Answer(missing=10), "", 3),
    "a byte at a time": (Answer(slow=True), "not complete after 0.3 seconds", 3),
    "silent": (Answer(body=b"", silent=True), "timed out", 3),
    "silent in the middle": (Answer(missing=10, silent=True), "timed out", 3),
}


@pytest.fixture(params=NETWORK_FAILURES.values(), ids=NETWORK_FAILURES)
def network_failure(request, server, monkeypatch):
    """A server that fails; what the complaint should name, and how often it should be asked."""
    answer, named, requests = request.param
    server.answers = [answer]
    monkeypatch.setattr(prepare, "TIMEOUT", 0.1 if answer.silent else 10)
    monkeypatch.setattr(prepare, "DEADLINE", 0.3)
    return named, requests


def test_the_default_command_downloads(server):
    prepare.main([])
    found = meta("shakespeare_char")
    assert (found["source"], found["sha256"]) == (server.url, prepare.SHA256)
    assert Path("data/shakespeare_char/input.txt").read_bytes() == TEXT.encode()


def test_a_verified_copy_is_used_without_the_network(server):
    prepare.main([])
    prepare.main(["--split", "0.5,0.5"])
    assert server.requests == 1
    assert meta("shakespeare_char")["source"] == server.url


def test_a_copy_that_was_altered_is_downloaded_again(server):
    prepare.main([])
    write("data/shakespeare_char/input.txt", OTHER)
    prepare.main([])
    assert Path("data/shakespeare_char/input.txt").read_bytes() == TEXT.encode()


def test_any_text_is_taken_from_an_address(server):
    server.answers = [Answer(body=OTHER.encode())]
    prepare.main(["--source", server.url + "?other", "--dataset", "d"])
    assert Path("data/d/input.txt").read_bytes() == OTHER.encode()
    assert meta("d")["source"] == server.url  # a query may hold secrets


def test_what_an_address_keeps_secret_is_neither_stored_nor_printed(server, monkeypatch, capsys):
    server.answers = [Answer(body=OTHER.encode())]
    url = server.url.replace("//", "//me:geheim@")
    prepare.main(["--source", f"{url}?token=geheim#geheim", "--dataset", "d"])
    assert meta("d")["source"] == server.url
    server.answers = [Answer(404)]
    line = failure(["--source", url, "--dataset", "d"], monkeypatch)
    assert "geheim" not in line + capsys.readouterr().out


def test_a_server_that_recovers_is_asked_until_it_does(server):
    server.answers = [Answer(503), Answer(503), Answer()]
    prepare.main(["--source", server.url, "--dataset", "d"])
    assert server.requests == 3
    assert Path("data/d/input.txt").read_bytes() == TEXT.encode()


def test_each_try_waits_twice_as_long(server, monkeypatch):
    waits = []
    monkeypatch.setattr(prepare, "BACKOFF", 1.5)
    monkeypatch.setattr(prepare.time, "sleep", waits.append)
    server.answers = [Answer(503)]
    with pytest.raises(UserError):
        prepare.main(["--source", server.url, "--dataset", "d"])
    assert waits == [1.5, 3.0]


def test_an_address_that_fails_is_named_and_never_replaced(
    server, network_failure, monkeypatch, capsys
):
    named, requests = network_failure
    line = failure(["--source", server.url + "?mine", "--dataset", "d"], monkeypatch)
    assert named in line
    assert server.url + "?mine" in line
    assert server.requests == requests
    assert (os.listdir("data"), capsys.readouterr().err) == ([], "")


def test_the_default_command_falls_back_and_says_so(server, network_failure, capsys):
    named, requests = network_failure
    prepare.main([])
    assert_bundled(capsys.readouterr().err, named)
    assert server.requests == requests


def test_the_default_command_refuses_an_altered_file(server, capsys):
    server.answers = [Answer(body=TEXT.replace("Citizen", "citizen").encode())]
    prepare.main([])
    assert_bundled(capsys.readouterr().err, "not the file it should be")


def assert_bundled(warning, reason):
    found = meta("shakespeare_char")
    assert "WARNING: this is NOT Shakespeare" in warning
    assert found["source"].startswith("bundled pastiche")
    assert reason in warning
    assert reason in found["source"]
    assert Path("data/shakespeare_char/input.txt").read_bytes() == prepare.BUNDLED.read_bytes()


def test_tiny_shakespeares_own_address_is_verified_too(server, monkeypatch):
    server.answers = [Answer(body=OTHER.encode())]
    line = failure(["--source", prepare.URL, "--dataset", "d"], monkeypatch)
    assert "not the file it should be" in line


def test_a_refused_connection_is_named(monkeypatch):
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/"
        line = failure(["--source", url, "--dataset", "d"], monkeypatch)
    assert f"{url}: ConnectionRefusedError" in line


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a..b/", "http://127.0.0.1:99999/"])
def test_an_address_that_is_none_is_named(url, monkeypatch):
    assert url in failure(["--source", url, "--dataset", "d"], monkeypatch)


@pytest.mark.parametrize("body, named", [(b"", "is empty"), (b"\xff", "is not UTF-8")])
def test_an_unfit_text_is_named_by_its_address(server, monkeypatch, body, named):
    server.answers = [Answer(body=body)]
    line = failure(["--source", server.url + "?mine", "--dataset", "d"], monkeypatch)
    assert f"{server.url} {named}" in line


# --- What is refused --------------------------------------------------------------------------

LARGEST = "".join(map(chr, range(0x20000, 0x20000 + 65535)))
FIT = {"source": "", "sha256": "", "characters": 2, "tokens": {"train": 1, "val": 1}}
INPUTS = {
    "fit.txt": TEXT,
    "empty.txt": "",
    "mark.txt": "\ufeff",
    "short.txt": "abcdefghijk",
    "latin1.txt": b"caf\xe9 au lait",
    "late.txt": b"a" * 5_000_000 + b"\xff",
    "cut.txt": "ab€".encode()[:-1],
    "many.txt": LARGEST + "\n",
    "torn.json": '{"vocab": ',
    "list.json": "[]",
    "bare.json": '{"vocab": "ab"}',
    "letters.json": json.dumps({**FIT, "vocab": sorted(set(TEXT))}),
    "number.json": json.dumps({**FIT, "vocab": 3}),
    "twice.json": json.dumps({**FIT, "vocab": "aa"}),
    "half.json": json.dumps({**FIT, "vocab": "".join(sorted(set(TEXT))) + "\ud800"}),
    "binary.json": b"\xff\xfe",
    "nested.json": "[" * 100_000,
    "other.json": json.dumps({**FIT, "vocab": "".join(sorted(set(TEXT) - {"F", ","}))}),
}
FRACTIONS = "two or three fractions above 0 that sum to 1"
BAD = {
    "no such file": (["--source=nope.txt"], "nope.txt: no such file"),
    "a folder": (["--source=data"], "data: not a file"),
    "a file's name too long": (["--source=" + "x" * 5000], "File name too long"),
    "half a surrogate pair as a file": (["--source=\ud800"], "no such file"),
    "empty": (["--source=empty.txt"], "empty.txt is empty"),
    "only a byte-order mark": (["--source=mark.txt"], "mark.txt is empty"),
    "too short": (["--source=short.txt", "--split=0.8,0.1,0.1"], "11 characters into parts of"),
    "not UTF-8": (["--source=latin1.txt"], "bad byte at offset 3 "),
    "not UTF-8 after the first piece": (["--source=late.txt"], "bad byte at offset 5,000,000 "),
    "cut within a character": (["--source=cut.txt"], "bad byte at offset 2 "),
    "too many characters": (["--source=many.txt"], "65,536 different characters; 65,535 is the"),
    "fractions below 1": (["--split=0.5,0.4"], FRACTIONS),
    "fractions above 1": (["--split=0.9,0.2"], FRACTIONS),
    "not numbers": (["--split=most,rest"], FRACTIONS),
    "one fraction": (["--split=1"], FRACTIONS),
    "four fractions": (["--split=0.4,0.2,0.2,0.2"], FRACTIONS),
    "negative fraction": (["--split=1.5,-0.5"], FRACTIONS),
    "a fraction of nothing": (["--split=0.5,0.5,0"], FRACTIONS),
    "nan": (["--split=nan,0.1"], FRACTIONS),
    "signalling nan": (["--split=snan,0.1"], FRACTIONS),
    "infinite": (["--split=inf,-inf"], FRACTIONS),
    "vast": (["--split=1e999999999,0.1"], FRACTIONS),
    "beyond decimals": (["--split=1e99999999999999999999,0.1"], FRACTIONS),
    "no fraction": (["--split="], FRACTIONS),
    "a slash": (["--dataset=a/b"], "give the name of a folder"),
    "a trailing slash": (["--dataset=d/"], "give the name of a folder"),
    "the parent": (["--dataset=.."], "give the name of a folder"),
    "data/ itself": (["--dataset=."], "give the name of a folder"),
    "no name": (["--dataset="], "give the name of a folder"),
    "a name of two lines": (["--dataset=a\nb"], "give the name of a folder"),
    "an absolute path": (["--dataset=/tmp"], "give the name of a folder"),
    "a dataset's name too long": (["--dataset=" + "x" * 300], "File name too long"),
    "no vocabulary": (["--vocab=nope.json"], "no nope.json"),
    "a folder as vocabulary": (["--vocab=data"], "no data/meta.json"),
    "a vocabulary's name too long": (["--vocab=" + "x" * 5000], "File name too long"),
    "torn vocabulary": (["--vocab=torn.json"], "torn.json is damaged"),
    "no entries": (["--vocab=list.json"], "list.json is damaged"),
    "entries missing": (["--vocab=bare.json"], "bare.json is damaged"),
    "vocabulary as a list": (["--vocab=letters.json"], "letters.json is damaged"),
    "vocabulary as a number": (["--vocab=number.json"], "number.json is damaged"),
    "a character twice": (["--vocab=twice.json"], "twice.json is damaged"),
    "half a surrogate pair": (["--vocab=half.json"], "half.json is damaged"),
    "binary vocabulary": (["--vocab=binary.json"], "binary.json is damaged"),
    "deeply nested vocabulary": (["--vocab=nested.json"], "nested.json is damaged"),
    "characters missing": (["--vocab=other.json"], "the vocabulary lacks: ',', 'F'"),
}
bad_inputs = pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)


@pytest.fixture
def inputs(arguments):
    """The files that the arguments name."""
    for name, content in INPUTS.items():
        if name == "fit.txt" or any(argument.endswith(name) for argument in arguments):
            write(name, content)


def with_defaults(arguments):
    # argparse lets the last one count.
    return ["--source=fit.txt", "--dataset=d", *arguments]


@bad_inputs
def test_bad_input_is_named(inputs, arguments, message, monkeypatch):
    assert message in failure(with_defaults(arguments), monkeypatch)


@bad_inputs
def test_bad_input_leaves_nothing_behind(inputs, arguments, message, monkeypatch):
    failure(with_defaults(arguments), monkeypatch)
    assert os.listdir("data") == []


@bad_inputs
def test_bad_input_leaves_an_earlier_dataset_as_it_was(inputs, arguments, message, monkeypatch):
    make(OTHER)
    before = snapshot()
    failure(with_defaults(arguments), monkeypatch)
    assert snapshot() == before


def test_the_largest_vocabulary_works():
    make(LARGEST)
    assert tokens().tolist() == [*range(65535)]


def run(*arguments, code=None):
    program = [str(SCRIPT)] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
    )


def assert_one_error(result):
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source=two\nlines.txt"],
        ["--source=latin1.txt"],
        ["--split=nan,1"],
        ["--dataset=.."],
        ["--vocab=torn.json"],
    ],
)
def test_the_program_ends_in_one_line_and_status_1(inputs, arguments):
    assert_one_error(run(*with_defaults(arguments)))


def test_the_program_succeeds_with_status_0():
    write("fit.txt", TEXT)
    result = run("--source=fit.txt", "--dataset=d")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_source_with_a_name_that_is_not_utf8_is_read():
    name = os.fsdecode(b"caf\xe9.txt")
    write(name, TEXT)
    prepare.main(["--source", name, "--dataset", "d"])
    assert Path("data/d/input.txt").read_bytes() == TEXT.encode()


@pytest.mark.parametrize("blocked", ["data/d", "data"])
def test_a_file_where_the_folder_should_be_is_named_and_kept(blocked, monkeypatch):
    Path("data").rmdir()
    Path(blocked).parent.mkdir(exist_ok=True)
    write(blocked, "mine")
    write("text.txt", TEXT)
    assert blocked in failure(["--source=text.txt", "--dataset=d"], monkeypatch)
    assert Path(blocked).read_text() == "mine"


def test_a_failure_leaves_a_link_to_another_disk_as_it_was(monkeypatch):
    Path("other disk").mkdir()
    Path("data/d").symlink_to(Path("other disk").absolute())
    assert "no such file" in failure(["--source=nope.txt", "--dataset=d"], monkeypatch)
    assert Path("data/d").is_dir()


# The arrays take two bytes a character. Of plain text they are larger than the copy, of pictures
# the copy is larger than they are, so that each is the one that does not fit.
@pytest.mark.parametrize("text", ["plain\n" * 10_000, "😀🎉🌊" * 10_000], ids=["arrays", "copy"])
@pytest.mark.parametrize("before", [False, True], ids=["new", "earlier"])
def test_a_full_disk_is_named_and_changes_nothing(text, before):
    if before:
        make(OTHER)
    found = snapshot()
    write("text.txt", text)
    result = run(
        "--source=text.txt",
        "--dataset=d",
        code="import resource, prepare_shakespeare as prepare\n"
        "from quill.terminal import run_main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))\n"
        "run_main(prepare.main)\n",
    )
    assert_one_error(result)
    assert "File too large" in result.stderr
    assert snapshot() == found


def test_a_full_disk_is_not_taken_for_a_missing_network(server):
    server.answers = [Answer(body=b"a" * 100_000)]
    result = run(
        server.url,
        code="import resource, sys, prepare_shakespeare as prepare\n"
        "from quill.terminal import run_main\n"
        "prepare.URL = sys.argv.pop()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))\n"
        "run_main(prepare.main)\n",
    )
    assert_one_error(result)
    assert os.listdir("data") == []


def test_an_interrupt_leaves_an_earlier_dataset_as_it_was(monkeypatch):
    make(OTHER)
    before = snapshot()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_tokens", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(TEXT)
    assert snapshot() == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_an_earlier_dataset_as_it_was_and_nothing_else(number):
    make(OTHER)
    before = snapshot()
    os.mkfifo("endless.txt")
    code = "import prepare_shakespeare as prepare\nfrom quill.terminal import run_main\n"
    code += "copy = prepare.shutil.copyfile\n"
    code += "prepare.Path.is_file = lambda path: True\n"
    code += "prepare.shutil.copyfile = lambda a, b: copy(a, b) if 'endless' not in str(a) else "
    code += "(print('copying', flush=True), prepare.time.sleep(60))\nrun_main(prepare.main)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--source=endless.txt", "--dataset=d"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    process.stdout.readline()
    assert len(snapshot()) > len(before)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert snapshot() == before


def test_what_a_killed_call_left_is_removed_by_the_next_one():
    folder = Path("data/d")
    (folder / f"{TEMPORARY}abc").mkdir(parents=True)
    write(folder / f"{TEMPORARY}abc/input.txt", "half")
    write(folder / "notes.txt", "mine")
    make(TEXT)
    assert sorted(os.listdir(folder)) == sorted([*FILES, "notes.txt"])


def test_two_calls_for_one_dataset_do_not_meet():
    with locked(Path("data/d")), pytest.raises(UserError, match="is writing into data/d"):
        make(TEXT)
    make(TEXT)


def fail(*_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_only_now_leaves_an_earlier_dataset_as_it_was(monkeypatch):
    # Some file systems (NFS, quotas) tell no sooner than when the data goes to the disk.
    make(OTHER)
    before = snapshot()
    monkeypatch.setattr(prepare.os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        make(TEXT)
    assert snapshot() == before


@pytest.mark.parametrize("moved", range(4))
def test_a_half_installed_dataset_is_plainly_unfinished(moved, monkeypatch):
    make(OTHER)
    real, moves = os.replace, []

    def replace(*paths):
        moves.append(paths)
        (real if len(moves) <= moved else fail)(*paths)

    monkeypatch.setattr(prepare.os, "replace", replace)
    with pytest.raises(UserError, match="No space left"):
        make(TEXT)
    assert not Path("data/d/meta.json").exists()
    assert set(os.listdir("data/d")) < set(FILES)


# --- The bundled text -------------------------------------------------------------------------

PASTICHE = prepare.BUNDLED.read_bytes()


def test_the_pastiche_is_long_enough_to_learn_from():
    assert len(PASTICHE) >= 60_000


def test_the_pastiche_has_the_characters_of_the_real_file():
    real = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
    assert "".join(sorted(set(PASTICHE.decode()))) == real


def test_the_pastiche_is_made_of_speeches():
    for speech in PASTICHE.decode().strip("\n").split("\n\n"):
        speaker, *lines = speech.split("\n")
        assert speaker.endswith(":"), speech
        assert lines, speech
        assert all(lines), speech


def test_the_pastiche_hardly_repeats_itself():
    lines = [line for line in PASTICHE.decode().splitlines() if line and line[-1] != ":"]
    repeated = sum(count - 1 for count in Counter(lines).values())
    assert repeated < 0.01 * len(lines)
