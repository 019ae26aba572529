"""quill/hardware.py: what is faster computes the same, and the same again on the same machine."""

import copy
import math
import sys

import pytest
import torch
from conftest import random_ids, small_network

from model import generate
from quill import hardware
from quill.hardware import FastDropout, for_sampling, for_training, pick_device, pick_dtype
from quill.terminal import UserError

CPU = torch.device("cpu")
NETWORKS = [{}, {"bias": True, "position": "rotary"}, {"token_shift": True, "qk_norm": True}]
NETWORKS += [{"network": "mlp", "n_hidden": 8}, {"network": "bigram"}]
networks = pytest.mark.parametrize("shape", NETWORKS)

# --- Device and dtype -------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_one_line_with_its_name():
    for name in ("nonsense", "cuda:99", "mps" if sys.platform == "linux" else "cpu:x"):
        with pytest.raises(UserError, match=f"^.{{,20}}{name}[^\n]{{,180}}$"):
            pick_device(name)


def test_auto_takes_the_cpu_if_a_gpu_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if torch.cuda.device_count() == 0:
        assert pick_device("auto") == CPU and "GPU" in capsys.readouterr().out


@pytest.mark.parametrize("has", [True, False])
def test_dtype_auto_is_bfloat16_only_where_the_processor_has_it(monkeypatch, has):
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: has)
    assert pick_dtype("auto", CPU) is (torch.bfloat16 if has else torch.float32)
    assert pick_dtype("float16", CPU) is torch.float16


# --- Training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_fast_dropout_zeroes_its_fraction_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    dropout = FastDropout(p)
    x = torch.ones(1000, 999, dtype=dtype, requires_grad=True)  # not a multiple of 8; two pieces
    y = dropout(x)
    zeroed = (y == 0).double()
    p = round(p * 256) / 256  # the nearest that 8 bits can decide
    spread = math.sqrt(p * (1 - p) / x.numel())
    assert abs(zeroed.mean() - p) < 5 * spread
    for dim in (0, 1):  # no row or column is favored
        assert (zeroed.mean(dim) - p).abs().max() < 6 * math.sqrt(p * (1 - p) / 999)
    both = (zeroed.flatten()[1:] * zeroed.flatten()[:-1]).mean()
    assert abs(both - p * p) < 10 * spread  # neighbors are independent
    kept = torch.tensor(1 / (1 - p), dtype=dtype).item()
    assert set(y.unique().tolist()) == {0.0, kept}
    y.sum().backward()
    assert torch.equal(x.grad, y)  # no gradient where an entry was zeroed
    assert set(dropout(x.T).unique().tolist()) == {0.0, kept}  # in any layout
    assert torch.equal(FastDropout(0.0)(x), x) and torch.equal(dropout.eval()(x), x)


def loss_and_gradients(shape, dtype=None):
    """The loss and all gradients of a network, as it is or as for_training() makes it."""
    network = small_network(**shape, scale=1.5).train()
    ids = random_ids(network)
    if dtype:
        for_training(network, CPU, dtype)
    loss = network(ids[:, :-1], ids[:, 1:])[1]
    loss.backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())
    return loss.item(), torch.cat([p.grad.flatten() for p in network.parameters()])


@networks
def test_training_equals_that_of_the_plain_network(shape):
    loss, gradients = loss_and_gradients(shape)
    loss32, gradients32 = loss_and_gradients(shape, torch.float32)
    loss16, gradients16 = loss_and_gradients(shape, torch.bfloat16)
    assert loss32 == loss and torch.equal(gradients32, gradients)
    assert loss16 == pytest.approx(loss, rel=0.01)
    assert (gradients16 - gradients).norm() < 0.05 * gradients.norm()
    multiplies = shape.get("network") != "bigram"
    assert torch.equal(gradients16, gradients) != multiplies


@networks
def test_training_drops_entries_and_evaluation_none(shape):
    network, ids = small_network(**shape, dropout=0.5), random_ids(small_network())
    expected = network(ids)[0]
    for_training(network.train(), CPU, torch.float32)
    if shape.get("network") != "bigram":
        assert not torch.equal(network(ids)[0], network(ids)[0])
    assert torch.equal(network.eval()(ids)[0], expected)


# --- Sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_embd", [12, 192])  # below and above the size from which it is packed
@pytest.mark.parametrize(
    ("name", "error"), [("float32", 1e-5), ("bfloat16", 0.03), ("float16", 4e-3)]
)
@networks
def test_sampling_gives_the_same_logits_within_rounding(shape, name, error, n_embd):
    network = small_network(**shape, n_embd=n_embd, scale=1.0)
    ids = random_ids(network)
    expected = network(ids)[0]
    logits = for_sampling(network, CPU, name)(ids)[0]
    assert logits.dtype == getattr(torch, name)
    assert (logits - expected).abs().max() < error * expected.abs().max()


@pytest.mark.parametrize("n_embd", [12, 192])
@networks
def test_auto_computes_the_same_logits_and_text_each_time(shape, n_embd):
    network = small_network(**shape, n_embd=n_embd, scale=1.0)
    ids, results = random_ids(network, length=3), []
    for generator in (torch.Generator().manual_seed(1) for _ in range(2)):
        fast = for_sampling(copy.deepcopy(network), CPU, "auto")
        results.append((fast(ids)[0], generate(fast, ids, 10, generator=generator)))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
