"""Checks around a run: the dry run, one memorized batch, the learning-rate finder, evaluation."""

from quill.checkpoint import load_checkpoint
from quill.terminal import UserError

import hashlib
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_run

import prepare_shakespeare
import studies
import train
from ancestors import build
from model import NetworkConfig

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


def test_flops_are_six_per_weight_and_those_of_attention():
    config = NetworkConfig(vocab_size=58, n_layer=3, n_head=2, n_embd=10, block_size=7)
    blocks = 3 * (10 * 30 + 10 * 10 + 10 * 40 + 40 * 10)
    attention = 3 * 3 * 2 * 2 * 7 * 10  # layers, passes, products, (add, multiply), T, C
    assert studies.flops_per_token(build(config)) == 6 * (blocks + 58 * 10) + attention
    assert studies.flops_per_token(build(NetworkConfig(58, network="bigram"))) == 0


@pytest.mark.parametrize("study", ["dry_run", "overfit_batch", "eval_only"])
def test_studies_leave_no_trace(workspace, study):
    train.main(TINY)
    before = contents()
    if study == "eval_only":
        train.main([*TINY, "--eval_only"])
    elif study == "overfit_batch":
        studies.main([study, *TINY, "--learning_rate=1e-2", "--n_embd=32"])
    else:
        studies.main([study, *TINY])
    assert contents() == before


def test_the_finder_leaves_its_plot_only(workspace):
    pytest.importorskip("matplotlib")
    train.main(TINY)
    before = contents()
    studies.main(["find_lr", *TINY])
    after = contents()
    assert after.pop("out/run/find_lr.png")
    assert after == before


def test_a_dry_run_needs_no_room_and_tells_the_whole(workspace, capsys):
    studies.main(["dry_run", *TINY])
    out = capsys.readouterr().out
    assert not Path("out").exists()
    size = sum(p.numel() for p in tiny_run().network.parameters())
    assert f"{size:,}" in out.split("parameters  ")[1]
    assert "9 steps, 3 evaluations" in out


def test_overfitting_one_batch_tells_a_network_that_learns_from_one_that_cannot(
    workspace, monkeypatch, capsys
):
    studies.main(["overfit_batch", *TINY, "--learning_rate=1e-2", "--n_embd=32"])
    assert "it can learn" in capsys.readouterr().out
    with pytest.raises(UserError, match="one batch was not memorized in 300 steps"):
        studies.main(["overfit_batch", *TINY, "--learning_rate=1e-7"])


def test_what_counts_as_memorized_depends_on_what_the_text_allows(workspace, capsys):
    Path("two.txt").write_text("abba" * 200)
    prepare_shakespeare.main(["--source=two.txt", "--dataset=two"])
    rate = ["--dataset=two", "--learning_rate=1e-2"]
    studies.main(["overfit_batch", *TINY, *rate])  # from 0.69 nats, so it cannot fall by one
    assert "it can learn" in capsys.readouterr().out
    with pytest.raises(UserError, match="was not memorized"):
        studies.main(["overfit_batch", *TINY, *rate, "--learning_rate=1e-7"])


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_passes_and_a_broken_one_does_not(workspace, kind, monkeypatch, capsys):
    arguments = ["overfit_batch", *TINY, *NETWORKS[kind], "--learning_rate=3e-2", "--n_embd=32"]
    studies.main(arguments)
    assert "it can learn" in capsys.readouterr().out
    step = train.train_step

    def without_memory(run, forward, windows):
        return step(run, forward, windows[:, torch.randperm(windows.shape[1])])

    monkeypatch.setattr(train, "train_step", without_memory)
    if kind != "bigram":  # which could not tell
        with pytest.raises(UserError, match="was not memorized"):
            studies.main(arguments)


def test_the_entropy_of_pairs_is_what_counting_them_gives():
    windows = torch.tensor([[0, 1, 0, 1, 0], [0, 2, 0, 1, 0]])
    # After 0: 1 three times, 2 once. After 1 and 2: always 0. Half of the 8 pairs begin with 0.
    expected = -(3 * math.log(3 / 4) + math.log(1 / 4)) / 8
    assert studies.pair_entropy(windows) == pytest.approx(expected)


def test_the_finder_proposes_nothing_where_no_rate_matters(workspace, monkeypatch):
    Path("one.txt").write_text("a" * 2000)
    prepare_shakespeare.main(["--source=one.txt", "--dataset=one"])
    monkeypatch.setattr(studies, "RATE_STEPS", 20)
    with pytest.raises(UserError, match="nothing to propose"):
        studies.main(["find_lr", *TINY, "--dataset=one"])
    loss = (torch.tensor(math.nan), torch.tensor(math.nan))
    monkeypatch.setattr(train, "train_step", lambda *_: loss)
    with pytest.raises(UserError, match="nothing to propose"):
        studies.main(["find_lr", *TINY])


