"""sample.py: what it writes and where, what the seed fixes, and what it refuses."""

import os
import shutil
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


def test_prompt_from_a_file_is_that_prompt(here, capsys):
    Path("prompt.txt").write_bytes(b"\xef\xbb\xbfMy lord,\r\n")  # as Windows' Notepad saves it
    assert text(capsys, "--start=FILE:prompt.txt") == text(capsys, "--start", "My lord,\n")


def test_prompt_may_be_longer_than_the_context(here, capsys):
    assert text(capsys, "--start", "a" * 100).startswith("a" * 100)


def test_checkpoint_alone_is_enough(here):
    assert os.listdir(here) == ["out"]  # no data/
    sample.main(["--max_new_tokens=1"])


def test_newest_checkpoint_is_taken_unless_one_is_named(here, capsys):
    shutil.copytree("out/run", "out/older")
    os.utime("out/older/ckpt.pt", (0, 0))
    for arguments, path in [
        ([], "out/run/ckpt.pt"),
        (["--out_dir=out/older"], "out/older/ckpt.pt"),
        (["--checkpoint=out/older/last.pt"], "out/older/last.pt"),
    ]:
        assert str(Path(path)) in written(capsys, *arguments).err


@pytest.mark.parametrize(
    "argument",
    [
        *("--temperature=-0.1", "--temperature=nan", "--temperature=inf", "--temperature=0.2,x"),
        *("--top_p=-0.1", "--top_p=1.1", "--top_p=nan", "--top_k=0", "--top_k=0.5", "--seed=-1"),
        *("--num_samples=0", "--max_new_tokens=0", "--dtype=float64", "--temprature=1"),
        "--init_from=gpt2-xl",
    ],
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
        ("--start=FILE:~nobody/a.txt", "~nobody/a.txt"),
        ("--out_dir=nowhere", "nowhere"),
        ("--checkpoint=empty.txt", "empty.txt"),
        ("--device=nonsense", "'nonsense'"),
        ("--num_samples=10000000000", "memory"),
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


def test_message_is_short_for_a_large_vocabulary():
    tokenizer = Tokenizer("".join(map(chr, range(0x4E00, 0x4E00 + 20_000))))
    with pytest.raises(UserError, match="20000") as caught:
        sample.read_prompt("a", tokenizer)
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_writes_the_most_likely_text_that_the_cpu_writes(here, capsys):
    options = ["--temperature=0", "--dtype=float32"]
    assert text(capsys, *options, "--device=cuda") == text(capsys, *options)


def test_nanogpts_options_are_ignored_and_the_age_is_shown(here, capsys):
    os.utime("out/run/ckpt.pt", (time.time() - 90000, time.time() - 90000))
    out, err = written(capsys, "--compile=False", "--init_from=resume", "--top_k=200")
    assert out == text(capsys) and "1 day" in err


def test_prompt_is_taken_as_the_text_writes_it():
    for vocab, start, prompt in (
        ("\nab", r"a\nb", "a\nb"),  # as a shell passes it on
        ("\n\\abn", r"a\nb", r"a\nb"),  # the text has backslashes
        ("caf\u00e9\n", "cafe\u0301\\n", "caf\u00e9\n"),
        ("cafe\u0301", "caf\u00e9", "cafe\u0301"),
    ):
        assert sample.read_prompt(start, Tokenizer(vocab))[0] == prompt


def test_refused_prompt_is_reported_with_its_file_once(here):
    with pytest.raises(UserError, match="^[^N]*NOWHERE[^N]*No [^N]*$"):
        sample.main(["--start=FILE:NOWHERE"])
    with pytest.raises(UserError, match=r"'\\n'"):
        sample.read_prompt(r"a\n", Tokenizer("a"))


def test_how_a_backslash_and_an_n_were_read_is_told(tmp_path, capsys):
    for vocab, told in (("\nab", "a newline"), ("\n\\abn", "two characters")):
        sample.read_prompt(r"a\nb", Tokenizer(vocab))
        assert told in capsys.readouterr().err
    path = tmp_path / "a.txt"
    path.write_text(r"a\nb")  # no shell has touched this one
    assert sample.read_prompt(f"FILE:{path}", Tokenizer("\n\\abn"))[0] == r"a\nb"
    with pytest.raises(UserError):
        sample.read_prompt(f"FILE:{path}", Tokenizer("\nabn"))
    assert not capsys.readouterr().err


def test_checkpoint_of_the_future_has_no_negative_age(here, capsys):
    os.utime("out/run/ckpt.pt", (time.time() + 9000, time.time() + 9000))
    assert " in the future" in written(capsys).err
