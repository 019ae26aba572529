"""study/: the studies' numbers are right, the plots show them, and nothing else is written."""

import math
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, prepare_small, random_ids, small_network, tiny_training

import prepare_shakespeare
import train
from model import next_probabilities
from networks import NGrams
from quill.checkpoint import load
from quill.dataset import Tokens
from quill.figures import COLORS, matplotlib_installed
from quill.log import read_log
from quill.terminal import UsageError, UserError
from study import checks, counting, plots
from study.__main__ import STUDIES, main
from study.characters import KINDS, kind_of, principal_components, spread
from study.inside import attention_weights, telling_heads

needs_matplotlib = pytest.mark.skipif(not matplotlib_installed(), reason="no matplotlib")
NETWORKS = {
    "bigram": ["--network=bigram"],
    "mlp": ["--network=mlp", "--n_hidden=24"],
    "gpt": ["--position=rotary"],
}


@pytest.fixture
def figures(monkeypatch):
    """A list of the figures that are saved from now on; they are not written."""
    saved = []
    for module in (plots, checks):
        monkeypatch.setattr(module, "save", lambda path, draw, *given: saved.append(draw(*given)))
    return saved


# --- The program ------------------------------------------------------------------------------


def test_without_a_name_all_studies_are_listed(capsys):
    main([])
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in STUDIES)


