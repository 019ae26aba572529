"""Which network a run trains: the Transformer, or one of its ancestors. And counted n-grams, the
baseline of them all.

The two ancestors have the interface of model.py's GPT: characters in, the logits of the next
character out, at every position at once. The letters in the shapes are model.py's: B sequences in a
batch, T characters in a sequence, C the embedding dimension (n_embd), V characters in the
vocabulary.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import GPT, INIT_STD, GPTConfig, Linear

DISCOUNT = 0.9  # of each count; 0.8 and 0.95 give a higher loss


def sums_by_context(counts):
    """For each context, all but the last character of a string: the sum of the counts of the
    strings that begin with it, and how many such strings there are. counts: {string: its count}."""
    sums, strings = Counter(), Counter()
    for string, count in counts.items():
        context = string[:-1]
        sums[context] += count
        strings[context] += 1
    return sums, strings


class NGrams:
    """How often each string of up to `longest` characters occurs in a text, and what that says
    about the next character: a language model without a network.

    Source: Kneser and Ney 1995, https://doi.org/10.1109/ICASSP.1995.479394, interpolated as in
    Chen and Goodman 1998, https://doi.org/10.1006/csla.1999.0128, with one discount.
    """

    def __init__(self, text, longest, vocab_size):
        self.vocab_size = vocab_size
        self.count = Counter()  # how often each string occurs in the text
        for n in range(1, longest + 1):
            self.count.update(text[i : i + n] for i in range(len(text) - n + 1))
        # How many different characters precede each string in the text.
        self.variety = Counter(string[1:] for string in self.count if len(string) > 1)
        self.whole = self.count, *sums_by_context(self.count)  # for the whole context
        self.shorter = self.variety, *sums_by_context(self.variety)  # for its shorter ends

    def probability(self, character, context):
        """The probability that `character` comes after `context`, at most longest - 1 characters.

        The estimate starts from 1 / vocab_size. Each round looks at a context that is one character
        longer, takes DISCOUNT from each count, and gives the freed probability to the estimate of
        the round before. That estimate is needed for characters that the longer context never saw,
        so it counts how many different characters precede a string, not how often it occurs.
        """
        p = 1 / self.vocab_size
        for length in range(len(context) + 1):
            known = context[len(context) - length :]
            counts, sums, strings = self.whole if length == len(context) else self.shorter
            if sums[known]:
                rest = max(0, counts[known + character] - DISCOUNT)
                p = (rest + DISCOUNT * strings[known] * p) / sums[known]
        return p

    def loss(self, text, n):
        """The mean cross-entropy in nats per character of a text, from the n - 1 before each."""
        total = 0.0
        for i, character in enumerate(text):
            total -= math.log(self.probability(character, text[max(0, i - n + 1) : i]))
        return total / len(text)


def with_loss(logits, targets):
    """logits (B, T, V), and the mean cross-entropy in nats (None without targets), as in GPT."""
    if targets is None:
        return logits, None
    return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Bigram(nn.Module):
    """The next character depends on the current one alone: a table of V x V logits.

    After training, row a holds the log-frequencies of what follows a, up to a constant.
    Source: Markov 1913, who counted vowels and consonants in Onegin; Shannon 1948, section 3,
    https://doi.org/10.1002/j.1538-7305.1948.tb01338.x.
    """

    def __init__(self, config, vocab_size):
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=INIT_STD)

    def forward(self, idx, targets=None, caches=None):
        """The logits of the next character after each of idx (B, T), and the loss, as in GPT."""
        return with_loss(self.table(idx), targets)  # (B, T) -> (B, T, V)

    def new_caches(self, batch_size):
        """Nothing needs to be kept from one character to the next."""
        return []


class MLP(nn.Module):
    """The embeddings of the last block_size characters, side by side, through one tanh layer.

    Each position has weights of its own, so nothing that is learned at one position helps at
    another. At the start of a sequence, zeros replace the missing characters. Source: Bengio et
    al. 2003, https://jmlr.org/papers/v3/bengio03a.html, without the direct connections from input
    to output, which the paper found to be of no help.
    """

    def __init__(self, config, vocab_size):
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.dtype = torch.float32  # of the products; a lower precision is faster
        # PyTorch's std of 1: with INIT_STD, config/mlp.py ends at 2.15 instead of 1.85.
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        self.hidden = Linear(config.block_size * config.n_embd, config.n_hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = Linear(config.n_hidden, vocab_size)
        nn.init.normal_(self.lm_head.weight, std=INIT_STD)
        nn.init.zeros_(self.lm_head.bias)

    def forward(self, idx, targets=None, caches=None):
        """The logits of the next character after each of idx (B, T), and the loss, as in GPT."""
        window = self.config.block_size
        x = self.token_embedding(idx)  # (B, T) -> (B, T, C)
        x = F.pad(x, (0, 0, window - 1, 0))  # (B, T, C) -> (B, window - 1 + T, C)
        x = x.unfold(1, window, 1)  # -> (B, T, C, window): each character and those before it
        x = x.transpose(2, 3).flatten(2)  # (B, T, C, window) -> (B, T, window * C)
        x = x.to(self.dtype)
        x = self.dropout(torch.tanh(self.hidden(x)))  # (B, T, window * C) -> (B, T, n_hidden)
        return with_loss(self.lm_head(x), targets)  # (B, T, n_hidden) -> (B, T, V)

    def new_caches(self, batch_size):
        """Nothing can be kept: each new character moves all others to another position."""
        return []


NETWORKS = {"bigram": Bigram, "mlp": MLP, "gpt": GPT}  # from the simplest up


@dataclass(frozen=True)
class NetworkConfig(GPTConfig):
    """The settings of any of the networks: what its weights were trained for."""

    network: Literal["gpt", "mlp", "bigram"] = "gpt"  # the Transformer, or an ancestor
    n_hidden: int = 512  # width of the MLP's hidden layer


def build(config, vocab_size):
    """A fresh network of the kind that config.network names. ValueError if there is no such kind,
    or if its sizes do not fit."""
    if config.network not in NETWORKS:
        raise ValueError(f"there is no network {config.network!r}")
    return NETWORKS[config.network](config, vocab_size)
