"""quill/hardware.py: what is faster computes the same, and auto picks what is faster."""

from quill import hardware
from quill.checkpoint import load_checkpoint
from quill.hardware import (
    FastDropout,
    PackedLinear,
    TransposedLinear,
    pick_attention,
    speed_up_sampling,
    speed_up_training,
)
from quill.terminal import UserError

import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY, random_ids, small_network, tiny_run
from torch import nn

import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# --- Device, dtype and attention --------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds, chosen",
    [
        ({"float32": 1.0, "bfloat16": 0.3}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 90.0}, "float32"),
    ],
)
def test_dtype_auto_is_the_faster_one_and_a_resume_stays_with_it(
    workspace, monkeypatch, seconds, chosen
):
    monkeypatch.setattr(
        hardware, "seconds_to_multiply", lambda dtype: seconds[str(dtype).removeprefix("torch.")]
    )
    train.main([*TINY, "--dtype=auto"])
    assert load_checkpoint("out/run/last.pt")["config"]["dtype"] == chosen
    monkeypatch.setattr(hardware, "seconds_to_multiply", lambda dtype: 1.0)
    train.main(["--out_dir=out/run", "--init_from=resume", "--max_iters=10"])
    assert load_checkpoint("out/run/last.pt")["config"]["dtype"] == chosen


@pytest.mark.parametrize(
    ("name", "device", "picked"),
    [
        ("auto", CPU, "written_out"),
        ("auto", CUDA, "fused"),
        ("fused", CPU, "fused"),
        ("written_out", CUDA, "written_out"),
    ],
)
def test_attention_auto_is_the_faster_one_and_any_other_is_itself(name, device, picked):
    assert pick_attention(name, device) == picked


def test_a_run_on_a_cpu_writes_attention_out_unless_told_otherwise(workspace):
    assert tiny_run().network.config.attention == "written_out"
    assert tiny_run("--attention=fused").network.config.attention == "fused"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", "halve batch_size and double"),
        ("[gloo] Connection closed by peer", "another process of this run has ended"),
        ("NCCL communicator was aborted", "another process of this run has ended"),
    ],
)
def test_an_error_of_memory_or_of_another_process_is_explained(message, told):
    with pytest.raises(UserError, match=told), hardware.errors_explained():
        raise RuntimeError(message)


@pytest.mark.parametrize("message", ["a mistake", "CUDA error: an illegal memory access"])
def test_any_other_error_passes_as_it_is(message):
    with pytest.raises(RuntimeError, match=f"^{message}$"), hardware.errors_explained():
        raise RuntimeError(message)


# --- Training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_fast_dropout_zeroes_its_fraction_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    dropout = FastDropout(p)
    x = torch.ones(1000, 999, dtype=dtype, requires_grad=True)  # no multiple of 8; two pieces
    assert x.numel() > hardware.PIECE
    y = dropout(x)
    zeroed = (y == 0).double()
    p = round(p * 256) / 256  # the nearest that 8 bits can decide
    spread = math.sqrt(p * (1 - p) / x.numel())
    assert abs(zeroed.mean() - p) < 5 * spread
    # No row or column is favored, and neighbors know nothing of each other.
    for dim in (0, 1):
        assert (zeroed.mean(dim) - p).abs().max() < 6 * math.sqrt(p * (1 - p) / 999)
    both = (zeroed.flatten()[1:] * zeroed.flatten()[:-1]).mean()
    assert abs(both - p * p) < 10 * spread
    kept = torch.tensor(1 / (1 - p), dtype=dtype)
    assert set(y.unique().tolist()) == {0.0, kept.item()}
    y.sum().backward()
    assert torch.equal(x.grad, y)  # what was zeroed learns nothing
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert set(dropout(x.T).unique().tolist()) == {0.0, kept.item()}  # in any layout
    assert torch.equal(FastDropout(0.0)(x), x)
    assert torch.equal(dropout.eval()(x), x)


def kinds(network, kind):
    return [module for module in network.modules() if isinstance(module, kind)]


def test_a_cpu_trains_with_fast_dropout_and_other_devices_with_pytorchs(workspace, monkeypatch):
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    run = tiny_run("--dropout=0.3")
    assert not kinds(run.network, nn.Dropout)
    fast = kinds(run.network, FastDropout)
    assert len(fast) == 1 + 3 * 2  # the embedding's; in each layer two of attention, one after it
    assert {dropout.zeroed for dropout in fast} == {round(0.3 * 256)}
    network = small_network(dropout=0.3)
    speed_up_training(network, CUDA, torch.bfloat16)
    assert not kinds(network, FastDropout)
    assert len(kinds(network, nn.Dropout)) == len(fast)