def test_unknown_option_of_any_study_is_a_usage_error():
    for name in STUDIES:
        recipe = [f"{ROOT}/config/bigram.py"] if name == "compare" else []
        with pytest.raises(UsageError, match="--colour"):
            main([name, *recipe, "--colour=red"])


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        (2, ["dryrun"], "'dryrun'.*'dry_run'"),
        (2, ["attention", "--start=" + "a" * 17], "17 characters"),
        (2, ["runs", "\u2014output=x"], "'--output'"),
        (1, ["embeddings", "--out_dir=missing"], "missing/ckpt.pt"),
        (1, ["runs", "missing"], "missing/log.csv.*train.py"),
    ],
)
def test_what_a_study_cannot_use_is_reported(here, status, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        main(arguments)
    assert caught.value.status == status


@needs_matplotlib
def test_without_matplotlib_a_plot_says_what_to_install(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        main(["embeddings"])
    prepare_small()
    monkeypatch.setattr(checks, "RATE_STEPS", 30)
    monkeypatch.setattr(checks, "matplotlib_installed", lambda: True)  # but it does not start
    main(["find_lr", *TINY])
    assert "note: the plot could not be written: cannot plot" in capsys.readouterr().out


# --- Checks before a run ----------------------------------------------------------------------


def test_checks_write_nothing_but_the_plot_of_find_lr(workspace, monkeypatch):
    monkeypatch.setattr(checks, "RATE_STEPS", 20)
    main(["dry_run", *TINY])
    assert not Path("out").exists()
    train.main(TINY)
    before = {path: path.read_bytes() for path in Path("out").rglob("*.*")}
    for study in ("dry_run", "overfit_batch", "find_lr"):
        main([study, *TINY, "--learning_rate=1e-2"])
    after = {path: path.read_bytes() for path in Path("out").rglob("*.*")}
    assert (Path("out/run/find_lr.png") in after) == matplotlib_installed()
    assert {path: after[path] for path in before} == before and len(after) <= len(before) + 1


@pytest.mark.parametrize("kind", NETWORKS)
def test_dry_run_counts_the_parameters_and_the_evaluations(workspace, kind, capsys):
    main(["dry_run", *TINY, *NETWORKS[kind]])
    rows = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()]
    parts = [row for row in rows if row[-1].endswith("%")]
    counts = [int(row[-2]) for row in parts]
    network = tiny_training(*NETWORKS[kind])[0]
    total = sum(parameter.numel() for parameter in network.parameters())
    assert sum(counts) == total and ["parameters", str(total)] in [row[:2] for row in rows]
    percents = [float(row[-1].rstrip("%")) for row in parts]
    assert percents == pytest.approx([100 * count / total for count in counts], abs=0.06)
    assert "(9 steps 4 evaluations)" in " ".join(rows[-1])  # at steps 0, 3, 6 and 9


def test_flops_are_those_of_the_lectures_formula():
    network = small_network(n_layer=3, block_size=8, position="rotary")
    matrices = sum(p.numel() for p in network.parameters() if p.dim() == 2)
    flops = 6 * matrices + 12 * 3 * 12 * 8  # n_layer, n_embd, block_size
    assert checks.flops_per_token(network, random_ids(network, rows=2, length=9)) == flops


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_learns_one_batch_but_not_noise(workspace, kind, monkeypatch):
    monkeypatch.setattr(checks, "OVERFIT_STEPS", 100)
    large = ["--batch_size=32", "--n_embd=32", "--learning_rate=0.03"]
    main(["overfit_batch", *TINY, *NETWORKS[kind], *large])
    train_step = train.train_step

    def step_with_noise(network, optimizer, windows, *rest):
        windows[:, :-1] = torch.randint(50, windows[:, 1:].shape)
        return train_step(network, optimizer, windows, *rest)

    monkeypatch.setattr(train, "train_step", step_with_noise)
    with pytest.raises(UserError, match="not enough"):
        main(["overfit_batch", *TINY, *NETWORKS[kind], *large])


@needs_matplotlib
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_find_lr_proposes_a_third_of_the_best_rate(
    workspace, optimizer, monkeypatch, figures, capsys
):
    """The loss of each step is replaced by a curve with its lowest point at a rate of 0.01."""

    def step(network, optimizer, windows, config, step):
        rate = optimizer.optimizers[0].param_groups[0]["lr"]
        return torch.tensor(4 - 2 * math.exp(-((math.log10(rate) + 2) ** 2)))

    monkeypatch.setattr(train, "train_step", step)
    monkeypatch.setattr(checks, "SMOOTHING", 0.0)
    peaks = ["--learning_rate=1e-3", "--muon_learning_rate=2e-3"]
    main(["find_lr", *TINY, *peaks, f"--optimizer={optimizer}"])
    proposal = capsys.readouterr().out.split("proposal:")[1].split()
    proposed = {name: float(rate) for name, rate in (word.split("=") for word in proposal)}
    expected = {"--learning_rate": 0.01 / 3, "--min_lr": 0.001 / 3}
    if optimizer == "muon":
        expected["--muon_learning_rate"] = 0.02 / 3  # its peak is twice AdamW's
    assert proposed == pytest.approx(expected, rel=0.03)
    curve, lowest, third = figures[0].axes[0].get_lines()
    assert lowest.get_ydata()[0] == min(curve.get_ydata()) == pytest.approx(2, abs=1e-3)
    assert lowest.get_xdata()[0] / 3 == third.get_xdata()[0] == pytest.approx(0.01 / 3, rel=0.03)


# --- Counting, and the example ----------------------------------------------------------------


def test_ngrams_prints_the_validation_losses_of_counting(workspace, capsys):
    main(["ngrams", "--dataset=small"])
    table, sample = capsys.readouterr().out.split("\n\n", maxsplit=1)
    rows = [row.split() for row in table.splitlines()[1:]]
    text = Path("data/small/input.txt").read_text()
    seen, new = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    model = NGrams(seen, counting.LONGEST, len(set(text)))
    losses = {str(n): f"{model.loss(new, n):.3f}" for n in range(1, counting.LONGEST + 1)}
    assert {row[0]: row[4] for row in rows} == losses
    pairs, new_pairs = list(pairwise(seen)), list(pairwise(new))
    once = sum(pairs.count(pair) == 1 for pair in set(pairs)) / len(set(pairs))
    unknown = sum(pair not in set(pairs) for pair in new_pairs) / len(new_pairs)
    assert rows[1][1:4] == [str(len(set(pairs))), f"{once:.0%}", f"{unknown:.1%}"]
    assert f"n = {min(losses, key=losses.get)}:" in sample
    assert len(sample.split(":", 1)[1]) == counting.SAMPLE_LENGTH + 2  # a newline before and after


def test_each_number_of_the_example_follows_from_those_before(capsys):
    main(["example", "--seed=2"])
    out = capsys.readouterr().out

    def table(title):
        rows = out.split(f"\n{title}")[1].split("\n\n")[0].splitlines()[1:4]
        return np.array([[float(x) for x in row[7:].replace("|", " ").split()] for row in rows])

    titles = ("queries", "keys", "values", "scores", "weights", "means")
    q, k, v, scores, weights, means = map(table, titles)
    for head in range(2):
        two, three = slice(2 * head, 2 * head + 2), slice(3 * head, 3 * head + 3)
        assert np.allclose(scores[:, three], q[:, two] @ k[:, two].T / 2**0.5, atol=0.03)
        powers = np.tril(np.exp(scores[:, three]))
        expected = powers / powers.sum(axis=1, keepdims=True)
        assert np.allclose(weights[:, three], expected, atol=0.01)
        assert np.allclose(means[:, two], weights[:, three] @ v[:, two], atol=0.04)
    powers, probabilities = np.exp(table("logits")), table("probabilities")
    assert np.allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), atol=0.01)
    losses = -np.log(probabilities[range(3), [2, 1, 0]])  # h, e and a space come next
    loss = float(out.split("the loss, their mean: ")[1].split()[0])
    assert loss == pytest.approx(losses.mean(), abs=0.1)


