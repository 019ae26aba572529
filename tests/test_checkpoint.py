"""quill/checkpoint.py: damaged or foreign files are refused, and no run is overwritten."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import IMPOSSIBLE, TINY

import prepare_shakespeare
import train
from quill.checkpoint import load_checkpoint, lock_folder, network_from
from quill.terminal import UserError

# --- Reading what is damaged or a stranger's --------------------------------------------------


def refused(path):
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 100, 5000, -1])
def test_a_truncated_checkpoint_is_refused(here, length):
    data = Path("out/run/ckpt.pt").read_bytes()
    Path("cut.pt").write_bytes(data[:length])
    refused(Path("cut.pt"))


def test_a_flipped_bit_in_any_weight_is_refused(here):
    path = Path("out/run/ckpt.pt")
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if "/data/" in member.filename]
    assert len(members) > 10
    for member in members:
        damaged = bytearray(data)
        # Behind the member's local header: 30 bytes, its name, and torch's padding.
        name, extra = (
            int.from_bytes(data[member.header_offset + i :][:2], "little") for i in (26, 28)
        )
        start = member.header_offset + 30 + name + extra
        damaged[start + member.file_size // 2] ^= 4
        Path("flipped.pt").write_bytes(damaged)
        assert "wrong checksum" in refused(Path("flipped.pt"))


class Attack:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("foreign", ["nanoGPT", "newer", "list", "code", "text"])
def test_a_foreign_checkpoint_is_refused_and_never_run(here, foreign):
    path = Path("foreign.pt")
    if foreign == "text":
        path.write_text("not a checkpoint")
    else:
        torch.save(
            {
                "nanoGPT": {"model": {}, "model_args": {"n_layer": 4}, "iter_num": 7},
                "newer": {**load_checkpoint("out/run/ckpt.pt"), "format": 99},
                "list": [1, 2, 3],
                "code": {"format": 1, "weights": Attack()},
            }[foreign],
            path,
        )
    message = refused(path)
    assert not Path("pwned").exists()
    if foreign == "newer":
        assert "99" in message


def altered(part, **entries):
    """The path of a copy of the checkpoint in which a part has other entries."""
    checkpoint = load_checkpoint("out/run/ckpt.pt")
    checkpoint[part] = {**checkpoint[part], **entries}
    torch.save(checkpoint, "altered.pt")
    return Path("altered.pt")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *IMPOSSIBLE,
        ("vocab_size", 0, "vocab_size is not the size of the vocabulary"),
        ("n_layer", "2", "n_layer must be a whole number, not '2'"),
        ("bias", 1, "bias must be True or False, not 1"),
    ],
)
def test_a_checkpoint_of_an_impossible_network_is_refused(here, name, value, reason):
    assert reason in refused(altered("network", **{name: value}))


@pytest.mark.xfail(reason="quill.checkpoint.check_contents checks the network's entries only")
@pytest.mark.parametrize(("name", "value", "reason"), IMPOSSIBLE)
def test_a_checkpoint_with_an_impossible_setting_is_refused(here, name, value, reason):
    assert reason in refused(altered("config", **{name: value}))


def test_a_checkpoint_without_a_vocabulary_is_refused(here):
    checkpoint = load_checkpoint("out/run/ckpt.pt")
    checkpoint["vocab"] = ""
    checkpoint["network"]["vocab_size"] = 0
    torch.save(checkpoint, "altered.pt")
    assert "vocabulary" in refused(Path("altered.pt"))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"n_head": 3}, "n_embd must be a multiple of n_head"),
        ({"n_embd": 18}, "loading state_dict"),
        ({"n_layer": 3}, "loading state_dict"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_a_network_that_does_not_fit_its_weights_is_refused(here, entries, reason):
    checkpoint = load_checkpoint(altered("network", **entries))
    with pytest.raises(UserError, match=f"^no such network: .*{reason}"):
        network_from(checkpoint)


# --- What may follow on what ------------------------------------------------------------------


def test_a_second_run_does_not_overwrite_the_first(workspace):
    train.main(TINY)
    before = Path("out/run/ckpt.pt").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--overwrite"):
        train.main(TINY)
    assert Path("out/run/ckpt.pt").read_bytes() == before
    train.main([*TINY, "--overwrite", "--seed=2"])
    assert Path("out/run/ckpt.pt").read_bytes() != before


def test_a_resume_takes_what_may_change_and_refuses_what_may_not(workspace, capsys):
    train.main(TINY)
    with pytest.raises(UserError, match="n_embd is 32 here but 16"):
        train.main(["--init_from=resume", "--n_embd=32"])
    capsys.readouterr()
    train.main(["--init_from=resume", "--max_iters=12", "--learning_rate=5e-4"])
    said = capsys.readouterr().out
    assert "max_iters = 12 (was 9)" in said
    assert "learning_rate = 0.0005 (was 0.001)" in said
    assert load_checkpoint("out/run/last.pt")["progress"]["step"] == 12


def test_a_run_from_before_token_shift_goes_on_without_it(workspace):
    train.main([*TINY])
    older = load_checkpoint("out/run/last.pt")
    older["format"] = 2
    del older["network"]["token_shift"], older["config"]["token_shift"]
    torch.save(older, "out/run/last.pt")
    with pytest.raises(UserError, match="token_shift is True here but False"):
        train.main(["--init_from=resume", "--token_shift"])
    train.main(["--init_from=resume", "--max_iters=10"])
    assert load_checkpoint("out/run/last.pt")["progress"]["step"] == 10


def test_nothing_to_resume_names_the_runs_there_are(workspace):
    train.main([*TINY, "--out_dir=out/first"])
    with pytest.raises(UserError, match="out/first"):
        train.main(["--init_from=resume"])


def test_a_resume_on_another_text_or_with_another_optimizer_is_refused(workspace):
    train.main(TINY)
    with pytest.raises(UserError, match="optimizer is muon here but adamw"):
        train.main(["--init_from=resume", "--optimizer=muon"])
    text = Path("small.txt").read_text()
    Path("small.txt").write_text(text[1:] + text[0])
    prepare_shakespeare.main(["--source=small.txt", "--dataset=small"])
    with pytest.raises(UserError, match="not the text that this run began with"):
        train.main(["--init_from=resume"])


def test_fine_tuning_names_the_characters_that_differ(workspace):
    train.main(TINY)
    (workspace / "other.txt").write_text("abc\u00e9" * 100)
    prepare_shakespeare.main(["--source=other.txt", "--dataset=other"])
    with pytest.raises(UserError, match="'\u00e9' only in the data.*'\\\\n'.*only in the check"):
        train.main(["--init_from=out/run/ckpt.pt", "--dataset=other", "--out_dir=out/tuned"])


# --- The run's folder -------------------------------------------------------------------------


def test_a_second_run_into_a_folder_is_refused_while_the_first_lives(workspace):
    message = f"process {os.getpid()} is training into out/run"
    with lock_folder(Path("out/run")), pytest.raises(UserError, match=message):
        train.main(TINY)
    train.main(TINY)


def test_what_a_killed_run_left_half_written_is_cleaned_up(workspace):
    leftover = Path("out/run/.last.pt.abc.tmp")
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half a checkpoint")
    train.main(TINY)
    assert not leftover.exists()


def test_a_folder_that_cannot_be_written_is_named(workspace):
    Path("file").write_text("")
    with pytest.raises(UserError, match="cannot write into file/run"):
        train.main([*TINY, "--out_dir=file/run"])
