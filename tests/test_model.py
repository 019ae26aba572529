"""The network: what it computes, what it cannot see, what it refuses, how it writes."""

import math

import numpy as np
import pytest
import torch
from conftest import random_ids, small_network

from model import GPT, NetworkConfig, generate, next_probabilities

POSITIONS = ["none", "learned", "sinusoidal", "rotary"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


# --- What it computes -------------------------------------------------------------------------


def numpy_logits(network, ids):
    """One sequence's logits in float64 numpy: an independent reading of the papers."""
    weights = {name: w.detach().double().numpy() for name, w in network.state_dict().items()}
    config = network.config
    n_head, size = config.n_head, config.n_embd // config.n_head

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0.0)

    def layer_norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * weights[name + ".weight"] + weights.get(name + ".bias", 0.0)

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def unit(x):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    def rotated(x, position):  # as complex numbers: pair i is (x[i], x[i + size / 2])
        half = size // 2
        speed = 10000.0 ** -(np.arange(half) / half)
        turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * speed)
        return np.concatenate([turned.real, turned.imag])

    x = weights["token_embedding.weight"][ids]
    for t in range(len(ids)):
        if config.position == "learned":
            x[t] += weights["position_embedding.weight"][t]
        if config.position == "sinusoidal":
            half = config.n_embd // 2
            angle = t * 10000.0 ** -(np.arange(half) / half)
            x[t] += 0.02 * math.sqrt(2) * np.concatenate([np.sin(angle), np.cos(angle)])

    def shifted(x):
        if config.token_shift:
            half = config.n_embd // 2
            for t in reversed(range(len(x))):
                x[t, :half] = x[t - 1, :half] if t else 0
        return x

    for layer in range(config.n_layer):
        block = f"blocks.{layer}."
        seen = shifted(layer_norm(x, block + "attention_norm"))
        qkv = linear(seen, block + "attention.query_key_value")
        gathered = np.zeros_like(x)
        for head in range(n_head):
            part = slice(head * size, (head + 1) * size)
            q, k, v = (qkv[:, i * config.n_embd :][:, part] for i in range(3))
            for t in range(len(ids)):
                scores = []
                for s in range(t + 1):
                    query, key = q[t], k[s]
                    if config.qk_norm:
                        query, key = unit(query), unit(key)
                    if config.position == "rotary":
                        query, key = rotated(query, t), rotated(key, s)
                    scores.append(query @ key / math.sqrt(size))
                weight = np.exp(scores - np.max(scores))
                gathered[t, part] = weight / weight.sum() @ v[: t + 1]
        x = x + linear(gathered, block + "attention.projection")
        seen = shifted(layer_norm(x, block + "feed_forward_norm"))
        hidden = gelu(linear(seen, block + "feed_forward.expand"))
        x = x + linear(hidden, block + "feed_forward.projection")
    return layer_norm(x, "norm") @ weights["token_embedding.weight"].T


@pytest.mark.parametrize("attention", ["written_out", "fused"])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("token_shift", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_logits_equal_a_plain_numpy_forward_pass(position, token_shift, bias, qk_norm, attention):
    network = small_network(
        position=position,
        token_shift=token_shift,
        bias=bias,
        qk_norm=qk_norm,
        attention=attention,
    )
    ids = random_ids(network)
    logits, loss = network(ids)
    expected = np.stack([numpy_logits(network, row) for row in ids.numpy()])
    assert np.abs(expected).max() > 1
    assert loss is None
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("attention", ["written_out", "fused"])
@pytest.mark.parametrize("token_shift", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_no_position_of_a_gpt_sees_the_future(position, token_shift, attention):
    shape = {"position": position, "token_shift": token_shift, "attention": attention}
    assert_causal(small_network(**shape))


def assert_causal(network):
    ids = random_ids(network, rows=1)
    before = network(ids)[0]
    for t in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % network.config.vocab_size
        after = network(changed)[0]
        assert torch.equal(before[0, :t], after[0, :t])
        assert not torch.allclose(before[0, t:], after[0, t:])


@pytest.mark.parametrize("position", POSITIONS)
def test_every_position_sees_all_of_the_past(position):
    network = small_network(position=position, n_layer=1)
    embedded = {}

    def keep(module, inputs, output):
        output.retain_grad()
        embedded["x"] = output

    network.token_embedding.register_forward_hook(keep)
    network(random_ids(network, rows=1))[0][0, -1].pow(2).sum().backward()
    assert (embedded["x"].grad[0].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_order_matters(position):
    network = small_network(position=position, n_layer=1)
    one = network(torch.tensor([[1, 2, 3]]))[0][0, -1]
    other = network(torch.tensor([[2, 1, 3]]))[0][0, -1]
    assert not torch.allclose(one, other, atol=1e-3)


def test_without_positions_a_layer_cannot_tell_orders_apart():
    network = small_network(position="none", n_layer=1)
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 1, 2, 4]])
    torch.testing.assert_close(network(one)[0][0, -1], network(other)[0][0, -1])
    network = small_network(position="learned", n_layer=1)
    assert (network(one)[0][0, -1] - network(other)[0][0, -1]).abs().max() > 0.1