# --- Attention --------------------------------------------------------------------------------


def test_heads_to_show_are_chosen_by_means_over_several_texts():
    network = small_network()
    windows = random_ids(network, rows=3, length=5)
    weights = np.mean([attention_weights(network, idx[None]).numpy() for idx in windows], axis=0)
    steps = np.subtract.outer(range(5), range(5))  # from each position to each
    before = weights[:, :, steps == 1].mean(axis=2)
    distance = (weights * steps).sum(axis=3)[:, :, 1:].mean(axis=2)
    near, far = telling_heads(network, windows)
    assert before[near] == before.max() and distance[far] == distance.max()


@needs_matplotlib
@pytest.mark.parametrize("extra", [[], ["--all"]])
def test_attention_plot_shows_the_weights_of_the_checkpoint(here, figures, extra, capsys):
    prepare_small()
    main(["attention", "--start=First\n", *extra])
    network, tokenizer = load("out/run/ckpt.pt")
    weights = attention_weights(network, torch.tensor([tokenizer.encode("First\n")]))
    said = re.findall(r"layer (\d), head (\d):", capsys.readouterr().out)
    heads = [(int(layer) - 1, int(head) - 1) for layer, head in said] or [*np.ndindex(2, 2)]
    assert len(heads) == (4 if extra else 2)
    *panels, _ = figures[0].axes  # the last one is the bar that explains the shades
    for axes, (layer, head) in zip(panels, heads, strict=True):
        assert np.array_equal(axes.images[0].get_array(), weights[layer, head])
        assert axes.images[0].get_clim() == (0, 1)
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [label.get_text() for label in labels] == [*"First", "↵"]


@pytest.mark.parametrize("kind", ["bigram", "mlp"])
def test_ancestors_have_embeddings_to_plot_but_no_attention(workspace, kind, figures):
    train.main([*TINY, *NETWORKS[kind], "--max_iters=1"])
    main(["embeddings"])
    with pytest.raises(UserError, match="only a GPT"):
        main(["attention", "--start=a"])
    assert len(figures) == 1


# --- Embeddings, temperature, runs ------------------------------------------------------------


def test_principal_components_equal_eigenvectors_of_covariance():
    vectors = np.random.default_rng(0).normal(size=(30, 6)) * [1, 5, 1, 3, 0.5, 1] + 7
    positions, fractions = principal_components(vectors)
    sizes, directions = np.linalg.eigh(np.cov(vectors.T))  # ascending
    expected = (vectors - vectors.mean(axis=0)) @ directions[:, [5, 4]]
    expected *= np.sign(expected[0] * positions[0])  # the sign of an eigenvector is arbitrary
    assert np.allclose(positions, expected)
    assert np.allclose(fractions, sizes[[5, 4]] / sizes.sum())


