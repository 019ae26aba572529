"""study/compare.py and study/results.py: what is said about a difference follows from its noise."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, outcome, prepare_small, tiny_training

import train
from quill import checkpoint, parallel
from quill.checkpoint import read_checkpoint
from quill.log import read_log
from quill.settings import read_settings
from quill.terminal import UsageError, UserError
from study import compare
from study.__main__ import main
from study.compare import verdict

# --- Statistics -------------------------------------------------------------------------------


def test_verdict_follows_students_table_from_four_seeds_on():
    # |t| is larger with a probability of 5 %.
    for n, t in ((4, 3.182), (5, 2.776), (10, 2.262), (15, 2.145), (30, 2.045)):
        values = np.random.default_rng(n).normal(size=n)
        values = 0.1 * (values - values.mean()) / values.std(ddof=1)  # mean 0
        for factor, said in ((1.01, "worse"), (-1.01, "better"), (0.99, "no difference seen")):
            assert verdict(list(values + 0.1 * factor * t / math.sqrt(n))).startswith(said)
    for seeds in (1, 2, 3):
        assert "4 at least" in verdict([-0.5 + 0.001 * i for i in range(seeds)])


def test_certain_but_tiny_difference_is_neither_better_nor_worse():
    for difference in (0.00003, -0.0009):
        said = verdict([difference, difference * 1.01] * 5)
        assert said not in ("better", "worse") and "0.001" in said
    assert verdict([0.0011] * 5) == "worse"


def test_proposed_seeds_show_a_difference_four_times_of_five():
    noise = 0.0112  # so the formula asks for 12 seeds
    values = np.random.default_rng(1).normal(0, 1, size=12)
    values = noise * (values - values.mean()) / values.std(ddof=1)
    assert "about 12 seeds" in verdict(list(values))
    differences = np.random.default_rng(2).normal(compare.SEEN, noise, size=(400, 12))
    assert 0.7 < np.mean([verdict(list(row)) == "worse" for row in differences]) < 0.85


# --- Comparisons ------------------------------------------------------------------------------


@pytest.fixture
def recipe(workspace):
    """The words of a comparison of tiny.py, a recipe of a fraction of a second."""
    settings = read_settings(TINY, train.Config, "train.py")[0]
    lines = [f"{name} = {value!r}" for name, value in settings.items() if name != "out_dir"]
    Path("tiny.py").write_text("\n".join(lines))
    return ["compare", "tiny.py", "--seeds=2"]


@pytest.fixture
def runs(monkeypatch):
    """The command lines that are trained from now on, in this process."""
    started = []

    def train_here(words):
        started.append(words)
        train.main(words)

    monkeypatch.setattr(parallel.signal, "signal", lambda *_: None)  # not in the main thread
    monkeypatch.setattr(compare, "train_one", train_here)
    monkeypatch.setattr(compare.os, "cpu_count", lambda: 1)
    return started


def rows_of(printed):
    """{variant: [parameters, seconds, loss, difference, verdict]} of the table that was printed."""
    lines = [line.strip("| ") for line in printed.splitlines() if line.startswith("| ")]
    return {name: row for name, *row in (line.split(" | ") for line in lines[1:])}


def losses_of(folder):
    """The lowest validation loss of each run in a folder, by variant and seed."""
    return {log.parent: min(read_log(log.parent)["val_loss"]) for log in folder.rglob("log.csv")}


def test_each_variant_is_trained_with_each_seed(recipe, runs, capsys):
    main([*recipe, "--n_layer=1,2"])
    folder, losses = Path("out/compare/tiny"), []
    for layers in (1, 2):
        for seed in (1, 2):
            run = folder / f"n_layer={layers}" / f"seed{seed}"
            config = read_checkpoint(run / "ckpt.pt")["config"]
            assert (config["n_layer"], config["seed"]) == (layers, seed)
            losses.append(min(read_log(run)["val_loss"]))
    one, two = np.array(losses).reshape(2, 2)
    table = rows_of(capsys.readouterr().out)
    assert list(table) == ["n_layer=1", "n_layer=2"]
    assert table["n_layer=1"][2].startswith(f"{one.mean():.4f} ± ")
    assert table["n_layer=2"][3].startswith(f"{(two - one).mean():+.4f} ± ")
    network = tiny_training("--n_layer=1")[0]
    assert table["n_layer=1"][0] == f"{sum(p.numel() for p in network.parameters()):,}"


def test_a_run_in_its_own_process_ends_with_the_same_bytes(workspace, monkeypatch):
    compare.train_one([*TINY, "--out_dir=own"])
    train.main([*TINY, "--out_dir=here"])
    assert outcome("own") == outcome("here")
    with pytest.raises(UserError, match="no_such"):
        compare.train_one([*TINY, "--dataset=no_such"])
    Path("dies.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(train, "__file__", "dies.py")
    with pytest.raises(UserError, match="status"):
        compare.train_one([])


def test_only_what_is_missing_is_trained_again(recipe, runs):
    main([*recipe, "--n_layer=1,2"])
    folder = Path("out/compare/tiny")
    before = losses_of(folder)
    shutil.rmtree(folder / "n_layer=2/seed1")
    log = folder / "n_layer=1/seed2/log.csv"
    log.write_text("\n".join(log.read_text().splitlines()[:-1]) + "\n")  # not at its last step
    runs.clear()
    main([*recipe, "--n_layer=1,2"])
    again = {word.removeprefix(f"--out_dir={folder}/") for words in runs for word in words}
    assert again >= {"n_layer=2/seed1", "n_layer=1/seed2"} and len(runs) == 2
    assert losses_of(folder) == before
    with pytest.raises(UserError, match="another dropout"):
        main([*recipe, "--n_layer=1,2", "--dropout=0.5"])


def test_two_versions_of_the_code_are_compared_by_their_folders(recipe, runs, monkeypatch, capsys):
    main([*recipe, "--out_dir=out/gelu"])
    monkeypatch.setattr("model.F.gelu", lambda x: torch.relu(x) ** 2)
    monkeypatch.setattr(checkpoint, "fingerprint", lambda name: "changed")
    monkeypatch.setattr(compare, "fingerprint", lambda name: "changed")
    with pytest.raises(UserError, match="code"):
        main([*recipe, "--out_dir=out/gelu"])
    main([*recipe, "--out_dir=out/relu2"])
    capsys.readouterr()
    main(["compare", "out/gelu", "out/relu2"])
    table = rows_of(capsys.readouterr().out)
    assert list(table) == ["out/gelu: recipe", "out/relu2: recipe"]
    old, new = (np.mean([*losses_of(Path(f"out/{x}")).values()]) for x in ("gelu", "relu2"))
    assert table["out/relu2: recipe"][3].startswith(f"{new - old:+.4f} ± ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--n_layer=1,2"], ["tiny.py", "--n_layers=1,2"], ["tiny.py", "--n_layer=1,x"]]
    + [["tiny.py", "--seed=3,4"], ["tiny.py", "--seeds=0"], ["tiny.py", "--n_layer", "1,2"]],
)
def test_a_mistake_ends_it_before_anything_is_trained(recipe, runs, arguments):
    with pytest.raises(UsageError):
        main(["compare", *arguments])
    assert not runs and not Path("out").exists()


def test_a_variant_that_fails_stops_no_other(recipe, runs, capsys):
    main([*recipe, "--learning_rate=1e-3,1e30", "--log_interval=1"])
    out = capsys.readouterr().out
    assert "note: step" in out and "learning_rate=1e30: not all of its runs have ended" in out
    assert list(rows_of(out)) == ["learning_rate=1e-3"]
    main(["compare", "out/compare/tiny"])  # nor does its half of a log count
    assert list(rows_of(capsys.readouterr().out)) == ["out/compare/tiny: learning_rate=1e-3"]
    with pytest.raises(UserError, match="not all"):
        main([*recipe, "--learning_rate=1e30", "--out_dir=out/none", "--log_interval=1"])
    with pytest.raises(UserError, match="no comparison"):
        main(["compare", "out/none/recipe/seed1"])


# --- Results ----------------------------------------------------------------------------------


def test_results_are_measured_and_the_worst_come_last(workspace, capsys):
    train.main(TINY)
    claimed = read_checkpoint("out/run/ckpt.pt")
    loss = claimed["state"]["best_val_loss"]
    claimed["state"]["best_val_loss"] = 0.1
    claimed["weights"]["norm.weight"] *= math.nan
    torch.save(claimed, "claimed.pt")
    capsys.readouterr()
    main(["results", "claimed.pt", "out/run", "missing.pt", "small.txt", "--dataset=small"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: missing.pt: ") and lines[1].startswith("note: small.txt: ")
    assert [line.split()[0] for line in lines[3:]] == [f"{loss:.4f}", "nan"]
    network = tiny_training()[0]
    assert f"{sum(p.numel() for p in network.parameters()):,}" in lines[3]


def test_a_folder_that_cannot_be_read_stops_no_other(here, capsys, monkeypatch):
    prepare_small()
    monkeypatch.setattr("study.context.save", lambda *_: None)
    for study in ("context", "without", "results"):
        main([study, "out/nowhere", "out/run", "--dataset=small"])
        out = capsys.readouterr().out
        assert "note: out/nowhere: no checkpoint" in out and " out/run" in out
        with pytest.raises(UserError, match="nowhere"):
            main([study, "out/nowhere", "--dataset=small"])
