"""The plots: the numbers that they show, that they can be drawn, and what is refused."""

from quill.checkpoint import load_checkpoint, network_from
from quill.terminal import UserError

import csv
import io
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY

import plots
import train
from ancestors import build
from model import NetworkConfig, next_probabilities
from prepare_shakespeare import Tokenizer

pytest.importorskip("matplotlib")

COLUMNS = ["step", "tokens", "seconds", "learning_rate", "train_loss", "val_loss"]
ROWS = [
    [10, 640, 0.5, 1e-3, 2.5, 2.6],
    [20, 1280, 1.5, 5e-4, 2.1, 2.3],
    [30, 1920, 2.0, 1e-4, 1.8, 2.4],
]


def drawn(capsys, *arguments):
    """Run the program; the path that it printed, after a look at the file."""
    capsys.readouterr()
    plots.main(list(arguments))
    path = Path(capsys.readouterr().out.rstrip("\n"))
    check_png(path.read_bytes())
    return path


def check_png(data):
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    assert 1000 < len(data) < 100_000


def gpt(position="learned", qk_norm=False, n_layer=3):
    """A GPT with random weights large enough that its attention is far from even."""
    torch.manual_seed(3)
    shape = {"vocab_size": 11, "block_size": 8, "n_layer": n_layer, "n_head": 2, "n_embd": 12}
    config = NetworkConfig(**shape, position=position, qk_norm=qk_norm, attention="written_out")
    network = build(config).eval()
    for parameter in network.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    return network


# --- Losses -----------------------------------------------------------------------------------


