"""The ancestors: what each computes, how far back it sees, and what it writes."""

import numpy as np
import pytest
import torch
from conftest import random_ids, small_network
from test_model import assert_causal

from model import generate


@pytest.mark.parametrize("kind", ["bigram", "mlp"])
def test_no_position_of_an_ancestor_sees_the_future(kind):
    assert_causal(small_network(network=kind, n_hidden=8))


def test_a_bigram_sees_one_character_and_an_mlp_block_size_of_them():
    for kind, sees in (("bigram", 1), ("mlp", 16)):
        network = small_network(network=kind, n_hidden=8, scale=1.0)
        ids = random_ids(network, rows=1, length=40)
        whole = network(ids)[0][0, -1]
        for changed in range(40):
            other = ids.clone()
            other[0, changed] = (other[0, changed] + 1) % 11
            same = torch.equal(network(other)[0][0, -1], whole)
            assert same == (changed < 40 - sees), (kind, changed)


def test_an_mlp_is_bengios():
    network = small_network(network="mlp", n_embd=3, block_size=4, n_hidden=8)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    ids = random_ids(network, rows=1, length=7)[0].numpy()
    logits = network(torch.from_numpy(ids)[None])[0][0].detach().numpy()
    for t in range(len(ids)):
        seen = [weights["token_embedding.weight"][i] for i in ids[max(0, t - 3) : t + 1]]
        seen = [np.zeros(3)] * (4 - len(seen)) + seen
        hidden = np.tanh(weights["hidden.weight"] @ np.concatenate(seen) + weights["hidden.bias"])
        expected = weights["lm_head.weight"] @ hidden + weights["lm_head.bias"]
        np.testing.assert_allclose(logits[t], expected, atol=1e-5)


def test_a_trained_bigram_has_counted_pairs():
    """Gradient descent on the table ends where counting does: at the pairs' frequencies."""
    network = small_network(network="bigram", vocab_size=3)
    text = torch.tensor([[0, 1, 0, 1, 0, 2, 1, 0, 1, 1, 0, 2, 0, 1, 2, 0, 0]])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        network(text[:, :-1], text[:, 1:])[1].backward()
        optimizer.step()
    counts = torch.zeros(3, 3)
    for first, second in zip(text[0, :-1], text[0, 1:], strict=True):
        counts[first, second] += 1
    probabilities = network(torch.arange(3)[None])[0][0].softmax(dim=1)
    torch.testing.assert_close(
        probabilities, counts / counts.sum(1, keepdim=True), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("kind", ["bigram", "mlp"])
def test_ancestors_write_from_their_window(kind):
    network = small_network(network=kind, n_hidden=8, block_size=5, scale=1.0)
    ids = random_ids(network, rows=2, length=3)
    written = generate(network, ids, 20, temperature=0)
    for t in range(3, 23):
        logits = network(written[:, max(0, t - 5) : t])[0][:, -1]
        assert torch.equal(written[:, t], logits.argmax(dim=1))
