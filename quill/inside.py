"""A look inside a network: what each of its parts computes, and an example with every number.

    python studies.py example

docs/lecture.md goes through what the example prints.
"""

import math

import torch
import torch.nn.functional as F

from model import GPT, NetworkConfig
from quill.terminal import show

SEED = 2  # its attention weights are neither all alike nor all 0 or 1


# --- What the parts compute -------------------------------------------------------------------


@torch.no_grad()
def outputs_of_parts(network, idx):
    """{name of a part of the network: what it returns} in one forward pass of idx (B, T)."""
    outputs, hooks = {}, []
    for name, part in network.named_modules():

        def keep(part, inputs, output, name=name):
            outputs[name] = output

        hooks.append(part.register_forward_hook(keep))
    network(idx)
    for hook in hooks:
        hook.remove()
    return outputs


def attention_weights(network, idx):
    """The attention weights of each head of each layer: (n_layer, n_head, T, T).

    Row t belongs to the character that looks, column s to the one looked at; a row sums to 1.
    idx: (1, T). network: a GPT in eval mode with attention "written_out", since the fused kernel
    does not keep the weights.
    """
    outputs = outputs_of_parts(network, idx)
    names = [f"blocks.{i}.attention.attention_dropout" for i in range(network.config.n_layer)]
    return torch.cat([outputs[name] for name in names])  # n_layer x (1, n_head, T, T)


# --- An example small enough to print ---------------------------------------------------------


def show_rows(title, names, *matrices):
    """Print matrices side by side, under a title: a row for each name."""
    show(f"\n{title}")
    for i, name in enumerate(names):
        rows = ["".join(f"{number:7.2f}" for number in matrix[i]) for matrix in matrices]
        show(f"    {name!r}{'   |'.join(rows)}")


def show_forward_pass(network, ids, vocab):
    """Print what the parts of a GPT of one block compute for a text's token ids (T + 1,)."""
    idx, targets = ids[None, :-1], ids[None, 1:]  # 2 x (1, T)
    outputs = {name: output[0] for name, output in outputs_of_parts(network, idx).items()}
    n_head, head_size = network.config.n_head, network.config.head_size
    qkv = outputs["blocks.0.attention.query_key_value"].view(-1, 3, n_head, head_size)
    q, k, v = qkv.permute(1, 2, 0, 3)  # (T, 3, n_head, head_size) -> 3 x (n_head, T, head_size)
    scores = q @ k.transpose(1, 2) / math.sqrt(head_size)  # (n_head, T, T)
    weights = outputs["blocks.0.attention.attention_dropout"]  # (n_head, T, T)
    logits = outputs["lm_head"]  # (T, V)

    names = [vocab[i] for i in ids[:-1]]
    show_rows("the embedding of each character", names, outputs["token_embedding"])
    show_rows("x: plus the embedding of its position", names, outputs["dropout"])
    show_rows("x normalized: mean 0, variance 1", names, outputs["blocks.0.attention_norm"])
    show("\n(from here to the means: head 1 | head 2)")
    for title, heads in (("queries", q), ("keys", k), ("values", v)):
        show_rows(title, names, *heads)
    show_rows(f"scores: query . key / sqrt({head_size})", names, *scores)
    last, first = q[0, -1], k[0, 0]
    products = " + ".join(f"{a:.2f} * {b:.2f}" for a, b in zip(last, first, strict=True))
    show(
        f"    the first of {names[-1]!r}: ({products}) / sqrt({head_size}) = {scores[0, -1, 0]:.2f}"
    )
    show_rows("weights: softmax of the scores, without those of the future", names, *weights)
    powers = [f"e^{score:.2f}" for score in scores[0, -1]]
    quotient = f"{powers[0]} / ({' + '.join(powers)})"
    show(f"    the first of {names[-1]!r}: {quotient} = {weights[0, -1, 0]:.2f}")
    means = weights @ v  # (n_head, T, T) -> (n_head, T, head_size)
    show_rows("means of the values, by these weights", names, *means)
    products = (f"{a:.2f} * {b:.2f}" for a, b in zip(weights[0, -1], v[0, :, 0], strict=True))
    show(f"    the first of {names[-1]!r}: {' + '.join(products)} = {means[0, -1, 0]:.2f}")
    show_rows("both heads, projected", names, outputs["blocks.0.attention"])
    show_rows("x: plus that, plus the feed-forward network's part", names, outputs["blocks.0"])
    show_rows(f"logits of {', '.join(map(repr, vocab))}", names, logits)
    probabilities = F.softmax(logits, dim=1)  # (T, V)
    show_rows("probabilities: softmax of the logits", names, probabilities)
    show("")
    for t, (name, target) in enumerate(zip(names, ids[1:], strict=True)):
        p = probabilities[t, target].item()
        show(f"after {name!r} comes {vocab[target]!r}: -ln {p:.3f} = {-math.log(p):.3f}")
    show(f"the loss, their mean: {network(idx, targets)[1]:.3f}")


def show_backward_pass():
    """Print the gradients of a chain of operations, by the chain rule and by backward()."""
    x = torch.tensor(2.0)
    w, v = torch.tensor(0.5, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    a = w * x
    h = a.tanh()
    z = v * h
    loss = -z.sigmoid().log()
    for number in (a, h, z):
        number.retain_grad()  # PyTorch would keep those of w and v only
    loss.backward()

    dz = z.sigmoid().item() - 1
    dv, dh = dz * h.item(), dz * v.item()
    da = dh * (1 - h.item() ** 2)
    dw = da * x.item()
    show("\na smaller graph: x = 2, w = 0.5, v = -1")
    show("                           value   chain rule                    backward()")
    show(f"loss = -ln sigmoid(z)   {loss.item():8.4f}")
    for line, number, rule, by_hand in (
        ("z = v h", z, "dz = sigmoid(z) - 1", dz),
        ("v", v, "dv = dz h", dv),
        ("h = tanh(a)", h, "dh = dz v", dh),
        ("a = w x", a, "da = dh (1 - h^2)", da),
        ("w", w, "dw = da x", dw),
    ):
        end = f"{by_hand:7.4f}   {number.grad.item():7.4f}"
        show(f"{line:<24}{number.item():8.4f}   {rule:<20}= {end}")

    other = math.log1p(math.exp(math.tanh(0.501 * 2)))  # -ln sigmoid(z) is ln(1 + e^-z)
    show(f"with w = 0.501, the loss is {other:.4f}: {other - loss.item():.4f} more")


def example(config):
    """Print every number between a text of four characters and the loss, and some gradients. It has
    no settings: `config` is there because the other studies take one."""
    text = "the "
    vocab = "".join(sorted(set(text)))
    ids = torch.tensor([vocab.index(character) for character in text])  # (T + 1,)
    torch.manual_seed(SEED)
    shape = {"vocab_size": len(vocab), "block_size": len(text) - 1, "n_layer": 1, "n_head": 2}
    network = GPT(NetworkConfig(n_embd=4, **shape))
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(std=0.5)  # large enough to be seen in every table
    show(f"text {text!r}, vocabulary {vocab!r}, ids {ids.tolist()}")
    show_forward_pass(network, ids, vocab)
    show_backward_pass()
