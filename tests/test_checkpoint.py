"""quill/checkpoint.py: damaged or foreign files are refused, and no run is overwritten."""

from quill import checkpoint, hardware
from quill.checkpoint import SHAPE, load_checkpoint, network_from
from quill.settings import PER_CALL, SETTINGS, parse_command_line
from quill.terminal import TEMPORARY, UserError, locked

import math
import os
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import IMPOSSIBLE, TINY, stop_at

import prepare_shakespeare
import train


@pytest.fixture
def finished(trained, tmp_path, monkeypatch):
    """A folder with a copy of the run and of its data."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


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
    content = load_checkpoint("out/run/ckpt.pt")
    content[part] = {**content[part], **entries}
    if part == "network":  # a liar would be consistent
        content["config"] |= {k: v for k, v in entries.items() if k in content["config"]}
    torch.save(content, "altered.pt")
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
        ({"n_embd": 18}, "larger than its weights"),
        ({"n_embd": 14}, "loading state_dict"),
        ({"n_layer": 3}, "larger than its weights"),
        ({"n_layer": 10_000_000}, "larger than its weights"),
        ({"n_layer": 1}, "loading state_dict"),
        ({"block_size": 2**20, "n_embd": 2**10}, "larger than its weights"),
        ({"network": "bigram"}, "larger than its weights|loading state_dict"),
        ({"network": "mlp", "n_hidden": 2**40}, "larger than its weights"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_a_network_that_does_not_fit_its_weights_is_refused(here, entries, reason):
    with pytest.raises(UserError, match=reason):
        network_from(load_checkpoint(altered("network", **entries)))


def without(**entries):
    """Changes to a checkpoint as a function of it."""
    return lambda checkpoint: checkpoint.update(entries)


def with_weight(name, change):
    return lambda checkpoint: checkpoint["weights"].update(
        {name: change(checkpoint["weights"][name])}
    )


def with_progress(**entries):
    return lambda checkpoint: checkpoint["progress"].update(entries)


STRANGE = {
    "vocab of another type": without(vocab=list("abc")),
    "vocab shorter than the embedding": without(vocab="abc"),
    "vocab with a character twice": lambda c: c.update(vocab=c["vocab"][:-1] + c["vocab"][0]),
    "vocab with half a surrogate pair": lambda c: c.update(vocab=c["vocab"][:-1] + "\ud800"),
    "source of another type": without(source=None),
    "progress is None": without(progress=None),
    "progress with an entry too many": with_progress(more=1),
    "step is negative": with_progress(step=-1),
    "step is a fraction": with_progress(step=1.5),
    "loss is a string": with_progress(best_val_loss="low"),
    "loss is not a number": with_progress(best_val_loss=math.nan),
    "seconds are infinite": with_progress(seconds=math.inf),
    "log of strings": with_progress(log=["abcdef"]),
    "log of short rows": with_progress(log=[[1, 2, 3]]),
    "resumes of strings": with_progress(resumes=["a"]),
    "config is a list": without(config=[]),
    "a setting of another type": lambda c: c["config"].update(max_iters="many"),
    "weights are a list": without(weights=[1]),
    "a weight is a number": with_weight("norm.weight", lambda weight: 1.0),
    "a weight is not finite": with_weight("norm.weight", lambda weight: weight * math.inf),
    "a weight is double": with_weight("norm.weight", torch.Tensor.double),
    "a weight is sparse": with_weight("norm.weight", torch.Tensor.to_sparse),
    "a weight of another shape": with_weight("norm.weight", lambda weight: weight[:-1].clone()),
    "a weight that only seems large": with_weight(
        "norm.weight", lambda weight: torch.ones(1).expand(10**9)
    ),
    "a weight is missing": lambda c: c["weights"].pop("norm.weight"),
    "a weight too many": lambda c: c["weights"].update(more=torch.ones(1)),
    "the two ends of the embedding differ": with_weight(
        "lm_head.weight", lambda weight: weight + 1
    ),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_a_strangers_checkpoint_is_refused_in_one_line_within_two_seconds(here, change):
    checkpoint = load_checkpoint("out/run/ckpt.pt")
    change(checkpoint)
    torch.save(checkpoint, "strange.pt")
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        network_from(load_checkpoint(Path("strange.pt")))
    assert time.monotonic() - began < 2
    assert "\n" not in str(caught.value)


STRANGE_STATES = {
    "none at all": lambda c: c.pop("optimizers"),
    "of two optimizers": lambda c: c["optimizers"].append(c["optimizers"][0]),
    "no dict": lambda c: c.update(optimizers=[3]),
    "of fewer parameters": lambda c: c["optimizers"][0]["state"].pop(0),
    "an average is missing": lambda c: c["optimizers"][0]["state"][0].pop("exp_avg"),
    "of another shape": lambda c: c["optimizers"][0]["state"][0].update(exp_avg=torch.ones(3)),
    "not finite": lambda c: c["optimizers"][0]["state"][0]["exp_avg"].fill_(math.nan),
    "a negative square": lambda c: c["optimizers"][0]["state"][0]["exp_avg_sq"].fill_(-1.0),
    "a strange scaler": lambda c: c.update(scaler={"scale": "large"}),
}


@pytest.mark.parametrize("change", STRANGE_STATES.values(), ids=STRANGE_STATES)
def test_a_resume_from_a_strange_optimizer_state_is_refused(finished, change):
    checkpoint = load_checkpoint("out/run/last.pt")
    change(checkpoint)
    torch.save(checkpoint, "out/run/last.pt")
    with pytest.raises(
        UserError, match="last.pt cannot be resumed .*starts a new run from its weights"
    ):
        train.main(["--init_from=resume", "--max_iters=12"])


# --- What may follow on what ------------------------------------------------------------------


def test_a_second_run_does_not_overwrite_the_first(workspace):
    train.main(TINY)
    before = Path("out/run/ckpt.pt").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--overwrite"):
        train.main(TINY)
    assert Path("out/run/ckpt.pt").read_bytes() == before
    train.main([*TINY, "--overwrite", "--seed=2"])
    assert Path("out/run/ckpt.pt").read_bytes() != before


def test_every_start_but_a_resume_asks_before_it_overwrites(workspace):
    train.main(TINY)
    tune = ["--init_from=out/run/ckpt.pt", "--dataset=small", "--max_iters=2", "--eval_iters=1"]
    with pytest.raises(UserError, match="out/run already holds a run"):
        train.main([*tune, "--out_dir=out/run"])  # its own source
    train.main([*tune, "--out_dir=out/tuned"])
    before = Path("out/tuned/last.pt").read_bytes()
    with pytest.raises(UserError, match="out/tuned already holds a run"):
        train.main([*tune, "--out_dir=out/tuned"])
    assert Path("out/tuned/last.pt").read_bytes() == before
    with pytest.raises(UserError, match="not both"):
        train.main([*TINY, "--init_from=auto", "--overwrite"])


def test_a_run_that_could_not_take_its_first_step_is_in_nobodys_way(workspace, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="not enough memory"):
        patch.setattr(train, "training_windows", lambda run: torch.empty(10**15))
        train.main(TINY)
    train.main(TINY)


def test_a_run_is_saved_before_its_first_step(workspace, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(train, "train_step", lambda *_: 1 / 0)
        train.main(TINY)
    assert load_checkpoint("out/run/last.pt")["progress"]["step"] == 0
    train.main(["--init_from=auto"])
    train.main([*TINY, "--out_dir=undisturbed"])
    new, wanted = (load_checkpoint(f"{run}/last.pt") for run in ("out/run", "undisturbed"))
    assert torch.equal(new["weights"]["norm.weight"], wanted["weights"]["norm.weight"])


def test_what_an_overwritten_run_left_never_comes_back(workspace, monkeypatch):
    train.main([*TINY, "--seed=2"])
    old = load_checkpoint("out/run/last.pt")["weights"]
    with monkeypatch.context() as patch:
        stop_at(patch, 0)
        with pytest.raises(SystemExit, match="130"):
            train.main([*TINY, "--overwrite"])
    left = sorted(path.name for path in Path("out/run").iterdir())
    assert left == ["last.pt"]  # nothing of the old run to sample from
    train.main(["--init_from=auto"])
    train.main([*TINY, "--out_dir=undisturbed"])
    for name in ("last.pt", "ckpt.pt"):
        new, wanted = (load_checkpoint(f"{run}/{name}") for run in ("out/run", "undisturbed"))
        assert not torch.equal(new["weights"]["norm.weight"], old["norm.weight"])
        for key, weight in wanted["weights"].items():
            assert torch.equal(new["weights"][key], weight), (name, key)


def test_a_resume_writes_where_it_was_found_and_not_where_it_says(workspace):
    train.main([*TINY, "--out_dir=out/try"])
    Path("out/try").rename("out/tiny")
    Path("tiny.py").write_text('init_from = "resume"\nmax_iters = 10\n')
    train.main(["tiny.py"])  # whose folder is out/tiny
    assert not Path("out/try").exists()
    assert load_checkpoint("out/tiny/last.pt")["progress"]["step"] == 10


def test_a_resume_goes_on_on_the_device_that_the_run_names(workspace, monkeypatch):
    train.main(TINY)  # with --device=cpu
    picked, pick_device = [], hardware.pick_device
    monkeypatch.setattr(
        hardware, "pick_device", lambda name: picked.append(name) or pick_device(name)
    )
    train.main(["--init_from=resume", "--max_iters=10"])
    assert picked == ["cpu"]


CHANGEABLE = sorted(set(SETTINGS) - PER_CALL - SHAPE - {"optimizer"})
OTHER_VALUES = {"device": "cpu:0", "dataset": "again", "attention": "fused", "dtype": "bfloat16"}
OTHER_VALUES |= {"lr_schedule": "linear", "min_lr": 2e-4, "grad_clip": 0.5}


def other_value(name, value):
    """Another value that a setting may have."""
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if type(value) is bool:
        return not value
    return value / 2 + 0.1 if type(value) is float else value + 1


def groups(run):
    """The settings in the parameter groups of a run's optimizers."""
    states = [optimizer.state_dict()["param_groups"] for optimizer in run.optimizers]
    return [{k: v for k, v in group.items() if k != "lr"} for state in states for group in state]