@needs_matplotlib
def test_embeddings_plot_shows_components_and_nearest_characters():
    vocab, lengths = "\n aeAB.bcd", np.linspace(1, 50, 10)[:, None]
    unit = np.random.default_rng(1).normal(size=(10, 4))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    positions, _ = principal_components(unit)
    axes, beside = plots.embeddings_figure(unit * lengths, vocab).axes  # lengths do not matter
    for text in axes.texts:
        character = {"↵": "\n", "␣": " "}.get(text.get_text(), text.get_text())
        moved = text.get_position() - positions[vocab.index(character)]
        assert np.linalg.norm(moved) < 0.1 * np.ptp(positions, axis=0).max()
        assert text.get_color() == COLORS[KINDS.index(kind_of(character))]
    assert len(axes.texts) == len(vocab)
    lines = [line for text in beside.texts for line in text.get_text().splitlines()]
    for i, line in enumerate(lines):
        nearest = np.argsort(-unit @ unit[i])[:5]  # by their cosines: first the character itself
        assert line.split() == [plots.visible(vocab[j]) for j in nearest]
    assert len(lines) == len(vocab)


def test_labels_that_overlap_are_moved_apart():
    crowd = np.random.default_rng(0).normal(size=(30, 2))
    moved = spread(np.concatenate([crowd, [[0, 0], [0, 0], [20, 20]]]), 0.5)
    distances = np.linalg.norm(moved[:, None] - moved, axis=2) + np.eye(33)
    assert distances.min() > 0.45
    assert np.allclose(moved[-1], [20, 20], atol=0.01)  # it was alone


@needs_matplotlib
def test_temperature_plot_shows_the_networks_probabilities(here, figures):
    text = "First" * 9  # longer than block_size: the network reads the end of it
    main(["temperature", f"--start={text}", "--temperature", "0", "0.5", "3"])
    network, tokenizer = load("out/run/ckpt.pt")
    with torch.no_grad():
        logits = network(torch.tensor([tokenizer.encode(text[-16:])]))[0][:, -1]  # (1, V)
    order = logits[0].argsort(descending=True)[: plots.MOST_LIKELY]
    settings = [{"temperature": t} for t in (0, 0.5, 3)] + [{"top_k": 3}, {"top_p": 0.9}]
    for axes, setting in zip(figures[0].axes, settings, strict=True):
        p = next_probabilities(logits, **setting)[0]
        *lengths, others = [bar.get_width() for bar in axes.patches]
        assert lengths == pytest.approx(p[order].tolist(), abs=1e-6)
        assert others == pytest.approx(1 - sum(lengths), abs=1e-6)
        bits = -sum(x * math.log2(x) for x in p.tolist() if x > 0)
        assert f"{abs(bits):.2f} bits" in axes.get_title()
    labels = [label.get_text() for label in figures[0].axes[0].get_yticklabels()]
    assert labels[:-1] == [plots.visible(tokenizer.vocab[i]) for i in order]


@needs_matplotlib
def test_runs_plot_shows_both_losses_over_steps_and_seconds(here, figures):
    for name in "abcdefghi":
        shutil.copytree("out/run", name)
    main(["runs", *"abcdefghi"])
    log = read_log("out/run")
    for axes, unit in zip(figures[0].axes, ("step", "seconds"), strict=True):
        lines = axes.get_lines()
        for line, loss in zip(lines, ["val_loss", "train_loss"] * 9, strict=True):
            assert list(line.get_xdata()) == log[unit]
            assert list(line.get_ydata()) == log[loss]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9


@needs_matplotlib
def test_a_plot_is_a_png_where_it_is_wanted(here, capsys):
    main(["temperature", "--start=First"])
    main(["temperature", "--start=First", "--output=new/x.png"])
    paths = capsys.readouterr().out.split()
    assert paths == ["out/run/temperature.png", "new/x.png"]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for path in paths)


