"""sample.py: what it writes and where, what the seed fixes, and what it refuses."""

import os
import time
from pathlib import Path

import pytest
import torch

import sample
from quill.terminal import UsageError, UserError
from tokenizer import Tokenizer


def written(capsys, *arguments):
    """What a call writes to standard output, and to standard error."""
    capsys.readouterr()
    sample.main(["--device=cpu", "--max_new_tokens=60", *arguments])
    return capsys.readouterr()


def text(capsys, *arguments):
    return written(capsys, *arguments).out


def test_only_the_text_goes_to_standard_output(here, capsys):
    assert os.listdir(here) == ["out"]  # the checkpoint alone is enough
    out, err = written(capsys, "--start=KING")
    assert out.startswith("KING") and out.endswith("\n") and len(out) == len("KING") + 60 + 1
    assert "validation loss" in err and "small.txt" in err and "KING" not in err


def test_same_seed_writes_the_same_text(here, capsys):
    first = text(capsys, "--seed=5")
    assert text(capsys, "--seed=5") == first != text(capsys, "--seed=6")


def test_temperature_0_top_k_1_and_a_tiny_top_p_are_the_same(here, capsys):
    likely = text(capsys, "--temperature=0")
    for options in (["--temperature=0", "--seed=5"], ["--top_k=1"], ["--top_p=1e-9"]):
        assert text(capsys, *options) == likely


def test_several_samples_continue_one_prompt(here, capsys):
    out = text(capsys, "--num_samples=3", "--start=QUEEN")
    samples = [out[i : i + 66] for i in range(0, len(out), 66)]
    assert len(set(samples)) == 3
    assert all(sample.startswith("QUEEN") and sample.endswith("\n") for sample in samples)


def test_each_temperature_writes_the_text_that_it_writes_alone(here, capsys):
    options = ["--start=First", "--num_samples=2"]
    alone = [text(capsys, *options, "--temperature", t) for t in ("0.2", "1.5")]
    out, err = written(capsys, *options, "--temperature", "0.2", "1.5")
    assert out == "".join(alone)
    assert err.index("0.2") < err.index("1.5")


def test_prompt_may_be_a_file_and_longer_than_the_context(here, capsys):
    Path("prompt.txt").write_bytes(b"\xef\xbb\xbf" + b"My lord,\r\n" * 9)  # Windows' Notepad's
    prompt = "My lord,\n" * 9
    assert text(capsys, "--start=FILE:prompt.txt") == text(capsys, "--start", prompt)
    assert text(capsys, "--start", prompt).startswith(prompt)


@pytest.mark.parametrize(
    "argument",
    ["--temperature=-0.1", "--top_p=1.1", "--top_k=0", "--temprature=1", "--init_from=gpt2-xl"],
)
def test_wrong_option_is_a_usage_error_with_its_name(here, argument):
    with pytest.raises(UsageError, match=argument.split("=")[0]):
        sample.main([argument])


@pytest.mark.parametrize(
    ("argument", "fact"),
    [
        ("--start=na\u00efve", "'\u00ef'"),
        ("--start=FILE:nowhere.txt", "nowhere.txt"),
        ("--start=FILE:empty.txt", "empty.txt"),
        ("--out_dir=nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_done_is_reported(here, argument, fact):
    Path("empty.txt").touch()
    with pytest.raises(UserError, match=fact):
        sample.main([argument])


def test_without_a_run_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.py"):
        sample.main([])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_writes_the_most_likely_text_that_the_cpu_writes(here, capsys):
    options = ["--temperature=0", "--dtype=float32"]
    assert text(capsys, *options, "--device=cuda") == text(capsys, *options)


def test_nanogpts_options_are_ignored_and_the_age_is_shown(here, capsys):
    plain = text(capsys)
    for hours, age in ((25, " 1 day, 1:00:0"), (-3, " 0:00:00 old")):  # -3: of another clock
        changed = time.time() - 3600 * hours
        os.utime("out/run/ckpt.pt", (changed, changed))
        out, err = written(capsys, "--compile=False", "--init_from=resume", "--top_k=200")
        assert out == plain and age in err


PROMPTS = [  # a vocabulary, --start, the prompt, and what a note says about it
    ("\nab", r"a\nb", "a\nb", "a newline"),  # as a shell passes it on
    ("\n\\abn", r"a\nb", r"a\nb", "two characters"),  # the text has backslashes
    ("caf\u00e9\n", "cafe\u0301\\n", "caf\u00e9\n", "a newline"),
    ("cafe\u0301", "caf\u00e9", "cafe\u0301", ""),
]


@pytest.mark.parametrize(("vocab", "start", "prompt", "note"), PROMPTS)
def test_prompt_is_taken_as_the_text_writes_it(vocab, start, prompt, note, capsys):
    assert sample.read_prompt(start, Tokenizer(vocab))[0] == prompt
    noted = capsys.readouterr().err
    assert note in noted and bool(note) == bool(noted)


def test_a_backslash_and_an_n_in_a_file_are_two_characters(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text(r"a\nb")  # no shell has touched this one
    assert sample.read_prompt(f"FILE:{path}", Tokenizer("\n\\abn"))[0] == r"a\nb"
    with pytest.raises(UserError, match=r"'\\\\', 'n'"):
        sample.read_prompt(f"FILE:{path}", Tokenizer("\nab"))
    assert not capsys.readouterr().err
