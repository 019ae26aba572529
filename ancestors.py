"""The Transformer's two small ancestors: counting pairs, and a window of embeddings.

Both answer the same question as model.py's GPT, through the same interface: characters in, scores
for the next character out, at every position at once. The letters in the shapes are model.py's:
B sequences in a batch, T characters in a sequence, C numbers a character (n_embd), V characters in
the vocabulary.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

INIT_STD = 0.02  # small enough that the first predictions are close to uniform


def with_loss(logits, targets):
    """(logits (B, T, V), the mean cross-entropy of targets (B, T) in nats, or None without)."""
    if targets is None:
        return logits, None
    return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Bigram(nn.Module):
    """What follows a character depends on that character alone: a table of V x V scores.

    Trained, row a of the table holds the logarithms of how often each character follows a.
    Source: Markov 1913, who counted vowels and consonants in Onegin; Shannon 1948, section 3,
    https://doi.org/10.1002/j.1538-7305.1948.tb01338.x.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        nn.init.normal_(self.table.weight, std=INIT_STD)

    def forward(self, idx, targets=None, caches=None):
        """Scores of the next character after each of idx (B, T), and the loss, as GPT's."""
        return with_loss(self.table(idx), targets)  # (B, T) -> (B, T, V)

    def new_caches(self):
        """Nothing is worth keeping between one character and the next."""
        return []


class MLP(nn.Module):
    """The last block_size characters, each as a vector, side by side, through one tanh layer.

    What it can say depends on which character stands at which place, but it learns each place by
    itself, and sees nothing beyond them. At the start of a sequence, zeros stand for the characters
    that are missing. Source: Bengio et al. 2003, https://jmlr.org/papers/v3/bengio03a.html, without
    the direct connections, which the paper found to be of no help.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        # Of size 1, as PyTorch draws them: with 0.02 config/mlp.py ends at 2.15, not at 1.85.
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.hidden = nn.Linear(config.block_size * config.n_embd, config.n_hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.n_hidden, config.vocab_size)
        nn.init.normal_(self.lm_head.weight, std=INIT_STD)
        nn.init.zeros_(self.lm_head.bias)

    def forward(self, idx, targets=None, caches=None):
        """Scores of the next character after each of idx (B, T), and the loss, as GPT's."""
        places = self.config.block_size
        x = self.token_embedding(idx)  # (B, T) -> (B, T, C)
        x = F.pad(x, (0, 0, places - 1, 0))  # (B, T, C) -> (B, places - 1 + T, C)
        x = x.unfold(1, places, 1)  # -> (B, T, C, places): each character and those before it
        x = x.transpose(2, 3).flatten(2)  # (B, T, C, places) -> (B, T, places * C)
        x = self.dropout(torch.tanh(self.hidden(x)))  # (B, T, places * C) -> (B, T, n_hidden)
        return with_loss(self.lm_head(x), targets)  # (B, T, n_hidden) -> (B, T, V)

    def new_caches(self):
        """A place's part of the sum changes with every character, so there is nothing to keep."""
        return []
