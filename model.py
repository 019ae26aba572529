"""A decoder-only Transformer, complete: the network, its loss, and how it generates text.

A language model gives each possible next character a probability, given the characters before it.
This one is GPT-2 (Radford et al. 2019, https://github.com/openai/gpt-2). The file goes from the
smallest part to the whole, and ends with the generation of text.

In the shapes: B sequences in a batch, T characters in a sequence, C entries of an embedding
(n_embd), V characters in the vocabulary (vocab_size).

Where it departs from GPT-2 (docs/settings.md has the loss with and without each):

- positions can be learned as in GPT-2, sinusoidal, rotary, or absent;
- queries and keys can be normalized (qk_norm);
- each part of a block can read half of the previous character's vector (token_shift);
- linear layers and norms have no biases unless asked for; GELU is exact, not approximated;
- position embeddings start as large as the others, not half as large;
- a token is one character, so the vocabulary is the text's: 65 entries, not 50,257.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

INIT_STD = 0.02  # GPT-2's; so small that the first predictions are close to uniform


@dataclass(frozen=True)
class GPTConfig:
    """The settings of a network. The defaults are those of nanoGPT's CPU recipe."""

    n_layer: int = 4  # number of blocks
    n_head: int = 4  # attention heads in a block
    n_embd: int = 128  # embedding dimension: the size of a character's vector
    block_size: int = 64  # context: how many characters the network reads at once
    position: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"  # positional encoding
    qk_norm: bool = False  # layer norm of queries and keys
    token_shift: bool = False  # half of a block's input is the previous character's
    bias: bool = False  # biases in linear layers and layer norms
    dropout: float = 0.0  # probability of zeroing an activation


# --- Layers that compute in the dtype of their input ------------------------------------------


class Linear(nn.Linear):
    """A linear layer that multiplies in the dtype of x. Its weights stay float32, because in
    bfloat16, small updates would be rounded away. Source: https://github.com/karpathy/nanochat."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """Subtract each vector's mean, divide by its standard deviation, multiply by trained gains."""

    def forward(self, x):
        if not x.is_cuda:
            return super().forward(x)
        # CUDA's kernel needs gains in the dtype of x.
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


# --- Positions: attention by itself does not know the order of the characters -----------------


def position_angles(length, pairs):
    """The angle of each position for each pair of entries: (length, pairs), in radians.

    From one character to the next, the angle of pair i grows by 1 / 10000^(i / pairs): fast pairs
    tell neighbors apart, slow ones near from far. Source: Vaswani et al. 2017, section 3.5.
    """
    frequencies = 10000.0 ** -(torch.arange(pairs) / pairs)  # (pairs,)
    return torch.outer(torch.arange(length), frequencies)  # (length, pairs)