def resumed_with(name, value):
    """A train.Run that goes on with out/run, with one setting changed."""
    return train.build_run(*parse_command_line(["--init_from=resume", f"--{name}={value}"]))


@pytest.mark.parametrize("name", CHANGEABLE)
def test_every_setting_that_may_change_at_a_resume_takes_effect(finished, name, capsys):
    prepare_shakespeare.main(["--source=small.txt", "--dataset=again"])
    value = other_value(name, load_checkpoint("out/run/last.pt")["config"][name])
    run = resumed_with(name, value)
    assert f"changed since this run stopped: {name} = {value} (was" in capsys.readouterr().out
    assert getattr(run.config, name) == value
    assert_groups_are_a_fresh_runs(run)
    if name == "dropout":
        dropouts = [m for m in run.network.modules() if isinstance(m, hardware.FastDropout)]
        assert {dropout.zeroed for dropout in dropouts} == {round(value * 256)}
    if name == "attention":
        assert run.network.config.attention == value
    if name == "dtype":
        assert run.dtype is torch.bfloat16


def assert_groups_are_a_fresh_runs(run):
    resumed = groups(run)
    run.optimizers = train.build_optimizers(run.network, run.config, run.dtype)
    assert resumed == groups(run)


@pytest.mark.parametrize("name, key", [("weight_decay", "weight_decay"), ("beta1", "momentum")])
def test_what_changes_at_a_resume_takes_effect_in_muon_too(workspace, name, key):
    train.main([*TINY, "--max_iters=2", "--eval_iters=1", "--optimizer=muon"])
    run = resumed_with(name, 0.37)
    assert run.optimizers[1].param_groups[0][key] == 0.37
    assert_groups_are_a_fresh_runs(run)


