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
    assert 1000 < len(data) < 150_000


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


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made from now on."""
    made, make = [], plots.empty_figure

    def keep(*arguments):
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(plots, "empty_figure", keep)
    return made


def test_the_loss_shows_both_losses_the_rate_and_the_best_step(figures):
    plots.draw_loss(COLUMNS, ROWS, io.BytesIO())
    losses, rates = figures[0].axes
    shown = lines(losses)
    assert shown["training"] == ([10, 20, 30], [2.5, 2.1, 1.8])
    assert shown["validation"] == ([10, 20, 30], [2.6, 2.3, 2.4])
    assert shown["best: 2.3000 at step 20"] == ([20], [2.3])
    assert "resumed" not in shown
    assert list(rates.get_lines()[0].get_ydata()) == [1e-3, 5e-4, 1e-4]


def test_resumes_are_lines_at_their_steps_with_one_entry_in_the_legend(figures):
    plots.draw_loss(COLUMNS, ROWS, io.BytesIO(), resumes=[12, 25])
    losses, rates = figures[0].axes
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


def levels(axes):
    """The heights of the level lines across a panel."""
    ends = [(list(line.get_xdata()), line.get_ydata()[0]) for line in axes.get_lines()]
    return [y for xs, y in ends if xs == [0, 1]]


def test_a_single_evaluation_is_a_level_across_the_plot(figures):
    plots.draw_loss(COLUMNS, ROWS[:1], io.BytesIO())
    assert levels(figures[0].axes[0]) == [2.5, 2.6]
    plots.draw_loss(COLUMNS, ROWS, io.BytesIO())
    assert levels(figures[1].axes[0]) == []


def test_the_lowest_loss_and_a_third_of_its_rate_are_marked(figures):
    plots.draw_rates([1e-4, 1e-3, 1e-2, 1e-1], [3.0, 2.5, 2.0, 4.0], 1e-2 / 3, io.BytesIO())
    shown = lines(figures[0].axes[0])
    assert shown["lowest at 1.0e-02"] == ([1e-2], [2.0])
    assert shown["a third of that: 3.3e-03"][0] == [1e-2 / 3] * 2


@pytest.mark.parametrize("plot", [plots.draw_loss, plots.draw_rates])
def test_every_plot_has_a_title(plot, figures):
    rates = plot is plots.draw_rates
    plot(*([[1, 2], [1, 2], 1] if rates else [COLUMNS, ROWS]), io.BytesIO())
    assert figures[0].get_suptitle()


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
        thin = [line for line in axes.get_lines() if line.get_label().startswith("_")]
        training = [line for line in thin if list(line.get_xdata()) != [0, 1]]
        assert [list(line.get_ydata()) for line in training] == [[2.5, 2.1, 1.8], [2.5]]
        assert all(line.get_linewidth() == 1 for line in training)
        assert levels(axes) == [2.6]  # of the run with one evaluation
    assert drawn(capsys, "runs", "out/a", "out/b$x$") == Path("runs.png")
    assert drawn(capsys, "runs", "out/a", "--output=out/a/x.png") == Path("out/a/x.png")


def test_as_many_runs_as_allowed_all_look_different():
    logs = {}
    for i in range(8):
        logs[str(i)] = {"step": [i], "seconds": [i], "train_loss": [1.0], "val_loss": [2.0]}
    drawn_lines = plots.runs_figure(logs).axes[0].get_lines()[::3]  # thick, level, thin
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


HEADS = {"all": [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)], "two": [(2, 1), (0, 0)]}


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_each_heat_map_is_its_layers_and_heads_with_characters_at_both_edges(heads):
    weights = torch.rand(3, 2, 4, 4)
    weights[:, :, 3, 1] = 2  # what the last character looks at most
    figure = plots.attention_figure(weights, "a $\n", heads)
    assert len(figure.axes) == len(heads) + 1  # and the bar that tells what a shade means
    for axes, (layer, head) in zip(figure.axes, heads, strict=False):
        title = f"layer {layer + 1}, head {head + 1}:\nthe last ↵ looks most at ␣"
        assert axes.get_title() == title
        assert np.array_equal(axes.images[0].get_array(), weights[layer, head].numpy())
        assert axes.images[0].get_clim() == (0, 1)
        for edge in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [label.get_text() for label in edge] == ["a", "␣", "$", "↵"]
        [frame] = axes.patches
        assert (frame.get_y(), frame.get_height()) == (2.5, 1)  # around the last row


def test_the_telling_heads_are_the_one_that_looks_next_door_and_the_one_that_looks_far():
    last = torch.tensor(
        [
            [[0.1, 0.1, 0.1, 0.7], [0.1, 0.1, 0.6, 0.2]],  # itself, the one before
            [[0.6, 0.0, 0.3, 0.1], [0.0, 0.8, 0.2, 0.0]],  # 2.1 back on average, 1.8 back
        ]
    )
    weights = torch.rand(2, 2, 4, 4)  # the other rows do not matter
    weights[:, :, 3] = last
    assert plots.telling_heads(weights) == [(0, 1), (1, 0)]
    assert plots.telling_heads(torch.ones(2, 2, 1, 1)) == [(0, 0), (0, 0)]  # a single character


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


def test_each_character_stands_near_its_position_in_the_color_of_its_kind():
    vocab = "\n aeAB.bcd"
    vectors = np.random.default_rng(1).normal(size=(len(vocab), 4))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    positions, fractions = plots.principal_components(unit)
    axes, beside = plots.embeddings_figure(vectors, vocab).axes
    assert sorted(text.get_text() for text in axes.texts) == sorted("↵␣aeAB.bcd")
    width = np.ptp(positions, axis=0).max()
    for text in axes.texts:
        character = {"↵": "\n", "␣": " "}.get(text.get_text(), text.get_text())
        moved = text.get_position() - positions[vocab.index(character)]
        assert np.linalg.norm(moved) < 0.1 * width
        assert text.get_color() == plots.COLORS[plots.KINDS.index(plots.kind_of(character))]
    assert [points.get_label() for points in axes.collections] == plots.KINDS
    assert f"({fractions[0]:.0%} of the variance)" in axes.get_xlabel()
    assert f"({fractions[1]:.0%})" in axes.get_ylabel()


def test_the_size_of_a_vector_does_not_move_its_character():
    vectors = np.random.default_rng(1).normal(size=(8, 4))
    longer = vectors * np.linspace(1, 50, 8)[:, None]
    for one, other in zip(
        plots.embeddings_figure(vectors, "abcdefgh").axes[0].texts,
        plots.embeddings_figure(longer, "abcdefgh").axes[0].texts,
        strict=True,
    ):
        assert np.allclose(one.get_position(), other.get_position(), atol=1e-6)


def test_the_neighbors_are_those_with_the_largest_cosines():
    vectors = np.array([[1, 0], [9, 1], [1, 1], [0, 1], [-1, 0], [0, -1.1]])
    lines = plots.embeddings_figure(vectors, "abcdef").axes[1].texts
    lines = [line for text in lines for line in text.get_text().splitlines()]
    assert lines[0] == "a  b c d f"  # cosines 0.99, 0.71, 0, 0; e has -1
    assert lines[4] == "e  d f c b"
    assert len(lines) == 6


def test_labels_are_moved_apart_and_those_that_stand_apart_stay():
    crowd = np.random.default_rng(0).normal(size=(30, 2))
    positions = np.concatenate([crowd, [[0, 0], [0, 0], [20, 20]]])
    moved = plots.spread(positions, 0.5)
    distances = np.linalg.norm(moved[:, None] - moved, axis=2) + np.eye(33)
    assert distances.min() > 0.45
    assert np.allclose(moved[-1], [20, 20], atol=0.01)


# --- Temperature ------------------------------------------------------------------------------


def test_each_panel_shows_one_setting_its_entropy_and_the_rest_as_one_bar():
    vocab = "abcdefghijklmnopqrst ␣"
    logits = torch.randn(1, len(vocab), generator=torch.Generator().manual_seed(0)) * 2
    order = logits[0].argsort(descending=True)[: plots.LIKELIEST].tolist()
    settings = [{"temperature": number} for number in (0.0, 0.5, 3.0)]
    settings += [{"top_k": 3}, {"top_p": 0.9}]
    figure = plots.temperature_figure(logits, vocab, "x$y$\n", settings)
    for axes, setting in zip(figure.axes, settings, strict=True):
        p = next_probabilities(logits, **setting)[0].double().numpy()
        lengths = [bar.get_width() for bar in axes.patches]
        assert lengths[:-1] == pytest.approx(p[order], abs=1e-6)
        assert lengths[-1] == pytest.approx(1 - p[order].sum(), abs=1e-6)
        bits = -sum(x * math.log2(x) for x in p if x > 0)
        [(name, value)] = setting.items()
        assert axes.get_title() == f"{name} {value:g}\n{bits + 0:.2f} bits"
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
    settings = [{"temperature": 0.5}, {"temperature": 2.0}, *plots.CUTS]
    assert seen["temperature"][1:] == (checkpoint["vocab"], "First" * 9, settings)
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
    monkeypatch.setattr(plots, "attention_figure", lambda *given: given)
    checkpoint = load_checkpoint("out/run/ckpt.pt")
    options = plots.read_options(["attention", "--start=" + "a" * 40])
    weights, prompt, heads = plots.figure_of_network(options, checkpoint)
    assert weights.shape == (2, 2, 40, 40) and len(prompt) == 40 and len(heads) == 2
    options.all = True
    assert plots.figure_of_network(options, checkpoint)[2] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    options.start += "a"
    with pytest.raises(UserError, match="41 characters are too many: 40 is the most"):
        plots.figure_of_network(options, checkpoint)


def test_all_of_a_hundred_heads_are_refused_and_two_of_them_are_not(workspace, capsys):
    train.main([*TINY, "--n_embd=128", "--n_head=128", "--n_layer=1", "--max_iters=1"])
    with pytest.raises(UserError, match="128 heads are too many for one plot: 64 is the most"):
        plots.main(["attention", "--start=a", "--all"])
    assert drawn(capsys, "attention", "--start=ab") == Path("out/run/attention.png")


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
        (["attention"], "attention needs a prompt, as in --start"),
        (["temperature"], "temperature needs a prompt, as in --start"),
        (["attention", "--start=a", "--outdir=x"], "did you mean '--out_dir'"),
        (["temperature", "--start=a", "--temperatures=1,y"], "--temperatures"),
        (["temperature", "--start=a", "--temperatures=1,-1"], "give numbers of 0 or above"),
        (["temperature", "--start=a", "--temperatures=nan"], "give numbers of 0 or above"),
        (["temperature", "--start=a", "--temperatures=" + ",".join("1" * 400)], "400 are too many"),
        (["runs"], "runs needs folders of runs"),
        (["embeddings", "out/a"], "for the other plots, use --out_dir"),
    ],
)
def test_a_usage_error_is_one_line_and_ends_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        plots.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_help_lists_the_plots_and_their_options(capsys):
    with pytest.raises(SystemExit) as ended:
        plots.main(["--help"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0 and err == ""
    assert out.startswith("usage: python plots.py PLOT")
    for name in (*plots.PLOTS, "--start", "--all", "--temperatures", "--out_dir"):
        assert name in out


def test_an_error_is_one_line_and_ends_with_1(tmp_path):
    ended = subprocess.run(
        [sys.executable, ROOT / "plots.py", "runs", "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
