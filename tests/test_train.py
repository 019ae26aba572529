"""train.py: the schedule, the batches, the optimizers, a step, an evaluation, and whole runs."""

import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, outcome, stop_at, tiny_config, tiny_training

import prepare_shakespeare
import train
from model import GPT
from quill import dataset
from quill.checkpoint import load, read_checkpoint
from quill.dataset import Tokens
from quill.log import read_log
from quill.muon import Muon
from quill.terminal import UserError
from train import Config, estimate_loss, get_batch, lr_factor, train_step

CPU = torch.device("cpu")

# --- The settings -----------------------------------------------------------------------------

# nanoGPT's config/train_shakespeare_char.py and its command line for a laptop, as facts.
NANOGPTS_RECIPE = """
out_dir = "out-shakespeare-char"; eval_interval = 250; eval_iters = 200; log_interval = 10
always_save_checkpoint = False
wandb_log = False; wandb_project = "shakespeare-char"; wandb_run_name = "mini-gpt"
dataset = "shakespeare_char"; gradient_accumulation_steps = 1; batch_size = 64; block_size = 256
n_layer = 6; n_head = 6; n_embd = 384; dropout = 0.2
learning_rate = 1e-3; max_iters = 5000; lr_decay_iters = 5000; min_lr = 1e-4; beta2 = 0.99
warmup_iters = 100
"""
NANOGPTS_COMMAND = """--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64
    --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000
    --dropout=0.0 --wandb_log=True --backend=nccl"""