@pytest.mark.parametrize("name", sorted(SHAPE | {"optimizer"}))
def test_every_setting_that_may_not_change_at_a_resume_is_refused(finished, name):
    others = {"network": "mlp", "position": "none", "optimizer": "muon"}
    value = others.get(name) or other_value(
        name, load_checkpoint("out/run/last.pt")["config"][name]
    )
    with pytest.raises(UserError, match=f"{name} is {value} here but .*it cannot change"):
        train.main(["--init_from=resume", f"--{name}={value}"])


def test_float16_may_follow_float32(workspace):
    train.main([*TINY, "--max_iters=2"])
    train.main(["--init_from=resume", "--dtype=float16", "--max_iters=4"])
    assert load_checkpoint("out/run/last.pt")["scaler"]


def test_another_number_of_threads_is_told(workspace, capsys):
    train.main([*TINY, "--max_iters=2"])
    torch.set_num_threads(2)
    train.main(["--init_from=resume", "--max_iters=3"])
    torch.set_num_threads(1)
    assert "had 1 threads and goes on with 2" in capsys.readouterr().out


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


def test_a_resume_on_another_split_of_the_same_text_is_refused(workspace):
    train.main(TINY)
    prepare_shakespeare.main(["--source=small.txt", "--dataset=small", "--split=0.8,0.2"])
    with pytest.raises(UserError, match="split in another way"):
        train.main(["--init_from=resume"])


