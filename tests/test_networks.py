"""networks.py: what each of them computes, how far back it sees, what it generates."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import random_ids, small_network

from model import generate
from networks import NGrams

# --- Counted n-grams --------------------------------------------------------------------------

TEXT = "abracadabra, a banana and a cab"
VOCAB = sorted(set(TEXT) | {"z"})  # z is in no text


def followers(context, shorter):
    """Return {character: its count} after a context in TEXT, by a search. `shorter`: the
    context is the end of a longer one, so count the different characters before both."""
    found = Counter()
    for character in VOCAB:
        starts = [i for i in range(len(TEXT)) if TEXT.startswith(context + character, i)]
        before = [TEXT[i - 1] for i in starts if i]
        found[character] = len(set(before)) if shorter else len(starts)
    return +found


def kneser_ney(character, context, shorter=False):
    """The published formula of interpolated Kneser-Ney, with a discount of 0.9."""
    lower = kneser_ney(character, context[1:], shorter=True) if context else 1 / len(VOCAB)
    counts = followers(context, shorter)
    if not counts:
        return lower
    kept = max(counts[character] - 0.9, 0) / counts.total()
    return kept + 0.9 * len(counts) / counts.total() * lower


CONTEXTS = ["", "a", "ab", "bra", "an", "nd", "ca", "z", "za", "zab", "cab", "ana"]


def test_ngrams_equal_a_slow_search_and_sum_to_1():
    model = NGrams(TEXT, 4, len(VOCAB))
    for context in CONTEXTS:
        probabilities = [model.probability(character, context) for character in VOCAB]
        expected = [kneser_ney(character, context) for character in VOCAB]
        assert probabilities == pytest.approx(expected, rel=1e-12)
        assert sum(probabilities) == pytest.approx(1, abs=1e-12)
        assert min(probabilities) > 0


def test_ngram_loss_is_the_mean_surprise():
    model, text = NGrams(TEXT, 3, len(VOCAB)), "a cabz"
    contexts = ["", "a", "a ", " c", "ca", "ab"]
    surprises = [-math.log(kneser_ney(*pair)) for pair in zip(text, contexts, strict=True)]
    assert model.loss(text, 3) == pytest.approx(np.mean(surprises))


# --- The networks -----------------------------------------------------------------------------


def test_a_bigram_sees_one_character_an_mlp_block_size():
    for kind, sees in (("bigram", 1), ("mlp", 16)):
        network = small_network(network=kind, n_hidden=8, scale=1.0)
        ids = random_ids(network, rows=1, length=40)
        whole = network(ids)[0][0]  # (40, V)
        for changed in range(40):
            other = ids.clone()
            other[0, changed] = (other[0, changed] + 1) % network.vocab_size
            same = (network(other)[0][0] == whole).all(dim=1)  # (40,)
            seen = [changed <= t < changed + sees for t in range(40)]  # by which positions
            assert (~same).tolist() == seen, (kind, changed)


def test_mlp_equals_bengios_formula():
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


def test_a_trained_bigram_equals_counted_pairs():
    network = small_network(network="bigram", vocab_size=3)
    text = torch.tensor([[0, 0, 1, 0, 1, 1, 0, 2, 1, 2, 2, 0, 1, 0, 2, 0, 0, 1]])  # all pairs
    weight = network.table.weight
    for _ in range(500):
        loss = network(text[:, :-1], text[:, 1:])[1]
        weight.data -= 8 * torch.autograd.grad(loss, weight)[0]
    counts = torch.zeros(3, 3)
    for first, second in zip(text[0, :-1], text[0, 1:], strict=True):
        counts[first, second] += 1
    probabilities = network(torch.arange(3)[None])[0][0].softmax(dim=1)
    torch.testing.assert_close(probabilities, counts / counts.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("kind", ["bigram", "mlp"])
def test_ancestors_generate_from_their_window(kind):
    network = small_network(network=kind, n_hidden=8, block_size=5, scale=1.0)
    ids = random_ids(network, rows=2, length=3)
    text = generate(network, ids, 20, temperature=0)
    for t in range(3, 23):
        logits = network(text[:, max(0, t - 5) : t])[0][:, -1]
        assert torch.equal(text[:, t], logits.argmax(dim=1))