def test_rotary_attention_knows_distances_only():
    network = small_network(position="rotary", n_layer=1)
    ids = random_ids(network, rows=1, length=6)
    shifted_cos, shifted_sin = network.cos.roll(-5, 0), network.sin.roll(-5, 0)
    before = network(ids)[0]
    network.cos, network.sin = shifted_cos, shifted_sin
    torch.testing.assert_close(network(ids)[0], before, atol=1e-4, rtol=1e-4)


def test_loss_is_the_mean_cross_entropy_of_the_targets():
    network = small_network()
    ids, targets = random_ids(network), random_ids(network, seed=2)
    logits, loss = network(ids, targets)
    probabilities = logits.softmax(dim=-1).gather(2, targets[:, :, None])
    torch.testing.assert_close(loss, -probabilities.log().mean())


@pytest.mark.parametrize("position", POSITIONS)
def test_the_initial_loss_is_that_of_a_uniform_guess(position):
    torch.manual_seed(0)
    network = GPT(NetworkConfig(vocab_size=65, block_size=64, position=position))
    ids = torch.randint(65, (8, 65))
    loss = network(ids[:, :-1], ids[:, 1:])[1].item()
    assert abs(loss - math.log(65)) < 0.05


def test_the_initial_weights_are_drawn_as_gpt2s():
    torch.manual_seed(0)
    network = GPT(NetworkConfig(vocab_size=65, n_layer=8, n_embd=256, bias=True))
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            wanted = 0.02 / 4 if name.endswith("projection.weight") else 0.02
            assert abs(parameter.std().item() / wanted - 1) < 0.05, name


def test_the_output_head_is_the_embedding():
    network = small_network()
    assert network.lm_head.weight is network.token_embedding.weight


def test_dropout_only_when_training():
    network = small_network(dropout=0.5)
    ids = random_ids(network)
    assert torch.equal(network(ids)[0], network(ids)[0])
    network.train()
    assert not torch.equal(network(ids)[0], network(ids)[0])


def test_written_out_and_fused_attention_have_the_same_gradients():
    gradients = []
    for attention in ("written_out", "fused"):
        network = small_network(attention=attention, position="rotary")
        ids = random_ids(network)
        network(ids, ids)[1].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@needs_gpu
@pytest.mark.parametrize("position", POSITIONS)
def test_a_gpu_computes_what_the_cpu_computes(position):
    network = small_network(position=position)
    ids = random_ids(network)
    expected = network(ids)[0]
    torch.testing.assert_close(network.cuda()(ids.cuda())[0].cpu(), expected, atol=1e-3, rtol=1e-3)


# --- What it refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_embd": 10, "n_head": 4}, "multiple of n_head"),
        ({"n_embd": 6, "n_head": 2, "position": "rotary"}, "rotary .* even"),
        ({"n_embd": 5, "n_head": 1, "position": "sinusoidal"}, "sinusoidal .* even"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ValueError, match=reason):
        small_network(**changes)


def test_a_sequence_longer_than_block_size_is_refused():
    network = small_network()
    with pytest.raises(ValueError, match="17 characters do not fit block_size 16"):
        network(random_ids(network, length=17))


# --- How it writes ----------------------------------------------------------------------------


