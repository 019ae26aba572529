"""model.py: what the network computes, what it cannot see, what it refuses, how it generates."""

import math

import numpy as np
import pytest
import torch
from conftest import random_ids, small_network

from model import GPT, GPTConfig, generate, next_probabilities

POSITIONS = ["none", "learned", "sinusoidal", "rotary"]


# --- What it computes -------------------------------------------------------------------------


def numpy_logits(network, ids):
    """One sequence's logits in float64 numpy: an independent reading of the papers."""
    weights = {name: w.detach().double().numpy() for name, w in network.state_dict().items()}
    config, T = network.config, len(ids)
    size, half = config.n_embd // config.n_head, config.n_embd // 2

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0.0)

    def normalized(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def layer_norm(x, name):
        return normalized(x) * weights[name + ".weight"] + weights.get(name + ".bias", 0.0)

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def rotated(x, position):  # as complex numbers: pair i is (x[i], x[i + size / 2])
        pairs = np.arange(size // 2)
        angles = position * 10000.0 ** -(pairs / len(pairs))
        turned = (x[pairs] + 1j * x[pairs + len(pairs)]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag])

    def shifted(x):
        if config.token_shift:
            x[1:, :half] = x[:-1, :half].copy()
            x[0, :half] = 0
        return x

    x = weights["token_embedding.weight"][ids]
    if config.position == "learned":
        x += weights["position_embedding.weight"][:T]
    if config.position == "sinusoidal":
        angles = np.outer(np.arange(T), 10000.0 ** -(np.arange(half) / half))
        x += 0.02 * math.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    for layer in range(config.n_layer):
        block = f"blocks.{layer}."
        seen = shifted(layer_norm(x, block + "attention_norm"))
        qkv = linear(seen, block + "attention.query_key_value")
        gathered = np.zeros_like(x)
        for head in range(config.n_head):
            part = slice(head * size, (head + 1) * size)
            q, k, v = (qkv[:, i * config.n_embd :][:, part] for i in range(3))
            if config.qk_norm:
                q, k = normalized(q), normalized(k)
            if config.position == "rotary":
                q, k = (np.stack([rotated(row, t) for t, row in enumerate(x)]) for x in (q, k))
            for t in range(T):
                scores = k[: t + 1] @ q[t] / math.sqrt(size)
                weight = np.exp(scores - scores.max())
                gathered[t, part] = weight / weight.sum() @ v[: t + 1]
        x = x + linear(gathered, block + "attention.projection")
        seen = shifted(layer_norm(x, block + "feed_forward_norm"))
        hidden = gelu(linear(seen, block + "feed_forward.expand"))
        x = x + linear(hidden, block + "feed_forward.projection")
    return layer_norm(x, "norm") @ weights["token_embedding.weight"].T


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_logits_equal_a_plain_numpy_forward_pass(position, extras):
    network = small_network(position=position, token_shift=extras, bias=extras, qk_norm=extras)
    ids = random_ids(network)
    logits, loss = network(ids)
    expected = np.stack([numpy_logits(network, row) for row in ids.numpy()])
    assert np.abs(expected).max() > 1
    assert loss is None
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=1e-4)


def test_loss_is_the_mean_cross_entropy_of_the_targets():
    network = small_network()
    ids, targets = random_ids(network), random_ids(network, seed=2)
    logits, loss = network(ids, targets)
    probabilities = logits.softmax(dim=-1).gather(2, targets[:, :, None])
    torch.testing.assert_close(loss, -probabilities.log().mean())


def test_the_first_weights_are_drawn_as_gpt2s():
    torch.manual_seed(0)
    network = GPT(GPTConfig(n_layer=8, n_embd=256, bias=True), vocab_size=65)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            wanted = 0.02 / 4 if name.endswith("projection.weight") else 0.02
            assert parameter.std().item() == pytest.approx(wanted, rel=0.05), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("position", POSITIONS)
def test_a_gpu_computes_what_the_cpu_computes(position):
    network = small_network(position=position)
    ids = random_ids(network)
    expected = network(ids)[0]
    torch.testing.assert_close(network.cuda()(ids.cuda())[0].cpu(), expected, atol=1e-3, rtol=1e-3)


