"""quill/checkpoint.py: what is damaged or does not fit is refused, and no run is lost."""

import os
import pickle
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
from conftest import TINY, contents, outcome, tiny_training

import prepare_shakespeare
import train
from quill.checkpoint import (
    ARCHITECTURE,
    FORMAT,
    PER_CALL,
    find_checkpoint,
    inherited,
    load,
    read_checkpoint,
    save,
)
from quill.dataset import open_dataset
from quill.terminal import UserError
from train import Config, State

CKPT = Path("out/run/ckpt.pt")

# --- Damaged and foreign files ----------------------------------------------------------------


def refused(path):
    """Whether a checkpoint is refused, in one line with its path."""
    try:
        read_checkpoint(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return True
    return False


def test_a_flipped_byte_that_changes_what_is_read_is_refused(here):
    sound, data = contents(CKPT), CKPT.read_bytes()
    positions = range(0, len(data), len(data) // 400)
    count = 0
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 4
        CKPT.write_bytes(damaged)
        if refused(CKPT):
            count += 1
        else:  # it is in the padding between two parts
            assert contents(CKPT) == sound
    assert count > len(positions) / 2


class Attack:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_code_in_a_checkpoint_is_refused_and_not_executed(here):
    torch.save({**read_checkpoint(CKPT), "weights": Attack()}, CKPT)
    Path("pickle.pt").write_bytes(pickle.dumps(Attack()))
    assert refused(CKPT) and refused("pickle.pt")
    assert not Path("executed").exists()


def test_a_file_of_another_program_or_format_is_refused(here):
    Path("cut.pt").write_bytes(CKPT.read_bytes()[:-1])
    torch.save({"model": {}, "model_args": {"n_layer": 4}, "iter_num": 7}, "nanogpt.pt")
    torch.save({**read_checkpoint(CKPT), "format": FORMAT - 1}, "older.pt")
    for name in ("cut.pt", "nanogpt.pt", "older.pt"):
        assert refused(name), name


# --- Using a checkpoint -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [["--position=rotary", "--token_shift"], ["--bias", "--dropout=0.5", "--dtype=bfloat16"]]
    + [["--network=mlp", "--n_hidden=8"], ["--network=bigram"]],
)
def test_load_returns_the_network_and_tokenizer_that_were_saved(workspace, shape):
    network, *_, config = tiny_training(*shape, "--out_dir=.")
    meta = open_dataset("small").meta
    save("ckpt.pt", network, config, meta, State())
    loaded, tokenizer = load("ckpt.pt")
    assert tokenizer.vocab == meta["vocab"]
    idx = torch.tensor([tokenizer.encode("the sea")])
    network.dtype = torch.float32
    assert torch.equal(loaded(idx)[0], network.eval()(idx)[0])


def test_a_network_of_changed_code_is_loaded_with_a_warning(here, capsys):
    before = load(CKPT)[0].state_dict()
    assert not capsys.readouterr().err
    saved = read_checkpoint(CKPT)
    torch.save({**saved, "code": "another"}, CKPT)
    after = load(CKPT)[0].state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert len(capsys.readouterr().err.splitlines()) == 1
    for changed in ({"network": "rnn"}, {"n_head": 3}):  # which the code cannot build
        torch.save({**saved, "config": {**saved["config"], **changed}}, CKPT)
        with pytest.raises(UserError):
            load(CKPT)
    del saved["weights"]["norm.weight"]  # as if the code had no such norm when it was saved
    torch.save(saved, CKPT)
    with pytest.raises(UserError):
        load(CKPT)


def test_the_named_checkpoint_is_found_or_else_the_newest(here):
    for seconds, name in ((1, "newest"), (2, "old")):
        folder = Path("out", name)
        folder.mkdir()
        (folder / "ckpt.pt").write_bytes(CKPT.read_bytes())
        os.utime(folder / "ckpt.pt", (2e9 - seconds, 2e9 - seconds))
    assert find_checkpoint() == Path("out/newest/ckpt.pt")
    for name in ("out/old", "out/old/ckpt.pt"):
        assert find_checkpoint(name) == find_checkpoint(checkpoint=name) == Path("out/old/ckpt.pt")
    with pytest.raises(UserError, match="--checkpoint"):
        find_checkpoint("out/run", "last.pt")


def test_advice_on_a_missing_checkpoint_works(workspace):
    with pytest.raises(UserError) as caught:
        read_checkpoint(find_checkpoint("new"))
    (words,) = re.findall(r"python train.py (.*) makes one", str(caught.value))
    train.main([*TINY, *words.split()])
    assert read_checkpoint(find_checkpoint("new"))


# --- What a new run inherits ------------------------------------------------------------------

SETTINGS = {field.name for field in fields(Config)} - PER_CALL


def test_a_resume_inherits_all_and_keeps_its_architecture(capsys):
    saved = {"config": asdict(Config())}
    for name, other in (("n_embd", 32), ("network", "mlp"), ("optimizer", "muon")):
        with pytest.raises(UserError, match=f"{name} .*{other} .*{saved['config'][name]} "):
            inherited(saved, Config(), {name: other}, resume=True)
    given = {"learning_rate": 0.5, "seed": 1337, "out_dir": "elsewhere"}
    config = {**inherited(saved, Config(), given, resume=True), **given}
    assert {name for name in SETTINGS if config[name] != saved["config"][name]} == {"learning_rate"}
    printed = capsys.readouterr().out
    assert "learning_rate = 0.5" in printed and printed.count("\n") == 1


def test_fine_tuning_inherits_only_the_architecture():
    saved = {"config": asdict(Config(n_embd=16))}
    assert set(inherited(saved, Config(), {"max_iters": 5}, resume=False)) == ARCHITECTURE
    assert set(inherited(saved, Config(eval_only=True), {}, resume=False)) == SETTINGS
    assert inherited(None, Config(), {}, resume=False) == {}
    with pytest.raises(UserError, match="n_embd .*32 .*16 "):
        inherited(saved, Config(), {"n_embd": 32}, resume=False)


def test_what_a_resume_changes_applies_to_the_optimizers(workspace):
    train.main([*TINY, "--optimizer=muon", "--max_iters=2"])
    changes = ["--weight_decay=0.2", "--beta1=0.3", "--beta2=0.4", "--dtype=float16"]
    train.main(["--init_from=resume", "--max_iters=4", *changes])
    last = read_checkpoint("out/run/last.pt")
    adamw, muon = (optimizer["param_groups"][0] for optimizer in last["optimizer"]["optimizers"])
    assert (adamw["weight_decay"], adamw["betas"]) == (0.2, (0.3, 0.4))
    assert (muon["weight_decay"], muon["momentum"]) == (0.2, 0.3)
    assert last["state"]["step"] == 4 and last["optimizer"]["scaler"]


def test_a_run_of_another_machine_and_older_code_goes_on(workspace, capsys):
    train.main(TINY)
    for name in ("last.pt", "ckpt.pt"):
        saved = read_checkpoint(f"out/run/{name}")
        saved["config"]["device"] = "cuda:77"
        saved["config"]["gone"] = saved["config"].pop("qk_norm")  # a setting lost, and one gained
        torch.save(saved, f"out/run/{name}")
    for command in (["--eval_only"], ["--init_from=resume", "--max_iters=10"]):
        train.main(command)
        assert "cuda:77" in capsys.readouterr().out
    with pytest.raises(UserError, match="cuda:77"):
        train.main(["--eval_only", "--device=cuda:77"])


def test_a_resume_with_another_text_or_split_is_refused(workspace):
    train.main(TINY)
    prepare_shakespeare.main(["--source=small.txt", "--dataset=small", "--split=0.8,0.2"])
    with pytest.raises(UserError, match="small.txt"):
        train.main(["--init_from=resume", "--max_iters=12"])


def test_another_vocabulary_is_refused_and_the_advice_works(here):
    Path("mine.txt").write_text("the s\u00e9a, the sea\n" * 20, encoding="utf-8")
    mine = ["--source=mine.txt", "--dataset=mine"]
    tune = ["--init_from=out/run/ckpt.pt", "--out_dir=tuned", "--dataset=mine", "--max_iters=1"]
    prepare_shakespeare.main(mine)
    with pytest.raises(UserError, match="--vocab=CHECKPOINT$"):
        train.main(tune)
    with pytest.raises(UserError, match="'\u00e9'"):
        prepare_shakespeare.main([*mine, "--vocab=out/run/ckpt.pt"])
    Path("mine.txt").write_text("the sea, the sea\n" * 20)
    prepare_shakespeare.main([*mine, "--vocab=out/run/ckpt.pt"])
    train.main(tune)


# --- No run is lost ---------------------------------------------------------------------------


def test_only_overwrite_replaces_a_run_and_then_all_of_it(workspace):
    train.main(TINY)
    before = outcome("out/run")
    start = ["--init_from=out/run/ckpt.pt", "--dataset=small", "--out_dir=out/run"]
    for command in (TINY, start):
        with pytest.raises(UserError, match="out.run"):
            train.main(command)
    assert outcome("out/run") == before
    train.main([*TINY, "--overwrite", "--seed=2", "--max_iters=6"])
    train.main([*TINY, "--out_dir=fresh", "--seed=2", "--max_iters=6"])
    assert outcome("out/run") == outcome("fresh")


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ("--out_dir=out/run/ckpt.pt", "a file.* out.run$"),
        ("--init_from=gpt2", "GPT-2.* cannot"),
        ("--init_from=SCRATCH", "'scratch'"),
        ("--init_from=", "scratch, resume"),
        ("--init_from=out/rum", "'out/run'"),
        ("--init_from=resume --out_dir=out/rum", "'out/run'"),
        ("--dataset=data/small", "'small'"),
        ("--dataset=smal", "'small'"),
    ],
)
def test_wrong_name_is_answered_with_the_one_that_works(workspace, words, facts):
    Path("out/run").mkdir(parents=True)
    CKPT.touch()
    Path("out/run/last.pt").touch()
    with pytest.raises(UserError, match=facts):
        train.main(["--out_dir=out/a", *words.split()])