def lines(axes):
    """The lines of a panel with an entry in its legend: label -> (xs, ys)."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_the_loss_shows_both_losses_the_rate_and_the_best_step():
    losses, rates = plots.loss_figure(COLUMNS, ROWS).axes
    shown = lines(losses)
    assert shown["training"] == ([10, 20, 30], [2.5, 2.1, 1.8])
    assert shown["validation"] == ([10, 20, 30], [2.6, 2.3, 2.4])
    assert shown["best: 2.3000 at step 20"] == ([20], [2.3])
    assert "resumed" not in shown
    assert list(rates.get_lines()[0].get_ydata()) == [1e-3, 5e-4, 1e-4]


def test_resumes_are_lines_at_their_steps_with_one_entry_in_the_legend():
    losses, rates = plots.loss_figure(COLUMNS, ROWS, resumes=[12, 25]).axes
    for axes in (losses, rates):
        upright = [line.get_xdata() for line in axes.get_lines() if line.get_linestyle() == ":"]
        assert [list(xs) for xs in upright] == [[12, 12], [25, 25]]
    entries = [text.get_text() for text in losses.get_legend().get_texts()]
    assert entries.count("resumed") == 1


@pytest.mark.parametrize(
    ("rows", "resumes"),
    [(ROWS, [12]), (ROWS[:1], []), (ROWS[:1], [3]), ([[0, 0, 0.0, 0.0, math.nan, math.nan]], [])],
)
def test_the_loss_can_be_drawn_from_the_first_evaluation_on(rows, resumes):
    file = io.BytesIO()
    plots.draw_loss(COLUMNS, rows, file, resumes=resumes)
    check_png(file.getvalue())


def write_log(folder, rows):
    Path(folder).mkdir(parents=True)
    with open(Path(folder) / "log.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def test_runs_are_drawn_from_their_logs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_log("out/a", ROWS)
    write_log("out/b$x$", ROWS[:1])
    logs = {name: plots.read_log(name) for name in ("out/a", "out/b$x$")}
    assert logs["out/a"]["train_loss"] == [2.5, 2.1, 1.8]
    figure = plots.runs_figure(logs)
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())
    for axes, xs in zip(figure.axes, ([10, 20, 30], [0.5, 1.5, 2]), strict=True):
        assert lines(axes) == {
            "out/a: 2.3000": (xs, [2.6, 2.3, 2.4]),
            "out/b$x$: 2.6000": (xs[:1], [2.6]),
        }
        training = [line for line in axes.get_lines() if line.get_label().startswith("_")]
        assert [list(line.get_ydata()) for line in training] == [[2.5, 2.1, 1.8], [2.5]]
        assert all(line.get_linewidth() < 1 for line in training)
    assert drawn(capsys, "runs", "out/a", "out/b$x$") == Path("runs.png")
    assert drawn(capsys, "runs", "out/a", "--output=out/a/x.png") == Path("out/a/x.png")


def test_as_many_runs_as_allowed_all_look_different():
    logs = {}
    for i in range(8):
        logs[str(i)] = {"step": [i], "seconds": [i], "train_loss": [1.0], "val_loss": [2.0]}
    drawn_lines = plots.runs_figure(logs).axes[0].get_lines()[::2]
    assert len({line.get_color() for line in drawn_lines}) == len(logs)
    assert len({line.get_marker() for line in drawn_lines}) == len(logs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "no evaluation"),
        (",".join(COLUMNS).encode(), "no evaluation"),
        (b"step,seconds\n1,2\n", "damaged"),
        (b"step,seconds,train_loss,val_loss\n1,2,3\n", "damaged"),
        (b"step,seconds,train_loss,val_loss\n1,2,3,four\n", "damaged"),
        (b"\xff\xfe\x00\x01\n", "damaged"),
    ],
)
def test_a_log_that_is_missing_or_damaged_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        plots.read_log(tmp_path)
    assert str(tmp_path / "log.csv") in str(caught.value)


# --- Attention --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 8])
@pytest.mark.parametrize("position", ["learned", "rotary", "none"])
def test_a_row_of_attention_is_divided_among_the_past_and_nothing_else(position, length):
    idx = torch.randint(11, (1, length))
    weights = plots.attention_weights(gpt(position), idx)
    assert weights.shape == (3, 2, length, length)
    assert torch.equal(weights, weights.tril())
    assert torch.allclose(weights.sum(3), torch.ones(3, 2, length))
    if length > 1:
        assert not torch.allclose(weights[0], weights[1], atol=0.01)


def test_the_weights_are_the_softmax_worked_out_by_hand():
    network = gpt("learned", n_layer=1)
    idx = torch.tensor([[1, 9, 4, 4, 0]])
    with torch.no_grad():
        x = network.token_embedding(idx)[0] + network.position_embedding.weight[:5]  # (T, C)
        normal = (x - x.mean(1, keepdim=True)) / (x.var(1, False, keepdim=True) + 1e-5).sqrt()
        attention = network.blocks[0].attention
        qkv = normal @ attention.query_key_value.weight.T  # (T, 3C)
    by_hand = np.zeros((2, 5, 5))
    for head in range(2):
        for t in range(5):
            q = qkv[t, 6 * head : 6 * head + 6]
            for s in range(t + 1):
                k = qkv[s, 12 + 6 * head : 12 + 6 * head + 6]
                by_hand[head, t, s] = math.exp(q @ k / math.sqrt(6))
            by_hand[head, t] /= by_hand[head, t].sum()
    assert np.abs(by_hand - 0.2).max() > 0.2
    weights = plots.attention_weights(network, idx)
    assert np.allclose(weights[0].numpy(), by_hand, atol=1e-6)


def test_looking_at_the_weights_leaves_the_network_as_it_was():
    network, idx = gpt(), torch.tensor([[1, 2, 3]])
    first = plots.attention_weights(network, idx)
    assert torch.equal(plots.attention_weights(network, idx), first)
    for block in network.blocks:
        assert not block.attention.attention_dropout._forward_hooks


def test_each_heat_map_is_its_layers_and_heads_with_characters_at_the_edges():
    weights = torch.rand(3, 2, 4, 4)
    figure = plots.attention_figure(weights, "a $\n")
    assert len(figure.axes) == 3 * 2 + 1  # and the bar that tells what a shade means
    for i, axes in enumerate(figure.axes[:6]):
        layer, head = divmod(i, 2)
        assert axes.get_title() == f"layer {layer + 1}, head {head + 1}"
        assert np.array_equal(axes.images[0].get_array(), weights[layer, head].numpy())
        assert axes.images[0].get_clim() == (0, 1)
        below = [label.get_text() for label in axes.get_xticklabels()]
        beside = [label.get_text() for label in axes.get_yticklabels()]
        assert below == (["a", "␣", "$", "↵"] if layer == 2 else [])
        assert beside == (["a", "␣", "$", "↵"] if head == 0 else [])


# --- Embeddings -------------------------------------------------------------------------------


def test_characters_are_sorted_into_kinds():
    for characters, kind in (
        ("aeiouéöå", "vowels"),
        ("bcdyzñç", "consonants"),
        ("AEIOUBZÉ", "capitals"),
        (" \n.,;:!?'-$&39—", "punctuation, digits, others"),
    ):
        assert kind in plots.KINDS
        assert {plots.kind_of(character) for character in characters} == {kind}


def test_the_plane_is_that_of_the_covariance_matrix():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(30, 6)) * [1, 5, 1, 3, 0.5, 1] + 7
    positions, fractions = plots.principal_components(vectors)
    sizes, directions = np.linalg.eigh(np.cov(vectors.T))  # ascending
    expected = (vectors - vectors.mean(0)) @ directions[:, [5, 4]]
    for axis in range(2):
        sign = np.sign(positions[0, axis] * expected[0, axis])
        assert np.allclose(positions[:, axis], sign * expected[:, axis])
    assert np.allclose(fractions, sizes[[5, 4]] / sizes.sum())


def test_each_character_is_labeled_at_its_position_and_marked_as_its_kind():
    vocab = "\n aeAB.bcd"
    vectors = np.random.default_rng(1).normal(size=(len(vocab), 4))
    positions, fractions = plots.principal_components(vectors)
    axes = plots.embeddings_figure(vectors, vocab).axes[0]
    assert [text.get_text() for text in axes.texts] == list("↵␣aeAB.bcd")
    assert np.allclose([text.xy for text in axes.texts], positions)
    for kind, points in zip(plots.KINDS, axes.collections, strict=True):
        members = [i for i, character in enumerate(vocab) if plots.kind_of(character) == kind]
        assert points.get_label() == kind
        assert np.allclose(points.get_offsets(), positions[members])
    assert f"({fractions[0]:.0%} of the variance)" in axes.get_xlabel()
    assert f"({fractions[1]:.0%})" in axes.get_ylabel()


def test_labels_stand_apart_and_two_characters_at_one_position_do_no_harm(monkeypatch):
    positions = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [3.1, 0.0]])
    monkeypatch.setattr(plots, "principal_components", lambda vectors: (positions, [0.9, 0.1]))
    texts = plots.embeddings_figure(None, "abcd").axes[0].texts
    offsets = np.array([text.get_position() for text in texts])
    assert np.allclose(offsets, [[-9, 0], [-9, 0], [-9, 0], [9, 0]])


# --- Temperature ------------------------------------------------------------------------------


def test_the_entropy_is_log2_of_how_many_are_as_likely():
    for n in (1, 2, 8):
        even = torch.zeros(2, 16)
        even[:, :n] = 1 / n
        assert plots.entropy(even).tolist() == pytest.approx([math.log2(n)] * 2)


def test_each_panel_shows_one_temperature_its_entropy_and_the_rest_as_one_bar():
    vocab = "abcdefghijklmnopqrst ␣"
    logits = torch.randn(1, len(vocab), generator=torch.Generator().manual_seed(0)) * 2
    order = logits[0].argsort(descending=True)[: plots.LIKELIEST].tolist()
    temperatures = [0.0, 0.5, 1.0, 3.0]
    figure = plots.temperature_figure(logits, vocab, "x$y$\n", temperatures)
    for axes, temperature in zip(figure.axes, temperatures, strict=True):
        p = next_probabilities(logits, temperature)[0].double().numpy()
        lengths = [bar.get_width() for bar in axes.patches]
        assert lengths[:-1] == pytest.approx(p[order], abs=1e-6)
        assert lengths[-1] == pytest.approx(1 - p[order].sum(), abs=1e-6)
        bits = -sum(x * math.log2(x) for x in p if x > 0)
        assert axes.get_title() == f"temperature {temperature:g}\n{bits + 0:.2f} bits"
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [plots.visible(vocab[i]) for i in order] + ["all others"]


# --- The program ------------------------------------------------------------------------------


def test_every_plot_of_a_run_lands_in_its_folder(here, capsys):
    assert drawn(capsys, "embeddings") == Path("out/run/embeddings.png")
    assert drawn(capsys, "attention", "--start=First Cit\n") == Path("out/run/attention.png")
    assert drawn(capsys, "temperature", "--start", "a" * 99) == Path("out/run/temperature.png")
    shutil.copytree("out/run", "other")
    assert drawn(capsys, "embeddings", "--out_dir=other") == Path("other/embeddings.png")
    arguments = ["embeddings", "--checkpoint=other/last.pt", "--output=x.png"]
    assert drawn(capsys, *arguments) == Path("x.png")


def test_what_is_shown_is_the_checkpoints(here, monkeypatch):
    checkpoint = load_checkpoint("out/run/ckpt.pt")
    network = network_from(checkpoint).eval()
    idx = torch.from_numpy(Tokenizer(checkpoint["vocab"]).encode("First" * 9).astype(np.int64))
    with torch.no_grad():
        logits, _ = network(idx[None, -16:])
    seen = {}
    monkeypatch.setattr(plots, "temperature_figure", lambda *given: seen.update(temperature=given))
    monkeypatch.setattr(plots, "embeddings_figure", lambda *given: seen.update(embeddings=given))
    for arguments in (
        ["temperature", "--start", "First" * 9, "--temperatures=0.5,2"],
        ["embeddings"],
    ):
        plots.figure_of_network(plots.read_options(arguments), checkpoint)
    assert torch.allclose(seen["temperature"][0], logits[:, -1], atol=1e-5)
    assert seen["temperature"][1:] == (checkpoint["vocab"], "First" * 9, [0.5, 2.0])
    assert np.array_equal(seen["embeddings"][0], checkpoint["weights"]["token_embedding.weight"])


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("gpt", ["attention", "--start=" + "a" * 17], "17 characters are too many"),
        ("gpt", ["attention", "--start="], "the prompt is empty"),
        ("gpt", ["attention", "--start=\u00ef"], "'\u00ef'"),
        ("gpt", ["embeddings", "--out_dir=nowhere"], "no checkpoint nowhere/ckpt.pt"),
        ("gpt", ["embeddings", "--output=nowhere/x.png"], "cannot write nowhere/x.png"),
        ("gpt", ["runs", "nowhere"], "nowhere/log.csv"),
        ("gpt", ["runs", *"123456789"], "9 runs are too many"),
        ("mlp", ["attention", "--start=a"], "this network is mlp"),
        ("bigram", ["attention", "--start=a"], "this network is bigram"),
        ("bigram", ["embeddings"], "no embeddings"),
    ],
)
def test_what_cannot_be_drawn_is_refused(workspace, network, arguments, message):
    train.main([*TINY, f"--network={network}", "--max_iters=1"])
    with pytest.raises(UserError) as caught:
        plots.main(arguments)
    assert message in str(caught.value)
    assert not list(workspace.glob("**/*.tmp")) and not list(workspace.glob("**/attention.png"))


def test_a_prompt_that_fits_the_network_can_be_too_long_to_read(workspace, monkeypatch):
    train.main([*TINY, "--block_size=64", "--max_iters=1", "--attention=fused"])
    monkeypatch.setattr(plots, "attention_figure", lambda weights, prompt: weights.shape)
    checkpoint = load_checkpoint("out/run/ckpt.pt")
    options = plots.read_options(["attention", "--start=" + "a" * 40])
    assert plots.figure_of_network(options, checkpoint) == (2, 2, 40, 40)
    options.start += "a"
    with pytest.raises(UserError, match="more than 40"):
        plots.figure_of_network(options, checkpoint)


def test_a_network_of_thousands_of_heads_is_refused_at_once(workspace):
    train.main([*TINY, "--n_embd=128", "--n_head=128", "--n_layer=1", "--max_iters=1"])
    with pytest.raises(
        UserError, match="128 attention heads, too many for one plot: 64 is the most"
    ):
        plots.main(["attention", "--start=a"])


def test_without_matplotlib_it_says_how_to_get_it(tmp_path, monkeypatch):
    write_log(tmp_path / "a", ROWS)
    monkeypatch.setattr(plots, "available", lambda: False)
    with pytest.raises(UserError, match="matplotlib is missing: pip install matplotlib"):
        plots.main(["runs", str(tmp_path / "a")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PLOT"),
        (["atention"], "'atention'"),
        (["attention"], "--start"),
        (["attention", "--start=a", "--outdir=x"], "did you mean '--out_dir'"),
        (["temperature", "--start=a", "--temperatures=1,y"], "--temperatures"),
        (["temperature", "--start=a", "--temperatures=1,-1"], "give numbers of 0 or above"),
        (["temperature", "--start=a", "--temperatures=nan"], "give numbers of 0 or above"),
        (["temperature", "--start=a", "--temperatures=" + ",".join("1" * 400)], "400 are too many"),
        (["runs"], "RUN"),
    ],
)
def test_a_usage_error_is_one_line_and_ends_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        plots.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize("arguments", [["--help"], ["runs", "--help"], ["temperature", "--help"]])
def test_help_is_given_for_the_whole_and_for_each_plot(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        plots.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 0 and err == ""
    assert out.startswith(f"usage: {' '.join(['plots.py', *arguments[:-1]])} ")


def test_an_error_is_one_line_and_ends_with_1(tmp_path):
    ended = subprocess.run(
        [sys.executable, ROOT / "plots.py", "runs", "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
