"""Training: the schedule, the optimizers, the batches, a step, evaluation, and a whole run."""

from quill import checkpoint
from quill.checkpoint import load_checkpoint, network_from
from quill.settings import Config
from quill.terminal import UserError

import itertools
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, log_rows, stop_at, tiny_run

import prepare_shakespeare
import train
from model import GPT, NetworkConfig
from train import build_optimizers, learning_rate_at, set_learning_rate

# --- The learning rate ------------------------------------------------------------------------


def rates(**changes):
    settings = {"learning_rate": 1.0, "min_lr": 0.1, "warmup_iters": 10, "max_iters": 110}
    config = Config(**{**settings, **changes})
    return [learning_rate_at(step, config) for step in range(130)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_warms_up_then_decays_to_its_minimum_and_stays(schedule):
    rate = rates(lr_schedule=schedule)
    assert rate[0] == pytest.approx(1 / 11)
    assert np.diff(rate[:11]) == pytest.approx(1 / 11)
    assert rate[10] == 1.0
    assert rate[60] == pytest.approx(0.55)
    assert (np.diff(rate[10:111]) < 0).all()
    assert rate[110:] == pytest.approx([0.1] * 20)


def test_cosine_is_nanogpts():
    rate = rates(lr_decay_iters=90)
    for step in range(10, 90):
        ratio = (step - 10) / 80
        assert rate[step] == pytest.approx(0.1 + 0.5 * (1 + math.cos(math.pi * ratio)) * 0.9)
    assert rate[90:] == pytest.approx([0.1] * 40)


def test_without_decay_lr_the_rate_stays_after_the_warm_up_as_in_nanogpt():
    assert rates(decay_lr=False) == rates(lr_schedule="constant")


def test_a_constant_rate_stays_and_no_warm_up_starts_at_the_peak():
    assert rates(lr_schedule="constant")[10:] == [1.0] * 120
    assert rates(warmup_iters=0)[0] == 1.0


@pytest.mark.parametrize("warmup", [0, 5, 110, 200])
def test_any_warm_up_gives_rates_between_zero_and_the_peak(warmup):
    assert all(0 < rate <= 1 for rate in rates(warmup_iters=warmup, max_iters=110))


def test_muons_rate_follows_in_proportion(workspace):
    run = tiny_run("--optimizer=muon", "--learning_rate=0.01", "--muon_learning_rate=0.03")
    for step in range(9):
        rate = learning_rate_at(step, run.config)
        set_learning_rate(run.optimizers, rate)
        adamw, muon = (optimizer.param_groups[0]["lr"] for optimizer in run.optimizers)
        assert adamw == rate
        assert muon == pytest.approx(3 * rate)


# --- The optimizers ---------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_parameter_has_one_optimizer_and_only_matrices_decay(optimizer):
    network = GPT(NetworkConfig(vocab_size=11, bias=True))
    config = Config(optimizer=optimizer, weight_decay=0.3)
    decays, kinds = {}, {}
    for built in build_optimizers(network, config, torch.float32):
        for group in built.param_groups:
            for parameter in group["params"]:
                assert parameter not in decays
                decays[parameter] = group["weight_decay"]
                kinds[parameter] = type(built).__name__
    for name, parameter in network.named_parameters():
        assert decays.pop(parameter) == (0.3 if parameter.dim() == 2 else 0.0), name
        in_muon = optimizer == "muon" and name.startswith("blocks.") and parameter.dim() == 2
        assert kinds[parameter] == ("Muon" if in_muon else "AdamW"), name
    assert not decays


def test_accumulated_batches_equal_one_large_batch(workspace):
    gradients, losses = [], []
    for changes in (
        ["--batch_size=12", "--gradient_accumulation_steps=1"],
        ["--batch_size=4", "--gradient_accumulation_steps=3"],
    ):
        run = tiny_run(*changes)
        losses.append(train.train_step(run, run.network, train.training_windows(run))[0].item())
        gradients.append(torch.cat([p.grad.flatten() for p in run.network.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_one_batch_can_be_memorized(workspace):
    run = tiny_run("--learning_rate=1e-2", "--n_embd=32")
    windows = train.training_windows(run)
    for _ in range(150):
        loss, _ = train.train_step(run, run.network, windows)
    assert loss.item() < 0.05


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_lowers_the_validation_loss(workspace, optimizer):
    train.main([*TINY, "--max_iters=60", "--eval_interval=30", f"--optimizer={optimizer}"])
    losses = [float(row["val_loss"]) for row in log_rows("out/run")]
    assert losses[1] < losses[0] < math.log(65)


def test_gradients_are_clipped_to_the_limit(workspace, monkeypatch):
    run = tiny_run("--grad_clip=0.01")
    norms = []
    adamw = run.optimizers[0]
    adamw.register_step_pre_hook(
        lambda *_: norms.append(
            torch.nn.utils.get_total_norm([p.grad for p in run.network.parameters()]).item()
        )
    )
    train.train_step(run, run.network, train.training_windows(run))
    assert norms == [pytest.approx(0.01, rel=1e-3)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(workspace, optimizer):
    run = tiny_run(f"--optimizer={optimizer}")
    before = {name: w.clone() for name, w in run.network.state_dict().items()}
    with torch.no_grad():
        run.network.norm.weight.fill_(math.inf)
    _, norm = train.train_step(run, run.network, train.training_windows(run))
    with pytest.raises(UserError, match="learning rate"):
        train.check_finite(run, norm)
    for name, w in run.network.state_dict().items():
        assert name == "norm.weight" or torch.equal(w, before[name]), name


# --- The data ---------------------------------------------------------------------------------


def test_a_batch_follows_from_seed_and_step_alone(workspace):
    def windows(step, *changes):
        run = tiny_run(*changes)
        run.progress.step = step
        return train.training_windows(run)

    assert torch.equal(windows(5), windows(5))
    assert not torch.equal(windows(5), windows(6))
    assert not torch.equal(windows(5), windows(5, "--seed=2"))
    accumulated = windows(5, "--batch_size=2", "--gradient_accumulation_steps=2")
    assert torch.equal(windows(5), accumulated)


def test_training_draws_every_window_and_never_reads_past_the_end(workspace):
    (workspace / "tiny.txt").write_text("abcdefghij" * 3)
    prepare_shakespeare.main(["--source=tiny.txt", "--dataset=tiny", "--split=0.7,0.3"])
    run = tiny_run("--dataset=tiny", "--block_size=16", "--batch_size=500")
    seen = {tuple(row) for row in train.training_windows(run).tolist()}
    assert len(seen) == 21 - 16


def test_validation_covers_the_whole_split_once_whatever_the_batches(workspace, monkeypatch):
    run = tiny_run()
    run.network.eval()
    ids = torch.from_numpy(np.fromfile("data/small/val.bin", dtype="<u2").astype(np.int64))
    total = 0.0
    for start in range(0, len(ids) - 1, 16):
        window = ids[start : start + 17]
        _, loss = run.network(window[None, :-1], window[None, 1:])
        total += loss.item() * (len(window) - 1)
    starts = np.arange(0, len(ids) - 1, 16)
    for eval_tokens in (16, 100, 10**6):
        monkeypatch.setattr(train, "EVAL_TOKENS", eval_tokens)
        assert train.mean_loss(run, "val", starts) == pytest.approx(total / (len(ids) - 1))


def test_evaluation_uses_no_dropout_and_gives_the_same_digits_again(workspace):
    run = tiny_run("--dropout=0.5")
    starts = np.arange(0, len(run.data["val"]) - 1, 16)
    assert train.mean_loss(run, "val", starts) == train.mean_loss(run, "val", starts)
    assert run.network.training


# --- The run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        ["--dropout=0.2"],
        ["--dropout=0.2", "--dtype=bfloat16", "--optimizer=muon"],
        ["--optimizer=muon", "--gradient_accumulation_steps=2", "--position=rotary"],
    ],
)
def test_a_run_stopped_and_resumed_twice_ends_with_the_same_bytes(workspace, monkeypatch, changes):
    train.main([*TINY, *changes, "--out_dir=whole"])
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SystemExit, match="130"):
            train.main([*TINY, *changes, "--out_dir=parts"])
    with monkeypatch.context() as patch:
        stop_at(patch, 6, signal.SIGTERM)
        with pytest.raises(SystemExit, match="143"):
            train.main(["--out_dir=parts", "--init_from=resume"])
    train.main(["--out_dir=parts", "--init_from=resume"])

    for name in ("last.pt", "ckpt.pt"):
        whole, parts = load_checkpoint(f"whole/{name}"), load_checkpoint(f"parts/{name}")
        for key, value in whole["weights"].items():
            assert value.numpy().tobytes() == parts["weights"][key].numpy().tobytes(), key
    for a, b in zip(log_rows("whole"), log_rows("parts"), strict=True):
        assert a.pop("seconds") and b.pop("seconds")
        assert a == b


def test_log_csv_tells_of_each_evaluation(workspace):
    train.main(TINY)
    rows = log_rows("out/run")
    assert [int(row["step"]) for row in rows] == [3, 6, 9]
    assert [int(row["tokens"]) for row in rows] == [3 * 64, 6 * 64, 9 * 64]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    config, _ = train.parse_command_line(TINY)
    assert float(rows[1]["learning_rate"]) == learning_rate_at(5, config)
    best = load_checkpoint("out/run/ckpt.pt")["progress"]["best_val_loss"]
    assert best == min(float(row["val_loss"]) for row in rows)
    png = Path("out/run/loss.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_ckpt_holds_the_best_weights_and_last_the_newest(workspace):
    train.main([*TINY, "--learning_rate=0.01", "--max_iters=30"])
    ruinous = ["--learning_rate=10", "--min_lr=10", "--grad_clip=0", "--max_iters=33"]
    train.main(["--init_from=resume", *ruinous])
    rows = log_rows("out/run")
    losses = [float(row["val_loss"]) for row in rows]
    best = losses.index(min(losses))
    assert best < len(losses) - 1
    run = tiny_run()
    for name, wanted in (("ckpt.pt", losses[best]), ("last.pt", losses[-1])):
        run.network = network_from(load_checkpoint(f"out/run/{name}"))
        starts = np.arange(0, len(run.data["val"]) - 1, 16)
        assert train.mean_loss(run, "val", starts) == pytest.approx(wanted, abs=1e-6)


def test_fine_tuning_goes_on_from_the_weights_with_its_own_schedule(workspace):
    train.main(TINY)
    start = load_checkpoint("out/run/ckpt.pt")["weights"]
    train.main(
        ["--init_from=out/run/ckpt.pt", "--dataset=small", "--out_dir=out/tuned"]
        + ["--max_iters=2", "--learning_rate=1e-9", "--min_lr=0", "--eval_iters=1"]
    )
    tuned = load_checkpoint("out/tuned/ckpt.pt")
    assert tuned["progress"]["step"] <= 2
    assert tuned["network"]["n_embd"] == 16
    for name, w in start.items():
        torch.testing.assert_close(tuned["weights"][name], w, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--n_embd=10", "--n_head=4"],
            "cannot build this network: n_embd must be a multiple of n_head",
        ),
        (["--block_size=100000"], "too few for block_size 100000"),
        (["--dataset=nowhere"], "no data/nowhere/meta.json"),
        (["--device=nonsense"], "device 'nonsense' cannot be used here"),
        (["--init_from=nowhere.pt"], "no checkpoint nowhere.pt"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(workspace, change, message):
    with pytest.raises(UserError, match=message):
        train.main([*TINY, *change])
    assert not Path("out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_as_the_cpu_does(workspace):
    train.main([*TINY, "--dtype=float32", "--out_dir=cpu"])
    train.main([*TINY, "--dtype=float32", "--device=cuda", "--compile=False", "--out_dir=gpu"])
    for a, b in zip(log_rows("cpu"), log_rows("gpu"), strict=True):
        assert float(a["val_loss"]) == pytest.approx(float(b["val_loss"]), abs=1e-3)


# --- Nothing is lost --------------------------------------------------------------------------


def test_auto_starts_a_run_and_goes_on_with_it(workspace, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SystemExit):
            train.main([*TINY, "--init_from=auto"])
    train.main([*TINY, "--init_from=auto"])
    assert "resumed at step 5" in capsys.readouterr().out


def test_checkpoints_come_between_evaluations_too(workspace, monkeypatch):
    steps = []
    save = checkpoint.save_for_resume
    monkeypatch.setattr(
        checkpoint, "save_for_resume", lambda run: (steps.append(run.progress.step), save(run))
    )
    train.main([*TINY, "--eval_interval=4", "--checkpoint_interval=3"])
    assert steps == [0, 3, 4, 6, 8, 9]


# --- Divergence, and what no plot is worth ----------------------------------------------------


@pytest.mark.parametrize("changes", [[], ["--checkpoint_interval=1"], ["--eval_interval=1"]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_run_that_diverges_ends_in_one_line_and_saves_nothing_of_it(workspace, changes, dtype):
    ruinous = ["--learning_rate=1e30", "--min_lr=1e30", "--warmup_iters=0", "--grad_clip=0"]
    with pytest.raises(UserError, match="no longer a finite number") as caught:
        train.main([*TINY, *ruinous, *changes, f"--dtype={dtype}", "--max_iters=60"])
    assert "the best weights so far" not in str(caught.value)  # there are none
    saved = load_checkpoint("out/run/last.pt")  # which checks that all are finite
    run = tiny_run()
    run.network = network_from(saved)
    assert math.isfinite(train.mean_loss(run, "val", train.split_starts(run, "val")))


def test_float16_does_not_train_on_when_every_step_is_skipped(workspace, monkeypatch):
    run_step = train.train_step

    def overflowing(run, forward, windows):
        with torch.no_grad():
            run.network.norm.weight.fill_(1e5)  # beyond float16
        return run_step(run, forward, windows)

    monkeypatch.setattr(train, "train_step", overflowing)
    long = ["--dtype=float16", "--max_iters=500", "--eval_interval=500"]
    with pytest.raises(UserError, match="^step [1-9][0-9]?: the loss or its gradient"):
        train.main([*TINY, *long])


def test_a_run_that_diverges_late_names_the_best_weights(workspace, monkeypatch):
    step = train.train_step

    def ruined(run, forward, windows):
        if run.progress.step == 5:
            with torch.no_grad():
                run.network.norm.weight.fill_(math.nan)
        return step(run, forward, windows)

    monkeypatch.setattr(train, "train_step", ruined)
    with pytest.raises(UserError, match="the best weights so far are in out/run/ckpt.pt"):
        train.main(TINY)


def test_a_single_evaluation_is_not_plotted(workspace):
    train.main([*TINY, "--eval_interval=9"])
    assert len(log_rows("out/run")) == 1
    assert not Path("out/run/loss.png").exists()
    train.main(["--out_dir=out/run", "--init_from=resume", "--max_iters=10"])
    assert len(log_rows("out/run")) == 2
    assert Path("out/run/loss.png").exists()


def test_no_plot_is_worth_a_run(workspace, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no such backend")

    monkeypatch.setattr(train.plots, "draw_loss", fail)
    train.main(TINY)
    said = capsys.readouterr().out
    assert said.count("no loss.png from now on: RuntimeError: no such backend") == 1
    assert "done: 9 steps" in said
    assert not Path("out/run/loss.png").exists()


def test_muon_without_a_learning_rate_is_refused(workspace):
    with pytest.raises(UserError, match="needs a learning_rate above 0"):
        train.main([*TINY, "--optimizer=muon", "--learning_rate=0"])
    assert not Path("out").exists()


def test_too_little_memory_is_one_line(workspace, monkeypatch):
    with pytest.raises(UserError, match="memory"):
        train.main([*TINY, "--n_embd=1000000000000"])
    monkeypatch.setattr(train, "training_windows", lambda run: np.empty(10**15))
    with pytest.raises(UserError, match="not enough memory"):
        train.main(TINY)


def test_fine_tuning_killed_before_its_first_evaluation_has_it_all_the_same(workspace, monkeypatch):
    train.main([*TINY, "--out_dir=source"])
    tune = ["--init_from=source/ckpt.pt", "--dataset=small", "--out_dir=tuned", "--max_iters=4"]
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(train, "evaluate", lambda run, rate: 1 / 0)
        train.main(tune)
    train.main(["--init_from=resume", "--out_dir=tuned"])
    assert [int(row["step"]) for row in log_rows("tuned")] == [0, 4]


@pytest.mark.parametrize(("seconds", "plotted"), [(0.2, [6, 18]), (0.6, [6, 12, 18])])
def test_losses_are_plotted_once_a_second_at_most_and_at_the_end(
    workspace, monkeypatch, seconds, plotted
):
    steps = []
    monkeypatch.setattr(train.plots, "draw_loss", lambda _, rows, *rest: steps.append(rows[-1][0]))
    clock = itertools.count(start=100, step=seconds)  # it is read at each evaluation
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    train.main([*TINY, "--max_iters=18"])  # an evaluation every 3 steps
    assert steps == plotted
