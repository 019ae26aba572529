"""A network small enough that every number between its text and its loss can be printed.

docs/lecture.md explains what this prints.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model import GPT, GPTConfig
from quill.settings import read_options
from study.inside import outputs_of_parts

TEXT = "the "
SHAPE = GPTConfig(block_size=len(TEXT) - 1, n_layer=1, n_head=2, n_embd=4)


@dataclass(frozen=True)
class ExampleOptions:
    seed: int = 2  # of the random weights; try others


def example(arguments):
    """Print every number between a tiny text and its loss."""
    options = read_options(arguments, ExampleOptions, "-m study example")
    vocab = "".join(sorted(set(TEXT)))
    ids = torch.tensor([vocab.index(character) for character in TEXT])  # (T + 1,)
    torch.manual_seed(options.seed)
    network = GPT(SHAPE, len(vocab)).eval()
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(std=0.5)  # with INIT_STD, most entries would print as 0.0
    print(f"text {TEXT!r}, vocabulary {vocab!r}, ids {ids.tolist()}")
    print_forward_pass(network, ids, vocab)


def print_rows(title, names, *matrices):
    """Print a title, then matrices side by side, with a name before each row."""
    print(f"\n{title}")
    for i, name in enumerate(names):
        rows = ["".join(f"{entry:7.2f}" for entry in matrix[i]) for matrix in matrices]
        print(f"    {name!r}{'   |'.join(rows)}")


def print_forward_pass(network, ids, vocab):
    """Print what each part of a GPT with one block computes. ids: (T + 1,), the text."""
    idx, targets = ids[None, :-1], ids[None, 1:]  # 2 x (1, T)
    outputs = {name: output[0] for name, output in outputs_of_parts(network, idx).items()}
    n_head, head_size = SHAPE.n_head, SHAPE.n_embd // SHAPE.n_head
    qkv = outputs["blocks.0.attention.query_key_value"].view(-1, 3, n_head, head_size)
    q, k, v = qkv.permute(1, 2, 0, 3)  # (T, 3, n_head, head_size) -> 3 x (n_head, T, head_size)
    scores = q @ k.transpose(1, 2) / math.sqrt(head_size)  # (n_head, T, T)
    weights = outputs["blocks.0.attention.attention_dropout"]  # (n_head, T, T)
    means = weights @ v  # (n_head, T, T) -> (n_head, T, head_size)
    probabilities = F.softmax(outputs["lm_head"], dim=1)  # (T, V)

    names = [vocab[i] for i in ids[:-1]]
    first = f"    first entry of {names[-1]!r}:"
    print_rows("the embedding of each character", names, outputs["token_embedding"])
    print_rows("x: plus the embedding of its position", names, outputs["dropout"])
    print_rows("x normalized: mean 0, variance 1", names, outputs["blocks.0.attention_norm"])
    print("\n(from here to the means: head 1 | head 2)")
    for title, heads in (("queries", q), ("keys", k), ("values", v)):
        print_rows(title, names, *heads)
    print_rows(f"scores: query . key / sqrt({head_size})", names, *scores)
    products = " + ".join(f"{a:.2f} * {b:.2f}" for a, b in zip(q[0, -1], k[0, 0], strict=True))
    print(f"{first} ({products}) / sqrt({head_size}) = {scores[0, -1, 0]:.2f}")
    print_rows("weights: softmax of the scores, without those of the future", names, *weights)
    powers = [f"e^{score:.2f}" for score in scores[0, -1]]
    print(f"{first} {powers[0]} / ({' + '.join(powers)}) = {weights[0, -1, 0]:.2f}")
    print_rows("means of the values, with these weights", names, *means)
    pairs = zip(weights[0, -1], v[0, :, 0], strict=True)
    products = " + ".join(f"{weight:.2f} * {value:.2f}" for weight, value in pairs)
    print(f"{first} {products} = {means[0, -1, 0]:.2f}")
    print_rows("both heads, projected", names, outputs["blocks.0.attention"])
    x = outputs["dropout"] + outputs["blocks.0.attention"]  # (T, C)
    print_rows("x: plus that", names, x)
    print_rows("x normalized, for feed-forward", names, outputs["blocks.0.feed_forward_norm"])
    print_rows("the output of feed-forward", names, outputs["blocks.0.feed_forward"])
    print_rows("x: plus the output of feed-forward", names, outputs["blocks.0"])
    print_rows("x normalized, for the logits", names, outputs["norm"])
    print_rows(f"logits of {', '.join(map(repr, vocab))}", names, outputs["lm_head"])
    pairs = zip(outputs["norm"][1], outputs["token_embedding"][1], strict=True)
    products = " + ".join(f"{a:.2f} * {b:.2f}" for a, b in pairs)
    logit = outputs["lm_head"][1, ids[1]]
    print(f"    entry {names[1]!r} of {names[1]!r}: {products} = {logit:.2f}")
    print_rows("probabilities: softmax of the logits", names, probabilities)
    print()
    for name, row, target in zip(names, probabilities, ids[1:], strict=True):
        p = row[target].item()
        print(f"after {name!r} comes {vocab[target]!r}: -ln {p:.3f} = {-math.log(p):.3f}")
    print(f"the loss, their mean: {network(idx, targets)[1]:.3f}")