# --- What it sees -----------------------------------------------------------------------------


@pytest.mark.parametrize("token_shift", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_no_position_sees_the_future(position, token_shift):
    network = small_network(position=position, token_shift=token_shift)
    ids = random_ids(network, rows=1)
    before = network(ids)[0]
    for t in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % network.vocab_size
        after = network(changed)[0]
        assert torch.equal(before[0, :t], after[0, :t])
        assert not torch.allclose(before[0, t], after[0, t])


# --- What it refuses --------------------------------------------------------------------------


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="n_embd 10 .* n_head 4"):
        small_network(n_embd=10, n_head=4)
    with pytest.raises(ValueError, match="rotary .* even .* 3"):
        small_network(n_embd=6, n_head=2, position="rotary")
    network = small_network()
    with pytest.raises(ValueError, match="17 .* 16"):
        network(random_ids(network, length=17))


# --- How it generates -------------------------------------------------------------------------


@torch.inference_mode()
def generate_without_cache(network, ids, count):
    """Greedy generation that recomputes the whole window for each token."""
    block_size = network.config.block_size
    start = max(0, ids.shape[1] - block_size)
    for _ in range(count):
        if ids.shape[1] - start > block_size:
            start = ids.shape[1] - max(1, block_size // 2)
        ids = torch.cat([ids, network(ids[:, start:])[0][:, -1:].argmax(dim=2)], dim=1)
    return ids


@pytest.mark.parametrize("block_size", [1, 7])
@pytest.mark.parametrize("token_shift", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_generation_with_kv_cache_equals_recomputation(position, token_shift, block_size):
    network = small_network(position=position, token_shift=token_shift, block_size=block_size)
    for prompt_length in (1, block_size, block_size + 3):
        ids = random_ids(network, length=prompt_length)
        expected = generate_without_cache(network, ids, 2 * block_size)
        assert torch.equal(generate(network, ids, 2 * block_size, temperature=0), expected)


def test_past_the_window_a_token_costs_two_passes_at_most():
    network = small_network()
    lengths = []
    network.token_embedding.register_forward_hook(lambda m, i, x: lengths.append(x.shape[1]))
    generate(network, random_ids(network, length=4), 200)
    assert sum(lengths) <= 4 + 2 * 200
    assert max(lengths) <= 8


LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0, 0.0], [0.0, 0.0, 3.0, 0.0, 0.0]])


def test_temperature_divides_the_logits_and_zero_takes_the_best():
    expected = (LOGITS / 2.5).softmax(dim=1)
    torch.testing.assert_close(next_probabilities(LOGITS, 2.5), expected)
    for tiny in (0, 1e-300, 1e-30):
        assert next_probabilities(LOGITS, tiny).tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]


@pytest.mark.parametrize("k", [1, 4, 100])
def test_top_k_keeps_the_k_most_likely_in_proportion(k):
    whole, kept = next_probabilities(LOGITS), next_probabilities(LOGITS, top_k=k)
    assert ((kept > 0).sum(dim=1) == min(k, 5)).all()
    for row, whole_row in zip(kept, whole, strict=True):
        inside, outside = whole_row[row > 0], whole_row[row == 0]
        assert (outside <= inside.min()).all()
        torch.testing.assert_close(row[row > 0], inside / inside.sum())


@pytest.mark.parametrize("p", [1e-9, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    whole = next_probabilities(LOGITS[:1])[0]
    kept = next_probabilities(LOGITS[:1], top_p=p)[0]
    inside = whole[kept > 0]
    assert inside.sum() >= p - 1e-6
    assert inside.sum() - inside.min() < p
    torch.testing.assert_close(kept[kept > 0], inside / inside.sum())


def test_sampling_follows_the_probabilities():
    network = small_network(block_size=1)
    ids = torch.full((20000, 1), 3)
    generator = torch.Generator().manual_seed(0)
    drawn = generate(network, ids, 1, temperature=1.5, top_k=6, generator=generator)[:, 1]
    expected = next_probabilities(network(ids[:1])[0][:, -1], temperature=1.5, top_k=6)[0]
    found = torch.bincount(drawn, minlength=11) / len(drawn)
    assert (found - expected).abs().max() < 0.015
    assert (found[expected == 0] == 0).all()