def rotary_tables(length, head_size):
    """cos and sin for rotate(), each (length, head_size). In sin, the half for a is negative."""
    angles = position_angles(length, head_size // 2)  # (length, head_size / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def rotate(x, cos, sin):
    """Rotate each pair of entries in x (..., T, head_size) by the angle of its position: entry i of
    the first half, a, and of the second, b, become (a cos - b sin, b cos + a sin). The product of a
    query and a key then depends on their distance only. Source: Su et al. 2021,
    https://arxiv.org/abs/2104.09864."""
    partners = x.roll(x.shape[-1] // 2, dims=-1)  # (a, b) -> (b, a)
    return torch.addcmul(x * cos, partners, sin)  # (..., T, head_size)


# --- Attention: each character gathers information from the characters before it --------------


def split_heads(qkv, n_head):
    """Split into queries, keys and values per head. One contiguous copy is faster than three."""
    B, T, _ = qkv.shape
    qkv = qkv.view(B, T, 3, n_head, -1)  # (B, T, 3C) -> (B, T, 3, n_head, head_size)
    return qkv.permute(2, 0, 3, 1, 4).contiguous()  # -> (3, B, n_head, T, head_size)


class CausalSelfAttention(nn.Module):
    """Each character takes a weighted mean of the values of itself and all characters before it;
    the weights say how well its query matches their keys. (B, T, C) -> (B, T, C), in n_head heads
    side by side, whose queries, keys and values have C / n_head entries each.
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2."""

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd {config.n_embd} is not a multiple of n_head {config.n_head}")
        self.n_head, self.head_size = config.n_head, config.n_embd // config.n_head
        if config.position == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even n_embd / n_head, not {self.head_size}")
        self.qk_norm = config.qk_norm
        self.query_key_value = Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.projection = Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x, rotary=None, cache=None):
        q, k, v = split_heads(self.query_key_value(x), self.n_head)  # 3 x (B, n_head, T, head_size)
        if self.qk_norm:
            q, k = F.layer_norm(q, (self.head_size,)), F.layer_norm(k, (self.head_size,))
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.extend(k, v)  # 2 x (B, n_head, S, head_size), S = characters so far
        y = self.attend(q.to(k.dtype), k, v)  # (B, n_head, T, head_size), in the cache's dtype
        y = y.transpose(1, 2).flatten(2)  # (B, n_head, T, head_size) -> (B, T, C)
        return self.residual_dropout(self.projection(y.to(x.dtype)))  # (B, T, C)

    def attend(self, q, k, v):
        """softmax(q k^T / sqrt(head_size)) v, where no query sees a later key.

        q: (B, n_head, T, head_size), the last T of S characters. k, v: (B, n_head, S, head_size).
        """
        T, S = q.shape[2], k.shape[2]
        if q.is_cuda and T == S:
            # The same in one kernel, which never stores the (T, T) weights; on a CPU it is slower.
            p = self.attention_dropout.p if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        scores = (q / math.sqrt(self.head_size)) @ k.transpose(2, 3)  # (B, n_head, T, S)
        if T > 1:  # a single query is the newest: it may see every key
            future = torch.full((T, S), -math.inf, dtype=scores.dtype, device=scores.device)
            scores = scores + future.triu(1 + S - T)  # softmax turns -inf into a weight of 0
        weights = self.attention_dropout(F.softmax(scores, dim=3))  # (B, n_head, T, S)
        return weights @ v  # (B, n_head, T, S) -> (B, n_head, T, head_size)


# --- The feed-forward network and the block ---------------------------------------------------


class FeedForward(nn.Module):
    """Each character processes, by itself, what it has gathered: (B, T, C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.expand = Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.projection = Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        x = F.gelu(self.expand(x))  # (B, T, C) -> (B, T, 4C)
        return self.dropout(self.projection(x))  # (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then feed-forward. Each normalizes x, and adds its result to x, which is called
    the residual stream. (B, T, C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.token_shift = config.token_shift
        self.attention_norm = LayerNorm(config.n_embd, bias=config.bias)
        self.attention = CausalSelfAttention(config)
        self.feed_forward_norm = LayerNorm(config.n_embd, bias=config.bias)
        self.feed_forward = FeedForward(config)

    def forward(self, x, rotary=None, cache=None):
        y = self.attention_norm(x)  # (B, T, C)
        if self.token_shift:
            y = shift(y, None if cache is None else cache.attention_half)
        x = x + self.attention(y, rotary, cache)
        y = self.feed_forward_norm(x)  # (B, T, C)
        if self.token_shift:
            y = shift(y, None if cache is None else cache.feed_forward_half)
        return x + self.feed_forward(y)  # (B, T, C)


# --- Token shift: each character also sees the previous one -----------------------------------


def shift(x, previous=None):
    """Replace the first half of each vector in x (B, T, C) with that of the character before it.

    Whatever reads the result sees two neighbors at once, which attention would have to learn to
    find. previous: (B, 1, C / 2), the half that precedes x (None: zeros), updated in place for the
    next call. Source: Bo Peng, https://github.com/BlinkDL/RWKV-LM.
    """
    half = x.shape[2] // 2
    first, second = x.split([half, x.shape[2] - half], dim=2)  # (B, T, C) -> 2 x (B, T, C / 2)
    start = torch.zeros_like(first[:, :1]) if previous is None else previous  # (B, 1, C / 2)
    shifted = torch.cat([start, first[:, :-1]], dim=1)  # (B, T, C / 2)
    if previous is not None:
        previous.copy_(first[:, -1:])
    return torch.cat([shifted, second], dim=2)  # (B, T, C)


# --- The network and its loss -----------------------------------------------------------------


class GPT(nn.Module):
    """From characters to the logits of the next character, at every position at once."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.dtype = torch.float32  # of x in the blocks; quill/hardware.py chooses a faster one
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        elif config.position == "sinusoidal":
            angles = position_angles(config.block_size, config.n_embd // 2)
            table = torch.cat([angles.sin(), angles.cos()], dim=1)  # (block_size, C)
            table *= INIT_STD * math.sqrt(2)  # as large as a fresh embedding
            self.register_buffer("position_table", table, persistent=False)
        elif config.position == "rotary":
            cos, sin = rotary_tables(config.block_size, config.n_embd // config.n_head)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = Linear(config.n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # tied: one matrix for both
        self.initialize()

    @torch.no_grad()
    def initialize(self):
        """Draw the weights as GPT-2 does: from a normal distribution with INIT_STD. The two
        projections of a block get a smaller one, since 2 n_layer of their outputs add up in x."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("projection.weight"):
                parameter.normal_(std=INIT_STD / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                parameter.normal_(std=INIT_STD)

    def forward(self, idx, targets=None, caches=None):
        """The logits of the next character at each position, and the loss.

        idx: (B, T) token ids, T <= block_size (else ValueError). targets: (B, T), the ids that
        come next. caches: one Cache per block, whose text idx continues; None or [] without.
        Returns logits (B, T, V), and the mean cross-entropy in nats (None without targets).
        """
        start = caches[0].length if caches else 0
        end = start + idx.shape[1]
        if end > self.config.block_size:
            raise ValueError(f"{end} characters do not fit block_size {self.config.block_size}")
        x = self.token_embedding(idx)  # (B, T) -> (B, T, C)
        if self.config.position == "learned":
            x = x + self.position_embedding.weight[start:end]  # (B, T, C) + (T, C)
        elif self.config.position == "sinusoidal":
            x = x + self.position_table[start:end]  # (B, T, C) + (T, C)
        x = self.dropout(x).to(self.dtype)  # every layer from here on computes in this dtype
        rotary = None
        if self.config.position == "rotary":
            rotary = self.cos[start:end].to(x.dtype), self.sin[start:end].to(x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, caches[layer] if caches else None)  # (B, T, C)
        logits = self.lm_head(self.norm(x))  # (B, T, C) -> (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def new_caches(self, batch_size):
        """One empty Cache per block: what forward() takes in generation."""
        device = self.lm_head.weight.device
        return [Cache(self.config, batch_size, device, self.dtype) for _ in self.blocks]


# --- Generation: from logits to text ----------------------------------------------------------


def next_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution from which the next token is drawn: (B, V) -> (B, V), rows sum to 1.

    The logits are divided by the temperature: below 1, likely tokens become more likely; at 0 only
    the most likely one remains. top_k keeps the k most likely tokens; of these, top_p keeps the
    fewest whose sum reaches the fraction p (nucleus sampling, Holtzman et al. 2019,
    https://arxiv.org/abs/1904.09751).
    """
    if temperature < 1e-4:  # no different from 0, and dividing by it could overflow
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).float()
    probabilities = F.softmax(logits.float() / temperature, dim=1)
    if top_k is None and top_p is None:
        return probabilities
    probabilities, order = probabilities.sort(dim=1, descending=True, stable=True)
    if top_k is not None:
        probabilities[:, top_k:] = 0
    if top_p is not None:
        sum_before = probabilities.cumsum(dim=1) - probabilities
        sum_before[:, 0] = -1  # the most likely token stays, however small top_p is
        probabilities[sum_before >= top_p * probabilities.sum(dim=1, keepdim=True)] = 0
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(1, order, probabilities)  # in their old order


class Cache:
    """What one block remembers of the text that it has read, for generation.

    A character's key and value do not depend on later ones, so they are computed once: a new
    character costs one pass over itself, not over the text. On a CPU they are kept in float32:
    attention for a single query is several times slower in bfloat16.
    """

    def __init__(self, config, batch_size, device, dtype):
        B, C, n_head = batch_size, config.n_embd, config.n_head
        shape, self.length = (B, n_head, config.block_size, C // n_head), 0  # characters so far
        kept = torch.float32 if device.type == "cpu" else dtype
        self.keys = torch.empty(shape, device=device, dtype=kept)
        self.values = torch.empty(shape, device=device, dtype=kept)
        # For shift(): half of the last character's vector, as each part of the block read it.
        self.attention_half = torch.zeros(B, 1, C // 2, device=device, dtype=dtype)
        self.feed_forward_half = torch.zeros(B, 1, C // 2, device=device, dtype=dtype)

    def extend(self, k, v):
        """Append keys and values (B, n_head, T, head_size), and return all so far, T = length."""
        start, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


@torch.inference_mode()
def stream(network, idx, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Continue idx (B, T), T >= 1: yields the next token of each sequence, (B, 1), one at a time.

    The first pass reads the last block_size tokens of the prompt and caches their keys and values;
    after that, each pass reads one token. When the cache is full, the newest block_size // 2
    tokens are read again, at positions 0, 1, ...: so in a long text, a token sees between half a
    window and a whole one. A network without a cache reads the last block_size tokens each time.
    A `generator` makes the result repeatable.
    """
    block_size, caches = network.config.block_size, network.new_caches(len(idx))
    window = unread = idx[:, -block_size:]  # (B, <= block_size)
    for _ in range(max_new_tokens):
        logits, _ = network(unread, caches=caches)  # (B, T') -> (B, T', V)
        probabilities = next_probabilities(logits[:, -1], temperature, top_k, top_p)
        drawn = torch.multinomial(probabilities, 1, generator=generator)  # (B, V) -> (B, 1)
        yield drawn
        window = torch.cat([window, drawn], dim=1)[:, -block_size:]
        unread = drawn if caches else window
        if caches and caches[0].length == block_size:
            caches = network.new_caches(len(idx))
            unread = window[:, -max(1, block_size // 2) :]


def generate(network, idx, max_new_tokens, **settings):
    """idx (B, T) and its continuation by stream(): (B, T + max_new_tokens). Call network.eval()
    first, or dropout applies."""
    return torch.cat([idx, *stream(network, idx, max_new_tokens, **settings)], dim=1)
