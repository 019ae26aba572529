"""quill/dataset.py: a prepared dataset is read as it was written, and damage is refused by name."""

from quill.dataset import open_dataset
from quill.terminal import UserError

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, tiny_run

import prepare_shakespeare
import train

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 20


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(text, *arguments):
    """Prepare a text as data/d; its meta.json."""
    Path("text.txt").write_text(text)
    prepare_shakespeare.main(["--source=text.txt", "--dataset=d", *arguments])
    return json.loads(Path("data/d/meta.json").read_text())


# --- Opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize(
    "damage",
    [lambda ids: ids[:-1], lambda ids: ids + b"\0\0", lambda ids: b"", lambda ids: b"\1" + ids[1:]],
    ids=["cut", "longer", "empty", "altered"],
)
def test_a_damaged_array_is_refused(name, damage):
    make(TEXT)
    path = Path(f"data/d/{name}.bin")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"data/d/{name}.bin"):
        open_dataset("d", 8)


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_missing_array_is_refused(name):
    make(TEXT)
    Path(f"data/d/{name}.bin").unlink()
    with pytest.raises(UserError, match=f"data/d/{name}.bin"):
        open_dataset("d", 8)


def test_a_text_no_longer_than_a_window_is_refused():
    make("ab" * 10)
    with pytest.raises(UserError, match="too few for block_size 18"):
        open_dataset("d", 18)
    open_dataset("d", 17)


def test_a_dataset_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no data/d/meta.json"):
        open_dataset("d", 8)


@pytest.mark.parametrize(
    "damage",
    [
        {"tokens": ["train", "val"]},
        {"tokens": {"train": "many", "val": "few"}},
        {"tokens": {"train": None, "val": None}},
        {"tokens": {"train": 0, "val": 0}},
        {"tokens": {"train": 9}},
        {"tokens": {"train": 9, "val": 9, "other": 9}},
        {"tokens": {"train": 9, "val": 9, "test": "few"}},
        {"vocab": ["a"]},
        {"vocab": None},
        {"vocab": ""},
        {"vocab": "aa"},
        {"source": 3},
        {"characters": "many"},
        {"checksums": []},
    ],
    ids=str,
)
def test_a_damaged_meta_is_refused(damage):
    found = make(TEXT)
    del found["checksums"]  # so that each damage is seen for what it is
    for name, count in [("train", 9), ("val", 9), ("test", 0)]:
        Path(f"data/d/{name}.bin").write_bytes(bytes(2 * count))
    Path("data/d/meta.json").write_text(json.dumps({**found, **damage}))
    with pytest.raises(UserError, match="damaged"):
        open_dataset("d", 8)


# --- In front of training ---------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["short", "gone", "no meta", "bad meta"])
def test_damaged_data_is_refused_by_name(workspace, damage):
    train_bin, meta = workspace / "data/small/train.bin", workspace / "data/small/meta.json"
    named = train_bin
    if damage == "short":
        train_bin.write_bytes(train_bin.read_bytes()[:-1])
    elif damage == "gone":
        train_bin.unlink()
    else:
        named = meta
        meta.unlink() if damage == "no meta" else meta.write_text('{"vocab": "aa"}')
    with pytest.raises(UserError, match=str(named.relative_to(workspace))):
        train.main(TINY)


def test_ids_beyond_the_vocabulary_are_refused(workspace):
    meta = json.loads(Path("data/small/meta.json").read_text())
    del meta["checksums"]  # as in a dataset that another program made
    Path("data/small/meta.json").write_text(json.dumps(meta))
    ids = np.fromfile("data/small/val.bin", dtype="<u2")
    ids[-1] = 500
    ids.tofile("data/small/val.bin")
    with pytest.raises(UserError, match="val.bin has the id 500, but the vocabulary"):
        train.main(TINY)


# --- Reading ----------------------------------------------------------------------------------


def test_windows_are_stretches_of_the_text_and_reach_its_end(workspace):
    run = tiny_run()
    text = np.fromfile("data/small/train.bin", dtype="<u2").astype(np.int64)
    starts = np.array([0, 7, len(text) - 17])
    for row, start in zip(run.data["train"].windows(starts, 17), starts, strict=True):
        assert row.tolist() == text[start : start + 17].tolist()
