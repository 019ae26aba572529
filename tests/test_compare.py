"""study/compare.py and study/results.py: what is said about a difference follows from its noise."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, outcome, prepare_small, tiny_training

import train
from quill import parallel
from quill.checkpoint import read_checkpoint
from quill.log import read_log
from quill.settings import read_settings
from quill.terminal import UsageError, UserError
from study import compare
from study.__main__ import main
from study.compare import mean_and_error, verdict

# --- Statistics -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "t"),  # from a table of Student's distribution: |t| is larger with a probability of 5 %
    [(4, 3.182), (5, 2.776), (10, 2.262), (15, 2.145), (30, 2.045)],
)
def test_difference_is_named_beyond_the_values_of_students_table(n, t):
    values = np.random.default_rng(n).normal(size=n)
    values = 0.1 * (values - values.mean()) / values.std(ddof=1)  # mean 0
    for factor, said in ((1.01, "worse"), (-1.01, "better"), (0.99, "no difference seen")):
        assert verdict(list(values + 0.1 * factor * t / math.sqrt(n))).startswith(said)


def test_certain_but_tiny_difference_is_neither_better_nor_worse():
    for difference in (0.00003, -0.0009):
        said = verdict([difference, difference * 1.01] * 5)
        assert said not in ("better", "worse") and "0.001" in said
    assert verdict([0.0011] * 5) == "worse"


def test_one_in_twenty_comparisons_of_equals_finds_a_difference():
    differences = np.random.default_rng(0).normal(0, 0.01, size=(400, 5))
    found = [verdict(list(row)) in ("better", "worse") for row in differences]
    assert 0.02 < np.mean(found) < 0.08


def test_proposed_seeds_show_a_difference_four_times_of_five():
    noise = 0.0112  # so the formula asks for 12 seeds
    values = np.random.default_rng(1).normal(0, 1, size=12)
    values = noise * (values - values.mean()) / values.std(ddof=1)
    assert "about 12 seeds" in verdict(list(values))
    differences = np.random.default_rng(2).normal(compare.SEEN, noise, size=(400, 12))
    assert 0.7 < np.mean([verdict(list(row)) == "worse" for row in differences]) < 0.85


def test_fewer_than_four_seeds_give_no_verdict():
    assert math.isnan(mean_and_error([0.5])[1])
    for seeds in (1, 2, 3):
        assert "4 at least" in verdict([-0.5 + 0.001 * i for i in range(seeds)])


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


def rows_of(folder):
    with open(Path(folder) / "compare.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_variant_is_trained_with_each_seed(recipe, runs, capsys):
    main([*recipe, "--n_layer=1,2"])
    rows = rows_of("out/compare/tiny")
    assert [row["variant"] for row in rows] == ["n_layer=1"] * 2 + ["n_layer=2"] * 2
    for row in rows:
        folder = Path("out/compare/tiny", row["variant"], f"seed{row['seed']}")
        checkpoint = read_checkpoint(folder / "ckpt.pt")
        assert checkpoint["config"]["seed"] == int(row["seed"])
        assert checkpoint["config"]["n_layer"] == int(row["variant"][-1])
        assert float(row["val_loss"]) == min(read_log(folder)["val_loss"])
    table = Path("out/compare/tiny/compare.md").read_text()
    assert table in capsys.readouterr().out
    losses = np.array([float(row["val_loss"]) for row in rows]).reshape(2, 2)
    assert f"{losses[1].mean():.4f}" in table
    assert f"{(losses[1] - losses[0]).mean():+.4f}" in table


def test_a_run_in_its_own_process_ends_with_the_same_bytes(workspace):
    compare.train_one([*TINY, "--out_dir=own"])
    train.main([*TINY, "--out_dir=here"])
    assert outcome("own") == outcome("here")
    with pytest.raises(UserError, match="no_such"):
        compare.train_one([*TINY, "--dataset=no_such"])


def test_only_what_is_missing_is_trained_again(recipe, runs):
    main([*recipe, "--n_layer=1,2"])
    before = rows_of("out/compare/tiny")
    Path("out/compare/tiny/n_layer=2/seed1/log.csv").unlink()
    log = Path("out/compare/tiny/n_layer=1/seed2/log.csv")
    log.write_text("\n".join(log.read_text().splitlines()[:-1]) + "\n")  # not at its last step
    runs.clear()
    main([*recipe, "--n_layer=1,2"])
    again = {Path(word.split("=", 1)[1]) for words in runs for word in words if "out_dir" in word}
    assert {path.parent.name + path.name for path in again} == {"n_layer=2seed1", "n_layer=1seed2"}
    for old, new in zip(before, rows_of("out/compare/tiny"), strict=True):
        assert old["val_loss"] == new["val_loss"]


def test_two_versions_of_the_code_are_compared_by_their_folders(recipe, runs, monkeypatch):
    main([*recipe, "--out_dir=out/gelu"])
    monkeypatch.setattr("model.F.gelu", lambda x: torch.relu(x) ** 2)
    monkeypatch.setattr(compare, "fingerprint", lambda name: "changed")
    main([*recipe, "--out_dir=out/relu2"])
    main(["compare", "out/gelu", "out/relu2"])
    rows = rows_of("out/relu2")
    assert [row["variant"] for row in rows] == ["out/gelu: recipe"] * 2 + ["out/relu2: recipe"] * 2
    assert rows[0]["val_loss"] != rows[2]["val_loss"]


def test_a_folder_of_other_code_or_settings_is_not_mixed(recipe, runs, monkeypatch):
    main([*recipe, "--out_dir=out/a"])
    with pytest.raises(UserError, match="settings"):
        main([*recipe, "--out_dir=out/a", "--n_embd=32"])
    main([*recipe, "--out_dir=out/b", "--n_embd=32"])
    with pytest.raises(UserError, match="out/a, out/b"):
        main(["compare", "out/a", "out/b"])
    monkeypatch.setattr(compare, "fingerprint", lambda name: "changed")
    with pytest.raises(UserError, match="code"):
        main([*recipe, "--out_dir=out/a"])
    assert json.loads(Path("out/a/compare.json").read_text())["seeds"] == 2


@pytest.mark.parametrize(
    "arguments",
    [[], ["--n_layer=1,2"], ["tiny.py", "--n_layers=1,2"], ["tiny.py", "--n_layer=1,x"]],
)
def test_a_mistake_ends_it_before_anything_is_trained(recipe, runs, arguments):
    with pytest.raises(UsageError):
        main(["compare", *arguments])
    assert not runs and not Path("out").exists()


# --- Results ----------------------------------------------------------------------------------


def test_results_are_measured_and_not_believed(workspace, capsys):
    train.main(TINY)
    claimed = read_checkpoint("out/run/ckpt.pt")
    loss = claimed["state"]["best_val_loss"]
    claimed["state"]["best_val_loss"] = 0.1
    torch.save(claimed, "claimed.pt")
    capsys.readouterr()
    main(["results", "out/run", "claimed.pt", "missing.pt", "small.txt", "--dataset=small"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [f"{loss:.4f}"] * 2
    network = tiny_training()[0]
    assert f"{sum(p.numel() for p in network.parameters()):,}" in lines[1]
    assert lines[3].startswith("missing.pt: ") and lines[4].startswith("small.txt: ")


# --- One bad item -----------------------------------------------------------------------------


def test_a_variant_that_fails_stops_no_other(recipe, runs, capsys):
    main([*recipe, "--learning_rate=1e-3,1e30", "--log_interval=1"])
    assert {row["variant"] for row in rows_of("out/compare/tiny")} == {"learning_rate=1e-3"}
    assert "learning_rate=1e30 is left out: step" in capsys.readouterr().out
    main(["compare", "out/compare/tiny", "out/compare/tiny"])  # nor does its half of a log count
    assert "learning_rate=1e30 |" not in capsys.readouterr().out
    with pytest.raises(UserError, match="finite"):
        main([*recipe, "--learning_rate=1e30", "--out_dir=out/none", "--log_interval=1"])


def test_a_folder_that_cannot_be_read_stops_no_other(here, capsys, monkeypatch):
    prepare_small()
    monkeypatch.setattr("study.context.save", lambda *_: None)
    for study in ("context", "without"):
        main([study, "out/nowhere", "out/run", "--dataset=small"])
        out = capsys.readouterr().out
        assert "note: no checkpoint out/nowhere" in out and " out/run" in out
        with pytest.raises(UserError, match="nowhere"):
            main([study, "out/nowhere", "--dataset=small"])


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\xe9"])
def test_damaged_note_of_a_comparison_is_one_line(recipe, runs, content):
    Path("out/a").mkdir(parents=True)
    Path("out/a/compare.json").write_bytes(content.encode("latin-1"))
    for words in (["compare", "out/a"], [*recipe, "--out_dir=out/a"]):
        with pytest.raises(UserError, match="out/a/compare.json is damaged"):
            main(words)


def test_setting_that_would_be_overruled_is_refused(recipe, runs):
    with pytest.raises(UsageError, match="--seeds"):
        main([*recipe, "--seed=3,4"])


def test_run_that_ends_without_a_word_is_reported(workspace, monkeypatch):
    Path("dies.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(train, "__file__", "dies.py")
    with pytest.raises(UserError, match="status"):
        compare.train_one([])
    Path("dies.py").write_text("import sys; sys.stdout.buffer.write(b'na\\xefve'); sys.exit(1)")
    with pytest.raises(UserError, match="na.ve"):
        compare.train_one([])
