"""What one does by hand around a run: dry run, one batch by heart, learning-rate finder, exam."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import TINY, signals_as_they_were, tiny_run  # noqa: F401 (a fixture)

import prepare_shakespeare
import studies
import train
from checkpoint import load_checkpoint
from config import UserError
from model import NetworkConfig, build

NETWORKS = {
    "bigram": ["--network=bigram"],
    "mlp": ["--network=mlp", "--n_hidden=24"],
    "gpt": ["--position=none"],
}


def contents(folder="."):
    """Every file below a folder, with a hash of what is in it."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_trains_resumes_and_samples(workspace, kind, capsys):
    train.main([*TINY, *NETWORKS[kind], "--out_dir=whole"])
    train.main([*TINY, *NETWORKS[kind], "--out_dir=parts", "--max_iters=4", "--lr_decay_iters=9"])
    train.main(["--init_from=resume", "--out_dir=parts", "--max_iters=9"])
    whole, parts = load_checkpoint("whole/last.pt"), load_checkpoint("parts/last.pt")
    assert whole["network"]["network"] == kind
    assert parts["progress"]["resumes"] == [4]
    for name, value in whole["weights"].items():
        assert torch.equal(value, parts["weights"][name]), name
    assert whole["progress"]["best_val_loss"] < math.log(58) + 0.05
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize("kind", NETWORKS)
def test_parameters_by_part_add_up(kind):
    network = build(NetworkConfig(vocab_size=58, network=kind, position="learned", bias=True))
    counts = studies.parameters_by_part(network)
    assert sum(counts.values()) == sum(p.numel() for p in network.parameters())


def test_flops_are_six_a_weight_and_attentions_own():
    config = NetworkConfig(vocab_size=58, n_layer=3, n_head=2, n_embd=10, block_size=7)
    blocks = 3 * (10 * 30 + 10 * 10 + 10 * 40 + 40 * 10)
    attention = 3 * 3 * 2 * 2 * 7 * 10  # layers, passes, products, (add, multiply), T, C
    assert studies.flops_a_token(build(config)) == 6 * (blocks + 58 * 10) + attention
    assert studies.flops_a_token(build(NetworkConfig(58, network="bigram"))) == 0


@pytest.mark.parametrize("study", ["dry_run", "overfit_batch", "eval_only"])
def test_studies_leave_no_trace(workspace, study):
    train.main(TINY)
    before = contents()
    changes = ["--learning_rate=1e-2", "--n_embd=32"] if study == "overfit_batch" else []
    train.main([*TINY, *changes, f"--{study}"])
    assert contents() == before


def test_the_finder_leaves_its_picture_only(workspace):
    pytest.importorskip("matplotlib")
    train.main(TINY)
    before = contents()
    train.main([*TINY, "--find_lr"])
    after = contents()
    assert after.pop("out/run/find_lr.png")
    assert after == before


def test_a_dry_run_needs_no_room_and_tells_the_whole(workspace, capsys):
    train.main([*TINY, "--dry_run"])
    out = capsys.readouterr().out
    assert not Path("out").exists()
    size = sum(p.numel() for p in tiny_run().network.parameters())
    assert f"{size:,}" in out.split("parameters  ")[1]
    assert "9 steps, 3 evaluations" in out


def test_overfitting_one_batch_tells_a_network_that_learns_from_one_that_cannot(
    workspace, monkeypatch, capsys
):
    train.main([*TINY, "--learning_rate=1e-2", "--n_embd=32", "--overfit_batch"])
    assert "it can learn" in capsys.readouterr().out
    with pytest.raises(UserError, match="one batch was not learned in 300 steps"):
        train.main([*TINY, "--learning_rate=1e-7", "--overfit_batch"])


def test_the_proposed_rate_lies_below_the_best_and_trains(workspace):
    rates = list(np.geomspace(1e-5, 1, 101))
    losses = [4 - 2 * math.exp(-((math.log10(rate) + 2) ** 2)) for rate in rates]
    assert studies.proposed_rate(rates, losses) == pytest.approx(1e-2 / 3)


def test_eval_only_gives_the_losses_of_the_best_checkpoint(workspace, capsys):
    prepare_shakespeare.main(["--source=small.txt", "--dataset=small", "--split=0.6,0.2,0.2"])
    train.main(TINY)
    out = capsys.readouterr().out
    best = load_checkpoint("out/run/ckpt.pt")["progress"]["best_val_loss"]
    test_loss = out.split("test loss of those weights: ")[1][:6]
    train.main([*TINY, "--eval_only"])
    out = capsys.readouterr().out
    assert f"val:   {best:.4f} nats" in out
    assert f"test:  {test_loss} nats" in out
    with pytest.raises(UserError, match="no checkpoint elsewhere/ckpt.pt"):
        train.main([*TINY, "--eval_only", "--out_dir=elsewhere"])


def test_the_test_split_is_measured_once_and_never_chosen_by(workspace, monkeypatch):
    prepare_shakespeare.main(["--source=small.txt", "--dataset=small", "--split=0.6,0.2,0.2"])
    measured = []
    mean_loss = train.mean_loss

    def watched(run, split, starts):
        measured.append(split)
        return mean_loss(run, split, starts)

    monkeypatch.setattr(train, "mean_loss", watched)
    train.main(TINY)
    assert measured.count("test") == 1
    assert measured[-1] == "test"


def test_one_study_at_a_time(workspace):
    with pytest.raises(UserError, match="--dry_run and --find_lr: one at a time"):
        train.main([*TINY, "--find_lr", "--dry_run"])


@pytest.mark.parametrize("kind", ["bigram", "mlp"])
def test_muon_without_blocks_is_refused(workspace, kind):
    with pytest.raises(UserError, match=f"a {kind} has none"):
        train.main([*TINY, f"--network={kind}", "--optimizer=muon"])