@pytest.mark.parametrize("shape", [{}, {"network": "mlp", "n_hidden": 8}])
def test_fast_dropout_changes_nothing_but_what_is_dropped(shape):
    network = small_network(dropout=0.5, **shape)
    ids = random_ids(network)
    expected = network(ids)[0]
    speed_up_training(network.train(), CPU, torch.float32)
    assert torch.equal(network.eval()(ids)[0], expected)
    network.train()
    assert not torch.equal(network(ids)[0], network(ids)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu_the_residual_stream_is_in_the_dtype_of_the_run(workspace, dtype):
    name = str(dtype).removeprefix("torch.")
    run = tiny_run(f"--dtype={name}", "--position=rotary")
    met = []
    for module in run.network.blocks:
        module.register_forward_hook(
            lambda module, inputs, x: met.append((inputs[0].dtype, inputs[1][0].dtype, x.dtype))
        )
    exact = tiny_run("--dtype=float32", "--position=rotary")
    exact.network.load_state_dict(run.network.state_dict())
    losses = []
    for each in (run, exact):
        loss, norm = train.train_step(each, each.network, train.training_windows(each))
        losses.append((loss.item(), norm.item()))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    train.mean_loss(run, "val", train.split_starts(run, "val"))
    assert set(met) == {(dtype, dtype, dtype)}
    run.network(train.training_windows(run)[:, :-1])  # without autocast: in float32
    assert met[-1] == (torch.float32,) * 3
    assert {parameter.dtype for parameter in run.network.parameters()} == {torch.float32}


def test_a_run_on_a_cpu_takes_torchs_steps_and_never_loads_its_compiler(workspace):
    """torch.compile's machinery takes over a second to load."""
    script = """
import sys, torch
from torch.optim import AdamW, Optimizer
import train
from quill.hardware import speed_up_training

names = ["add_param_group", "state_dict", "load_state_dict", "zero_grad"]
decorated = [(Optimizer, name, getattr(Optimizer, name)) for name in names]
decorated.append((AdamW, "step", AdamW.step))
start, gradients = torch.randn(5, 7), torch.randn(6, 5, 7)

def steps():
    parameter = torch.nn.Parameter(start.clone())
    optimizer = AdamW([parameter], lr=0.1, weight_decay=0.1, fused=True)
    for gradient in gradients:
        optimizer.zero_grad()
        parameter.grad = gradient
        optimizer.step()
        again = AdamW([parameter], fused=True)
        again.load_state_dict(optimizer.state_dict())
        optimizer = again
    return parameter.detach()

speed_up_training(torch.nn.Module(), torch.device("cpu"), torch.float32)
plain = steps()
assert "torch._dynamo" not in sys.modules
train.main([*sys.argv[1:], "--optimizer=muon"])
train.main(["--init_from=resume", "--max_iters=10"])
assert "torch._dynamo" not in sys.modules, "by a run"
for owner, name, method in decorated:
    assert getattr(owner, name) is not method, name
    setattr(owner, name, method)
assert torch.equal(plain, steps()) and not torch.equal(plain, start)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *TINY],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- Sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [TransposedLinear, PackedLinear])
@pytest.mark.parametrize("shape", [{"bias": True}, {}, {"network": "mlp", "n_hidden": 8}])
def test_every_layout_gives_the_same_logits(shape, layout, monkeypatch):
    network = small_network(**shape).eval()
    ids = random_ids(network)
    expected = network(ids)[0]
    monkeypatch.setattr(hardware, "LAYOUTS", [(torch.float32, layout)])
    laid_out = speed_up_sampling(network, "float32", torch.device("cpu"), 1)
    if torch.backends.mkldnn.is_available():
        assert not any(isinstance(module, torch.nn.Linear) for module in laid_out.modules())
    torch.testing.assert_close(laid_out(ids)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name, seconds, chosen",
    [
        ("auto", [1.0, 0.9, 0.9], (torch.float32, TransposedLinear)),  # no clear gain
        ("auto", [1.0, 0.5, 0.9], (torch.float32, PackedLinear)),
        ("auto", [1.0, 0.9, 0.5], (torch.bfloat16, PackedLinear)),
        ("float32", [1.0, 0.9], (torch.float32, TransposedLinear)),
        ("bfloat16", [1.0], (torch.bfloat16, PackedLinear)),
    ],
)
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN")
def test_the_layout_that_writes_fastest_is_taken(name, seconds, chosen, monkeypatch):
    monkeypatch.setattr(hardware, "pick_dtype", lambda name, device: torch.bfloat16)
    if name == "float32":
        monkeypatch.setattr(hardware, "pick_dtype", lambda name, device: torch.float32)
    times = iter(seconds)
    monkeypatch.setattr(hardware, "seconds_to_write", lambda network, streams: next(times))
    before = small_network().eval()
    weights = before.token_embedding.weight.detach().clone()
    network = speed_up_sampling(before, name, torch.device("cpu"), 1)
    assert (network.token_embedding.weight.dtype, type(network.lm_head)) == chosen
    # Rounded once, from float32: not float32 again after another dtype was tried.
    assert torch.equal(network.token_embedding.weight, weights.to(chosen[0]))


def test_without_onednns_operators_the_network_writes_as_it_is(monkeypatch):
    monkeypatch.setattr(
        hardware, "LAYOUTS", [(torch.float32, lambda linear: torch.ops.no.such(linear))]
    )
    network = speed_up_sampling(small_network().eval(), "float32", torch.device("cpu"), 1)
    assert isinstance(network.lm_head, torch.nn.Linear)


# --- CUDA, as far as a CPU can show it --------------------------------------------------------


def test_float32_products_use_tf32_on_cuda_only(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    speed_up_training(small_network(), torch.device("cpu"), torch.float32)
    assert asked == []
    speed_up_training(small_network(), torch.device("cuda"), torch.float32)
    assert asked == ["high"]


def test_where_the_compiler_fails_training_goes_on_without_it(workspace, monkeypatch, capsys):
    def fail(network):
        def call(*arguments):
            raise RuntimeError("Failed to find C compiler.\nlong explanation")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    run = tiny_run()
    run.device = torch.device("cuda")
    assert train.forward_of(run) is run.network
    out = capsys.readouterr().out
    assert "torch.compile cannot be used here" in out and "Failed to find C compiler" in out
    assert "long explanation" not in out


def test_what_the_compiler_returns_is_used(workspace, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: lambda *arguments: network(*arguments))
    run = tiny_run("--compile=True")
    assert train.forward_of(run) is run.network  # on a CPU it is never compiled
    run.device = torch.device("cuda")
    assert train.forward_of(run) is not run.network
    run = tiny_run("--compile=False")
    run.device = torch.device("cuda")
    assert train.forward_of(run) is run.network