@needs_matplotlib
@pytest.mark.parametrize("text", ["abcdefghij", "a" * 40])
def test_every_study_takes_a_tiny_text_or_refuses_it(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "RATE_STEPS", 5)
    Path("tiny.txt").write_text(text)
    prepare_shakespeare.main(["--source=tiny.txt", "--dataset=tiny", "--split=0.5,0.5"])
    train.main([*TINY, "--dataset=tiny", "--max_iters=1", "--block_size=4"])
    for name in ("dry_run", "overfit_batch", "find_lr"):
        main([name, *TINY, "--dataset=tiny", "--block_size=4"])
    for name in ("context", "without", "results"):
        main([name, "out/run", "--dataset=tiny"])
    for name in ("attention", "temperature"):
        main([name, "--start=aaaa"])
    main(["ngrams", "--dataset=tiny"])
    if text[0] == text[1]:
        with pytest.raises(UserError, match="two characters"):
            main(["embeddings"])
    Path("tiny.txt").write_text(text[:10])
    prepare_shakespeare.main(["--source=tiny.txt", "--dataset=tiny", "--split=0.6,0.4"])
    for name in ("context", "without"):
        with pytest.raises(UserError, match="block_size is 4"):
            main([name, "out/run", "--dataset=tiny"])


def test_ngrams_of_a_long_text_count_a_part_of_it_and_say_so(workspace, monkeypatch, capsys):
    monkeypatch.setattr(counting, "MOST_COUNTED", 1000)
    main(["ngrams", "--dataset=small"])
    out = capsys.readouterr().out
    text = Path("data/small/input.txt").read_text()[:1000]
    assert "1,000" in out and out.splitlines()[2].split()[:2] == ["1", str(len(set(text)))]


@needs_matplotlib
def test_context_sorts_the_predictions_of_all_windows(here, capsys):
    prepare_small()
    tokens = Tokens("data/small/val.bin", "cpu")
    main(["context", "out/run", "--dataset=small"])
    network, _ = load("out/run/ckpt.pt")
    losses = []
    for start in range(0, len(tokens) - 16, 4):
        ids = torch.from_numpy(tokens.ids[start : start + 17].astype(np.int64))
        losses.append(-network(ids[None, :-1])[0][0].log_softmax(1)[range(16), ids[1:]])
    means = torch.stack(losses).mean(dim=0).tolist()  # (16,)
    bands = [np.mean(means[start:end]) for start, end in pairwise([0, 1, 2, 4, 8, 16])]
    lines = capsys.readouterr().out.splitlines()
    names, row, counted = [line.split() for line in lines if not line.startswith("note")][-4:-1]
    assert names[:5] == ["1", "2", "3-4", "5-8", "9-16"] and counted[-1] == "counting"
    assert list(map(float, row[:-1])) == pytest.approx(bands, abs=6e-4)


def test_without_a_part_is_the_loss_with_zeros_in_its_place(here, capsys):
    prepare_small()
    tokens = Tokens("data/small/val.bin", "cpu")
    main(["without", "out/run", "--dataset=small"])
    lines = [line.split("without ") for line in capsys.readouterr().out.splitlines()]
    printed = {line[1]: float(line[0].split()[0]) for line in lines if len(line) == 2}
    network, _ = load("out/run/ckpt.pt")
    masks = {"head 1": [0] * 8 + [1] * 8, "head 2": [1] * 8 + [0] * 8}
    masks |= {"all heads": [0] * 16, "feed-forward": [0] * 64}
    assert len(printed) == 2 * len(masks)
    for part, loss in printed.items():
        layer, name = part.removeprefix("layer ").split(", ")
        block, mask = network.blocks[int(layer) - 1], torch.tensor(masks[name])
        module = block.feed_forward if len(mask) == 64 else block.attention
        hook = module.projection.register_forward_pre_hook(lambda _, x, mask=mask: x[0] * mask)
        expected = train.estimate_loss(network, tokens.spread(16, 256))
        assert loss == pytest.approx(expected, abs=6e-4)
        hook.remove()
