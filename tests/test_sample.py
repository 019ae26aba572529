"""Sampling: what goes where, what the seed fixes, and what is refused."""

from quill.checkpoint import load_checkpoint
from quill.terminal import UserError

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import sample
from prepare_shakespeare import Tokenizer


def written(capsys, *arguments):
    capsys.readouterr()
    sample.main(["--device=cpu", "--max_new_tokens=60", *arguments])
    return capsys.readouterr().out


def test_one_sample_goes_to_standard_output_and_the_rest_to_standard_error(here, capsys):
    sample.main(["--max_new_tokens=60", "--start=KING"])
    out, err = capsys.readouterr()
    assert out.startswith("KING") and out.endswith("\n") and len(out) == 4 + 60 + 1
    assert "validation loss" in err and "small.txt" in err


def test_the_same_seed_writes_the_same_text(here, capsys):
    first = written(capsys, "--seed=5")
    assert written(capsys, "--seed=5") == first
    assert written(capsys, "--seed=6") != first
    assert written(capsys, "--temperature=0", "--seed=5") == written(capsys, "--temperature=0")


def test_several_samples_are_separate_continuations_of_one_prompt(here, capsys):
    texts = written(capsys, "--num_samples=3", "--start=QUEEN")
    assert texts.count("QUEEN") >= 3
    assert len(texts) == 3 * (5 + 60 + 1)


def test_a_prompt_from_a_file_is_that_prompt(here, capsys):
    Path("prompt.txt").write_text("My lord,\n")
    from_file = written(capsys, "--start=FILE:prompt.txt")
    assert from_file == written(capsys, "--start", "My lord,\n")


def test_a_prompt_from_a_file_loses_its_byte_order_mark(here, capsys):
    Path("prompt.txt").write_bytes(b"\xef\xbb\xbfMy lord,")
    assert written(capsys, "--start=FILE:prompt.txt").startswith("My lord,")


def test_a_tiny_top_p_takes_the_likeliest(here, capsys):
    assert written(capsys, "--top_p=1e-300") == written(capsys, "--temperature=0")


def test_a_large_vocabulary_is_not_listed_whole():
    tokenizer = Tokenizer("".join(map(chr, range(0x4E00, 0x4E00 + 20_000))))
    with pytest.raises(UserError, match="20000 characters") as caught:
        sample.read_prompt("a", tokenizer)
    assert len(str(caught.value)) < 1000


def test_a_prompt_may_be_longer_than_the_context(here, capsys):
    assert written(capsys, "--start", "a" * 100).startswith("a" * 100)


def test_the_newest_checkpoint_is_taken_unless_one_is_named(here, capsys):
    shutil.copytree("out/run", "out/older")
    os.utime("out/older/ckpt.pt", (0, 0))
    sample.main(["--max_new_tokens=1"])
    assert "out/run/ckpt.pt" in capsys.readouterr().err
    sample.main(["--max_new_tokens=1", "--out_dir=out/older"])
    assert "out/older/ckpt.pt" in capsys.readouterr().err
    sample.main(["--max_new_tokens=1", "--checkpoint=out/older/last.pt"])
    assert "out/older/last.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature=-0.1"], "--temperature must be 0 or above, not -0.1"),
        (["--temperature=nan"], "--temperature"),
        (["--temperature=inf"], "--temperature"),
        (["--top_p=0"], "--top_p must be above 0 and at most 1"),
        (["--top_p=1.1"], "--top_p"),
        (["--top_p=nan"], "--top_p"),
        (["--top_k=0"], "--top_k must be at least 1"),
        (["--num_samples=0"], "--num_samples"),
        (["--max_new_tokens=0"], "--max_new_tokens"),
        (["--seed=-1"], "--seed"),
        (["--start="], "the prompt is empty"),
        (["--start=na\u00efve"], "'\u00ef'"),
        (["--start=FILE:nowhere.txt"], "cannot read nowhere.txt"),
        (["--out_dir=nowhere"], "no checkpoint nowhere/ckpt.pt"),
        (["--checkpoint=out"], "out"),
        (["--device=nonsense"], "device 'nonsense'"),
        (["--device=meta"], "device 'meta'"),
        (["--num_samples=10000000000"], "not enough memory"),
    ],
)
def test_what_cannot_be_done_is_refused(here, arguments, message):
    with pytest.raises(UserError) as caught:
        sample.main(arguments)
    assert message in str(caught.value)


def test_without_any_run_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="train one"):
        sample.main([])


def test_errors_are_one_line_and_the_exit_status_tells(here):
    for arguments, status in ((["--temperature=-1"], 1), (["--temprature=1"], 2)):
        ended = subprocess.run(
            [sys.executable, ROOT / "sample.py", *arguments], capture_output=True, text=True
        )
        assert ended.returncode == status
        assert ended.stdout == ""
        assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


def test_a_checkpoint_from_before_token_shift_writes_the_same_text(here, capsys):
    expected = written(capsys, "--seed=5")
    older = load_checkpoint("out/run/ckpt.pt")
    older["format"] = 2
    del older["network"]["token_shift"], older["config"]["token_shift"]
    torch.save(older, "out/run/ckpt.pt")
    assert written(capsys, "--seed=5") == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_writes_the_likeliest_text_that_the_cpu_writes(here, capsys):
    options = ["--temperature=0", "--dtype=float32"]
    on_cpu = written(capsys, *options)
    assert written(capsys, *options, "--device=cuda") == on_cpu


def test_temperatures_stand_side_by_side(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    alone = []
    for temperature in ("0.2", "1.5"):
        sample.main(["--start=First", f"--temperature={temperature}", "--max_new_tokens=60"])
        alone.append(capsys.readouterr().out.split())
    sample.main(["--start=First", "--temperatures=0.2,1.5", "--max_new_tokens=60"])
    lines = capsys.readouterr().out.rstrip("\n").splitlines()
    assert max(map(len, lines)) <= 100
    columns = [[], []]
    for line in lines[2:]:
        cells = [line[:48], line[51:]]
        for column, cell in zip(columns, cells, strict=True):
            column += cell.split()
    assert ["".join(column) for column in columns] == ["".join(words) for words in alone]


@pytest.mark.parametrize("text", ["0.2,a", "0.2,,1", "-1", "nan", "inf"])
def test_temperatures_that_are_none(here, capsys, text):
    with pytest.raises(SystemExit, match="2"):
        sample.main([f"--temperatures={text}"])
    assert "give numbers of 0 or above" in capsys.readouterr().err