def generate_afresh(network, ids, count):
    """Greedy generation without a cache: the same windows, each recomputed whole."""
    block_size = network.config.block_size
    start = max(0, ids.shape[1] - block_size)
    for _ in range(count):
        if ids.shape[1] - start > block_size:
            start = ids.shape[1] - max(1, block_size // 2)
        ids = torch.cat([ids, network(ids[:, start:])[0][:, -1:].argmax(dim=2)], dim=1)
    return ids


@pytest.mark.parametrize("block_size", [1, 2, 7, 16])
@pytest.mark.parametrize("token_shift", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_cached_generation_equals_recomputed_generation(position, token_shift, block_size):
    shape = {"position": position, "block_size": block_size, "qk_norm": True}
    network = small_network(**shape, token_shift=token_shift)
    for prompt_length in (1, block_size, block_size + 3):
        ids = random_ids(network, length=prompt_length)
        expected = generate_afresh(network, ids, 50)
        assert torch.equal(generate(network, ids, 50, temperature=0), expected)


@pytest.mark.parametrize("attention", ["written_out", "fused"])
@pytest.mark.parametrize("token_shift", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_cached_logits_equal_uncached_logits(position, token_shift, attention):
    network = small_network(position=position, token_shift=token_shift, attention=attention)
    ids = random_ids(network)
    with torch.inference_mode():
        whole = network(ids)[0]
        caches = network.new_caches()
        pieces = [network(part, caches=caches)[0] for part in ids.split([5, 1, 1, 3, 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_each_prompt_of_a_batch_is_continued_as_if_alone():
    network = small_network()
    ids = random_ids(network, rows=4, length=5)
    together = generate(network, ids, 40, temperature=0)
    alone = torch.cat([generate(network, row[None], 40, temperature=0) for row in ids])
    assert torch.equal(together, alone)


def test_the_same_seed_writes_the_same_and_another_seed_something_else():
    network, ids = small_network(scale=1.0), torch.zeros(1, 1, dtype=torch.int64)
    texts = [
        generate(network, ids, 40, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_a_token_past_the_window_costs_no_more_than_one_within():
    network = small_network()
    lengths = []
    network.token_embedding.register_forward_hook(lambda m, i, o: lengths.append(o.shape[1]))
    generate(network, random_ids(network, length=4), 400)
    assert sum(lengths) <= 4 + 2 * 400
    assert max(lengths) <= 8


LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0, 0.0], [0.0, 0.0, 3.0, 0.0, 0.0]])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_divides_the_logits(temperature):
    expected = np.exp(LOGITS.double().numpy() / temperature)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(next_probabilities(LOGITS, temperature), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-30])
def test_temperature_zero_takes_the_likeliest(temperature):
    expected = [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert next_probabilities(LOGITS, temperature).tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 4, 5, 100])
def test_top_k_keeps_exactly_the_k_likeliest_in_proportion(k):
    kept = next_probabilities(LOGITS, top_k=k)
    whole = next_probabilities(LOGITS)
    assert ((kept > 0).sum(dim=1) == min(k, 5)).all()
    for row, whole_row in zip(kept, whole, strict=True):
        inside = whole_row[row > 0]
        assert row[row == 0].numel() == 0 or whole_row[row == 0].max() <= inside.min()
        torch.testing.assert_close(row[row > 0], inside / inside.sum())


@pytest.mark.parametrize("p", [1e-9, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    whole = next_probabilities(LOGITS[:1])[0]
    kept = next_probabilities(LOGITS[:1], top_p=p)[0]
    inside = whole[kept > 0]
    assert inside.sum() >= p - 1e-6
    assert inside.sum() - inside.min() < p
    torch.testing.assert_close(kept[kept > 0], inside / inside.sum())


def test_top_p_counts_within_what_top_k_left():
    kept = next_probabilities(torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log(), top_k=2, top_p=0.55)
    torch.testing.assert_close(kept, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))


def test_sampling_follows_the_probabilities():
    network = small_network(block_size=1)
    ids = torch.full((20000, 1), 3)
    generator = torch.Generator().manual_seed(0)
    drawn = generate(network, ids, 1, temperature=1.5, top_k=6, generator=generator)[:, 1]
    logits = network(ids[:1])[0][:, -1].detach()
    expected = next_probabilities(logits, temperature=1.5, top_k=6)[0]
    found = torch.bincount(drawn, minlength=11) / len(drawn)
    assert (found - expected).abs().max() < 0.015
    assert (found[expected == 0] == 0).all()