def test_nanogpts_recipe_and_command_line_run(workspace, capsys):
    Path("shakespeare.py").write_text(NANOGPTS_RECIPE)
    command = ["shakespeare.py", *NANOGPTS_COMMAND.split()]
    capsys.readouterr()
    train.main([*command, "--dataset=small", "--max_iters=1", "--eval_iters=1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert all(name in line for name in train.NANOGPTS)
    assert read_log("out-shakespeare-char")["step"] == [0, 1]


def test_what_does_not_fit_is_refused_before_the_first_step(workspace):
    for change in (["--n_head=3"], ["--network=bigram", "--optimizer=muon"]):
        with pytest.raises(UserError, match="n_head 3|bigram"):
            train.main([*TINY, *change])
    assert not Path("out/run/last.pt").exists()


# --- The batches ------------------------------------------------------------------------------


def test_a_batch_follows_from_seed_and_step_alone(workspace):
    tokens = Tokens("data/small/train.bin", CPU)
    batch = get_batch(tokens, tiny_config(), 5)
    assert batch.shape == (4, 17)
    assert torch.equal(batch, get_batch(tokens, tiny_config("--n_layer=1", "--dropout=0.5"), 5))
    in_two = tiny_config("--batch_size=2", "--gradient_accumulation_steps=2")
    assert torch.equal(batch, get_batch(tokens, in_two, 5))
    assert not torch.equal(batch, get_batch(tokens, tiny_config(), 6))
    assert not torch.equal(batch, get_batch(tokens, tiny_config("--seed=2"), 5))


def test_a_batch_draws_every_window_of_the_text_and_nothing_else(workspace):
    np.arange(21, dtype="<u2").tofile("ids.bin")
    batch = get_batch(Tokens("ids.bin", CPU), tiny_config("--batch_size=500"), 0)
    windows = {tuple(range(start, start + 17)) for start in range(5)}
    assert {tuple(row) for row in batch.tolist()} == windows


@pytest.mark.parametrize("overlap", [0, 8])
@pytest.mark.parametrize("length", [2, 16, 17, 18, 25, 26, 1000])
def test_windows_in_order_count_each_character_once(workspace, length, overlap):
    np.arange(length, dtype="<u2").tofile("ids.bin")
    batches = list(Tokens("ids.bin", CPU).in_order(16, overlap))
    if length > overlap + 1:  # the first `overlap` predictions of a window do not count
        counted = torch.cat([batch[:, 1 + overlap :].flatten() for batch in batches])
        assert torch.equal(counted, torch.arange(1 + overlap, length))
    assert all((b[:, 1:] == b[:, :-1] + 1).all() for b in batches)


def test_windows_are_spread_evenly_over_a_long_split(workspace, monkeypatch, capsys):
    np.arange(1000, dtype="<u2").tofile("ids.bin")
    monkeypatch.setattr(dataset, "MOST_EVALUATED", 160)
    windows = torch.cat(list(Tokens("ids.bin", CPU).in_order(16)))
    assert windows.shape == (10, 17)
    assert windows[0, 0] == 0 and windows[-1, -1] == 999
    assert windows[:, 0].diff().min() >= 109 and windows[:, 0].diff().max() <= 110
    assert " 160 " in str(dataset.open_dataset("small"))


# --- The learning rate ------------------------------------------------------------------------


def factors(**changes):
    settings = {"learning_rate": 2.0, "min_lr": 0.2, "warmup_iters": 10, "max_iters": 110}
    config = Config(**{**settings, **changes})
    return [lr_factor(step, config) for step in range(130)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_rises_then_falls_to_its_minimum(schedule):
    factor = factors(lr_schedule=schedule)
    assert np.diff([0, *factor[:11]]) == pytest.approx(1 / 11)
    assert factor[60] == pytest.approx(0.55)
    assert (np.diff(factor[10:111]) < 0).all()
    assert factor[110:] == pytest.approx([0.1] * 20)


def test_cosine_equals_nanogpts_formula():
    expected = [*(0.55 + 0.45 * np.cos(np.pi * np.arange(80) / 80)), *([0.1] * 40)]
    assert factors(lr_decay_iters=90)[10:] == pytest.approx(expected)


def test_a_constant_rate_stays_at_its_peak_after_any_warmup():
    for warmup in (0, 10, 200):
        rates = factors(lr_schedule="constant", warmup_iters=warmup)
        assert max(rates[:warmup], default=0) < 1 and set(rates[warmup:]) <= {1}


# --- The optimizers and a step ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_each_parameter_has_one_optimizer_and_matrices_decay(kind):
    config = Config(optimizer=kind, weight_decay=0.3, learning_rate=0.1, bias=True)
    network = GPT(config, vocab_size=11)
    optimizer = train.configure_optimizers(network, config)
    optimizer.set_lr(0.5)
    groups = [(built, group) for built in optimizer.optimizers for group in built.param_groups]
    found = {p: (type(built), group) for built, group in groups for p in group["params"]}
    assert sum(len(group["params"]) for _, group in groups) == len(found)
    for name, parameter in network.named_parameters():
        built, group = found.pop(parameter)
        assert group["weight_decay"] == (0.3 if parameter.dim() == 2 else 0.0), name
        in_muon = kind == "muon" and name.startswith("blocks.") and parameter.dim() == 2
        assert built is (Muon if in_muon else torch.optim.AdamW), name
        assert group["lr"] == 0.5 * (config.muon_learning_rate if in_muon else 0.1)
    assert not found


def one_step(*changes, scale=None):
    """Return the network after a step, its weights before, the loss and the gradient's norm."""
    network, optimizer, data, config = tiny_training(*changes)
    if scale:
        optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    optimizer.set_lr(1.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    windows = get_batch(data.train, config, 0)
    loss = train_step(network, optimizer, windows, config, 0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()]).item()
    return network, before, loss.item(), norm


def test_accumulated_batches_equal_one_large_batch(workspace):
    one, _, one_loss, _ = one_step("--batch_size=12")
    three, _, three_loss, _ = one_step("--batch_size=4", "--gradient_accumulation_steps=3")
    assert one_loss == pytest.approx(three_loss, rel=1e-5)
    for a, b in zip(one.parameters(), three.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_a_gradient_is_clipped_to_its_largest_norm(workspace):
    whole = one_step("--grad_clip=0")[-1]
    assert whole > 0.1
    assert one_step("--grad_clip=0.01")[-1] == pytest.approx(0.01, rel=1e-3)
    assert one_step(f"--grad_clip={2 * whole}")[-1] == pytest.approx(whole)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_float16_skips_a_step_whose_gradient_is_infinite(workspace, optimizer):
    settings = ["--dtype=float16", f"--optimizer={optimizer}"]
    network, before, loss, _ = one_step(*settings, scale=2.0**60)
    assert math.isfinite(loss)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
    network, before, _, norm = one_step(*settings, scale=2.0**10)
    assert norm == pytest.approx(one_step(f"--optimizer={optimizer}")[-1], rel=0.02)
    assert not any(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("skipped", [0, 8])
def test_the_loss_of_a_split_is_the_mean_over_its_characters(workspace, skipped):
    network, _, data, _ = tiny_training("--dropout=0.5")
    found = estimate_loss(network, data.val.in_order(16, overlap=skipped), skipped)
    assert network.training
    network.eval()
    ids, losses, apart = torch.from_numpy(data.val.ids.astype(np.int64)), [], 16 - skipped
    for i in range(1 + skipped, len(ids)):
        start = (i - 1 - skipped) // apart * apart  # of the window that counts character i
        logits = network(ids[None, start:i])[0][:, -1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[i : i + 1]).item())
    assert found == pytest.approx(np.mean(losses), abs=1e-6)


# --- Whole runs -------------------------------------------------------------------------------


def val_loss(checkpoint):
    """The validation loss of the weights in a checkpoint."""
    tokens = Tokens("data/small/val.bin", CPU)
    return estimate_loss(load(checkpoint)[0], tokens.in_order(block_size=16))


@pytest.mark.parametrize(
    "changes",
    [
        ["--dropout=0.2"],
        ["--dropout=0.2", "--dtype=bfloat16", "--optimizer=muon"],
        ["--optimizer=muon", "--gradient_accumulation_steps=2", "--position=rotary"],
    ],
)
def test_a_run_resumed_twice_ends_with_the_same_bytes(workspace, monkeypatch, changes):
    train.main([*TINY, *changes, "--out_dir=whole"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        stop_at(patch, 3)
        train.main([*TINY, *changes, "--out_dir=parts"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="143"):
        stop_at(patch, 5, signal.SIGTERM)  # after step 6, which is evaluated: once, in the log
        train.main(["--out_dir=parts", "--init_from=resume"])
    assert read_checkpoint("parts/last.pt")["state"]["step"] == 6
    train.main(["--out_dir=parts", "--init_from=resume"])
    assert outcome("parts") == outcome("whole")


def test_a_run_keeps_its_log_its_best_and_newest_weights(workspace):
    learn = ["--learning_rate=0.01", "--max_iters=30", "--eval_interval=10"]
    train.main([*TINY, *learn])
    ruin = ["--learning_rate=3", "--min_lr=3", "--grad_clip=0", "--max_iters=40"]
    train.main(["--init_from=resume", *ruin])
    log = read_log("out/run")
    assert log["step"] == [0, 10, 20, 30, 40] and log["tokens"] == [0, 640, 1280, 1920, 2560]
    rate = 0.01 * lr_factor(10, tiny_config(*learn))  # of the step that comes next
    assert log["learning_rate"][1] == pytest.approx(rate)
    seconds, losses = log["seconds"], log["val_loss"]
    assert seconds == sorted(seconds) and seconds[0] == 0 < seconds[-1]
    assert losses[0] == pytest.approx(math.log(58), abs=0.1)  # a uniform guess
    assert min(losses) < losses[0] - 0.5 and losses[4] > losses[0]
    state = read_checkpoint("out/run/last.pt")["state"]
    assert list(state["samples"]) == log["step"] and all(state["samples"].values())
    assert [step for step, _ in state["losses"]] == [10, 20, 30, 40]
    for name, loss in (("ckpt.pt", min(losses)), ("last.pt", losses[4])):
        assert val_loss(f"out/run/{name}") == pytest.approx(loss, abs=1e-6)
        assert read_checkpoint(f"out/run/{name}")["state"]["best_val_loss"] == min(losses)


@pytest.mark.parametrize(
    ("looks", "saved"),
    [("--checkpoint_interval=1", 4), ("--eval_interval=1", 4), ("--log_interval=1", 3)],
)
def test_a_run_that_diverges_keeps_the_last_good_step(workspace, monkeypatch, looks, saved):
    def poisoned(network, *arguments):
        if arguments[-1] == 4:
            network.norm.weight.data.fill_(math.nan)
        return train_step(network, *arguments)

    monkeypatch.setattr(train, "train_step", poisoned)
    with pytest.raises(UserError, match="step 5: .*learning_rate .0.001"):
        train.main([*TINY, looks])
    last = read_checkpoint("out/run/last.pt")
    assert last["state"]["step"] == saved
    assert all(weight.isfinite().all() for weight in last["weights"].values())


def test_fine_tuning_starts_from_the_weights(workspace):
    train.main(TINY)
    start = ["--init_from=out/run/ckpt.pt", "--dataset=small", "--out_dir=tuned", "--dtype=float32"]
    train.main([*start, "--max_iters=2", "--learning_rate=1e-9", "--min_lr=0", "--eval_iters=2"])
    tuned, old = read_checkpoint("tuned/ckpt.pt"), read_checkpoint("out/run/ckpt.pt")
    assert tuned["config"]["n_embd"] == 16 and tuned["config"]["learning_rate"] == 1e-9
    assert read_log("tuned")["step"] == [0, 2]
    assert tuned["state"]["log"][0][-1] == old["state"]["best_val_loss"]
    for name, weight in old["weights"].items():
        torch.testing.assert_close(tuned["weights"][name], weight, atol=1e-6, rtol=1e-6)


def test_eval_only_prints_every_loss_and_changes_nothing(workspace, capsys):
    prepare_shakespeare.main(["--source=small.txt", "--dataset=small", "--split=0.8,0.1,0.1"])
    train.main(TINY)
    before = {path: path.read_bytes() for path in Path("out/run").iterdir()}
    train.main(["--eval_only"])
    printed = capsys.readouterr().out
    best = read_checkpoint("out/run/ckpt.pt")["state"]["best_val_loss"]
    lines = ["weights: out/run/ckpt.pt\n", f"\nval:   {best:.4f} nats", "\ntrain: ", "\ntest: "]
    assert all(line in printed for line in lines)
    assert {path: path.read_bytes() for path in Path("out/run").iterdir()} == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_as_the_cpu_does(workspace):
    train.main([*TINY, "--out_dir=cpu"])
    train.main([*TINY, "--device=cuda", "--compile=False", "--out_dir=gpu"])
    assert read_log("gpu")["val_loss"] == pytest.approx(read_log("cpu")["val_loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ("--learning_rate=1e-5", "min_lr"),
        ("--learning_rate=1e-5 --lr_schedule=constant", ""),
        ("--warmup_iters=9", "warm-up"),
        ("--warmup_iters=5 --lr_decay_iters=4", "warm-up"),
    ],
)
def test_rates_that_do_not_fit_each_other_are_noted(capsys, words, fact):
    train.check_schedule(tiny_config(*words.split()))
    printed = capsys.readouterr().out
    assert fact in printed and printed.count("\n") == bool(fact)


def test_a_text_shorter_than_the_context_can_be_evaluated(workspace, capsys):
    train.main(TINY)
    Path("short.txt").write_text("the sea, the sea")
    short = ["--source=short.txt", "--dataset=short", "--vocab=small", "--split=0.5,0.5"]
    prepare_shakespeare.main(short)
    train.main(["--eval_only", "--dataset=short", "--init_from=out/run"])
    assert "val: " in (printed := capsys.readouterr().out) and "nan" not in printed
    with pytest.raises(UserError, match="short .*block_size"):
        train.main([*TINY, "--dataset=short", "--out_dir=new"])