def test_the_proposed_rate_is_a_third_of_the_one_with_the_lowest_loss(
    workspace, monkeypatch, capsys
):
    """Here every step has the loss of a curve whose lowest point is at a rate of 0.01."""

    def step(run, forward, windows):
        rate = run.optimizers[0].param_groups[0]["lr"]
        return torch.tensor(4 - 2 * math.exp(-((math.log10(rate) + 2) ** 2))), None

    monkeypatch.setattr(train, "train_step", step)
    monkeypatch.setattr(studies, "SMOOTHING", 0.0)
    studies.main(["find_lr", *TINY])
    out = capsys.readouterr().out
    lowest = float(out.split("the loss is lowest at a rate of ")[1].split()[0])
    proposal = float(out.split("proposal: --learning_rate=")[1].split(",")[0])
    assert lowest == pytest.approx(1e-2, rel=0.03)
    assert proposal == pytest.approx(lowest / 3, rel=0.03)


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


def test_counting_is_measured_on_the_validation_split_and_writes_a_text(workspace, capsys):
    studies.main(["ngrams", "--dataset=small"])
    table, text = capsys.readouterr().out.split("\n\na text by n = ")
    rows = [row.split() for row in table.splitlines()[1:]]
    assert [row[0] for row in rows] == list("123456")
    data = {split: Path(f"data/small/{split}.bin").read_bytes() for split in ("train", "val")}
    train_ids, val_ids = (list(memoryview(data[split]).cast("H")) for split in ("train", "val"))
    counts = {i: train_ids.count(i) for i in val_ids}
    types = len(set(train_ids))
    probabilities = [(counts[i] + types / 58) / (len(train_ids) + types) for i in val_ids]
    assert float(rows[0][4]) == pytest.approx(-np.mean(np.log(probabilities)), abs=6e-4)
    pairs, val_pairs = set(pairwise(train_ids)), list(pairwise(val_ids))
    new = sum(pair not in pairs for pair in val_pairs) / len(val_pairs)
    assert (rows[1][1], rows[1][3]) == (str(len(pairs)), f"{new:.1%}")
    assert len(text.split(":\n", 1)[1]) == studies.SAMPLE_LENGTH + 1
    assert not Path("out").exists()


def test_the_worked_example_is_arithmetic_that_a_reader_can_check(capsys):
    studies.main(["example"])
    out = capsys.readouterr().out

    def table(title):
        rows = out.split(f"\n{title}")[1].split("\n\n")[0].splitlines()[1:4]
        return np.array([[float(x) for x in row[7:].replace("|", " ").split()] for row in rows])

    q, k, v, scores, weights, means = map(
        table, ("queries", "keys", "values", "scores", "weights", "means")
    )
    for head in range(2):
        two, three = slice(2 * head, 2 * head + 2), slice(3 * head, 3 * head + 3)
        assert np.allclose(scores[:, three], q[:, two] @ k[:, two].T / 2**0.5, atol=0.03)
        e = np.tril(np.exp(scores[:, three]))
        assert np.allclose(weights[:, three], e / e.sum(1, keepdims=True), atol=0.01)
        assert np.allclose(means[:, two], weights[:, three] @ v[:, two], atol=0.02)
    e = np.exp(table("logits"))
    probabilities = table("probabilities")
    assert np.allclose(probabilities, e / e.sum(1, keepdims=True), atol=0.01)
    losses = -np.log(probabilities[range(3), [2, 1, 0]])  # h, e and a space come
    loss = float(out.split("the loss, their mean: ")[1].split()[0])
    assert loss == pytest.approx(losses.mean(), abs=0.05)
    *lines, nudged = out.split("backward()\n")[1].splitlines()[1:]
    for line in lines:
        by_hand, by_backward = line.split()[-2:]
        assert by_hand == by_backward != "0.0000"
    more = float(nudged.split()[-2])
    assert more == pytest.approx(0.001 * float(by_backward), abs=1e-4)  # w is in the last of them


def test_one_study_at_a_time(workspace):
    with pytest.raises(UserError, match="cannot read the recipe find_lr"):
        studies.main(["dry_run", "find_lr", *TINY])


def test_studies_are_for_one_process(workspace, monkeypatch):
    monkeypatch.setattr(studies, "WORLD", 2)
    with pytest.raises(UserError, match="for one process: leave torchrun out"):
        studies.main(["dry_run", *TINY])


@pytest.mark.parametrize("arguments", [[], ["dryrun"], ["--dry_run"], ["dry_run", "--n_layers=2"]])
def test_a_wrong_command_is_one_line_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        studies.main(arguments)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("study", ["dry_run", "overfit_batch", "find_lr"])
def test_a_former_flag_of_train_names_the_command_that_it_became(workspace, study, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        train.main([*TINY, f"--{study}"])
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    program, name = err.split("python ")[1].split()[:2]
    assert (program, name) == ("studies.py", study)
    assert name in studies.STUDIES


@pytest.mark.parametrize("kind", ["bigram", "mlp"])
def test_muon_without_blocks_is_refused(workspace, kind):
    with pytest.raises(UserError, match=f"a {kind} has none"):
        train.main([*TINY, f"--network={kind}", "--optimizer=muon"])