def test_eval_only_measures_on_the_runs_own_text_unless_another_is_given(workspace, capsys):
    text = Path("small.txt").read_text()
    Path("other.txt").write_text(text[::-1])
    prepare_shakespeare.main(["--source=other.txt", "--dataset=shakespeare_char"])  # the default
    train.main(TINY)
    best = load_checkpoint("out/run/ckpt.pt")["progress"]["best_val_loss"]
    capsys.readouterr()
    train.main(["--eval_only"])
    assert f"val:   {best:.4f} nats" in capsys.readouterr().out
    train.main(["--eval_only", "--dataset=shakespeare_char"])
    assert f"val:   {best:.4f} nats" not in capsys.readouterr().out


def test_fine_tuning_names_the_characters_that_differ(workspace):
    train.main(TINY)
    (workspace / "other.txt").write_text("abc\u00e9" * 100)
    prepare_shakespeare.main(["--source=other.txt", "--dataset=other"])
    with pytest.raises(UserError, match="'\u00e9' only in the data.*'\\\\n'.*only in the check"):
        train.main(["--init_from=out/run/ckpt.pt", "--dataset=other", "--out_dir=out/tuned"])


# --- The run's folder -------------------------------------------------------------------------


def test_a_second_run_into_a_folder_is_refused_while_the_first_lives(workspace):
    message = f"process {os.getpid()} is writing into out/run"
    with locked(Path("out/run")), pytest.raises(UserError, match=message):
        train.main(TINY)
    train.main(TINY)


def test_what_a_killed_run_left_half_written_is_cleaned_up_and_nothing_else(workspace):
    folder = Path("out/run")
    (folder / ".mine.tmp").mkdir(parents=True)
    for name in (f"{TEMPORARY}abc", ".last.pt.abc.tmp", "notes.txt"):
        (folder / name).write_bytes(b"half a checkpoint")
    train.main(TINY)
    left = {path.name for path in folder.iterdir()} - {"ckpt.pt", "last.pt", "log.csv", "loss.png"}
    assert left == {".mine.tmp", ".last.pt.abc.tmp", "notes.txt"}


def test_what_is_in_the_folder_is_looked_at_under_its_lock(workspace, monkeypatch):
    starting_point = checkpoint.starting_point

    def locked_by_us(*arguments):
        with pytest.raises(UserError, match="is writing into"), locked(Path("out/run")):
            pass
        return starting_point(*arguments)

    monkeypatch.setattr(checkpoint, "starting_point", locked_by_us)
    train.main(TINY)
    with pytest.raises(UserError, match="already holds a run"):
        train.main(TINY)


def test_a_folder_that_cannot_be_written_is_named(workspace):
    Path("file").write_text("")
    with pytest.raises(UserError, match="cannot write into file/run"):
        train.main([*TINY, "--out_dir=file/run"])
