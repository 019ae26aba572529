"""A decoder-only Transformer, complete: the network, its loss, and how it generates text.

A language model gives each possible next character a probability, given the characters before it.
This one is GPT-2 (Radford et al. 2019, https://github.com/openai/gpt-2). The file goes from the
smallest part to the whole: positions, attention, feed-forward, block, GPT, and then generation.

The letters in the shapes: B sequences in a batch, T characters in a sequence, C the embedding
dimension (n_embd), V characters in the vocabulary (vocab_size).

Where it departs from GPT-2 (docs/settings.md has the losses with and without):

- positions can be learned as in GPT-2, sinusoidal, rotary, or absent;
- queries and keys can be normalized (qk_norm);
- each part of a block can read half of the previous character's vector (token_shift);
- linear layers and norms have no biases unless asked for; GELU is exact, not approximated;
- a token is one character, so the vocabulary is the text's: 65 entries, not 50,257.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

INIT_STD = 0.02  # GPT-2's; so small that the first predictions are close to uniform
WAVELENGTH_BASE = 10000.0  # the slowest pair needs at most 2 pi * 10000 characters for a rotation


@dataclass
class NetworkConfig:
    """The settings of a network. Raises ValueError, with the reason, if they do not fit."""

    vocab_size: int
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = False
    position: str = "learned"  # or sinusoidal, rotary, none
    qk_norm: bool = False
    token_shift: bool = False
    attention: str = "written_out"  # or fused
    network: str = "gpt"  # or one of ancestors.py
    n_hidden: int = 512  # of the mlp in ancestors.py

    def __post_init__(self):
        n_embd, n_head = self.n_embd, self.n_head
        problem = None
        if n_embd % n_head:
            problem = f"n_embd must be a multiple of n_head: {n_embd} is not one of {n_head}"
        elif self.position == "rotary" and self.head_size % 2:
            problem = f"rotary positions need an even n_embd / n_head, not {self.head_size}"
        elif self.position == "sinusoidal" and n_embd % 2:
            problem = f"sinusoidal positions need an even n_embd, not {n_embd}"
        if problem and self.network == "gpt":
            raise ValueError(problem)

    @property
    def head_size(self):
        return self.n_embd // self.n_head


# --- Positions: attention by itself does not know in which order the characters stand ---------


def position_angles(length, pairs):
    """The angle of each position for each pair of numbers: (length, pairs), in radians.

    From one character to the next, pair i advances by 1 / 10000^(i / pairs): fast pairs tell
    neighbors apart, slow pairs tell near from far.
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.
    """
    speed = WAVELENGTH_BASE ** -(torch.arange(pairs) / pairs)  # (pairs,)
    return torch.outer(torch.arange(length), speed)  # (length, pairs)


def rotary_tables(length, head_size):
    """The two factors in rotate(), each (length, head_size): the cosines, and the sines, negative
    for the first number of each pair."""
    angles = position_angles(length, head_size // 2)  # (length, head_size / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def rotate(x, cos, sin):
    """Rotate each pair of numbers in x (..., T, head_size) by the angle of its position.

    Number i of the first half and number i of the second half are a pair: (a, b) becomes
    (a cos - b sin, b cos + a sin). The dot product of a query and a key then depends on the
    distance between them only. Source: Su et al. 2021, https://arxiv.org/abs/2104.09864.
    """
    partners = x.roll(x.shape[-1] // 2, dims=-1)  # (a, b) -> (b, a)
    return torch.addcmul(x * cos, partners, sin)  # (..., T, head_size)


# --- Attention: each character gathers information from the characters before it --------------


class KeyValueCache:
    """The keys and values that one attention layer has computed so far, for generation.

    A character's key and value do not depend on later characters, so they are computed once and
    kept: a new character costs one pass over itself, not over the whole text.
    """

    def __init__(self, block_size):
        self.block_size = block_size
        self.length = 0
        self.previous = {}  # for token_shift: {norm: its newest output, (B, 1, C)}

    def extend(self, k, v):
        """Append keys and values (B, n_head, T, head_size); returns all that are kept so far, each
        (B, n_head, length, head_size)."""
        if self.length == 0:
            B, n_head, _, head_size = k.shape
            self.keys = k.new_empty(B, n_head, self.block_size, head_size)
            self.values = torch.empty_like(self.keys)
        start, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class CausalSelfAttention(nn.Module):
    """Each character takes a weighted mean of the values of itself and all characters before it;
    the weights say how well its query matches their keys. (B, T, C) -> (B, T, C), in n_head heads
    side by side, each on C / n_head of the numbers.

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.projection = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x, rotary=None, cache=None):
        B, T, C = x.shape
        n_head, head_size = self.config.n_head, self.config.head_size

        qkv = self.query_key_value(x)  # (B, T, C) -> (B, T, 3C)
        qkv = qkv.view(B, T, 3, n_head, head_size)  # (B, T, 3C) -> (B, T, 3, n_head, head_size)
        qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()  # -> (3, B, n_head, T, head_size)
        qk, v = qkv.split([2, 1])  # -> (2, B, n_head, T, head_size), (1, B, n_head, T, head_size)
        if self.config.qk_norm:
            qk = F.layer_norm(qk, (head_size,))
        if rotary is not None:
            qk = rotate(qk, *rotary)
        q, k, v = *qk, v.squeeze(0)  # (2, ...) and (1, ...) -> 3 x (B, n_head, T, head_size)
        start = cache.length if cache else 0
        if cache:
            k, v = cache.extend(k, v)  # 2 x (B, n_head, start + T, head_size)

        if (cache and T == 1) or (self.config.attention == "fused" and start == 0):
            # The same numbers from one kernel, which never stores the (T, T) weights. The newest
            # token needs no mask: it sees all others.
            p = self.config.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=T > 1)
        else:
            y = self.attend_written_out(q, k, v, start)  # (B, n_head, T, head_size)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, n_head, T, head_size) -> (B, T, C)
        return self.residual_dropout(self.projection(y))  # (B, T, C)

    def attend_written_out(self, q, k, v, start):
        """softmax(q k^T / sqrt(head_size)) v, where no query sees a later key.

        q: (B, n_head, T, head_size), the characters from position `start` on.
        k, v: (B, n_head, S, head_size), the characters from position 0 on.
        """
        T, S = q.shape[2], k.shape[2]
        scores = (q / math.sqrt(q.shape[3])) @ k.transpose(2, 3)  # (B, n_head, T, S)
        future = torch.full((T, S), -math.inf, dtype=scores.dtype, device=scores.device)
        scores = scores + future.triu(1 + start)  # softmax turns -inf into a weight of 0
        weights = self.attention_dropout(F.softmax(scores, dim=3))  # (B, n_head, T, S)
        return weights @ v  # (B, n_head, T, S) -> (B, n_head, T, head_size)


# --- Token shift: each character also sees the previous one -----------------------------------


def shift(x, before):
    """Replace half of each character's numbers by those of the character before it.

    x: (B, T, C). before: (B, 1, C), the character that precedes x. Whatever reads the result sees
    a pair of neighbors at once, which attention would first have to learn to find.
    Source: Bo Peng's token-shift, https://github.com/BlinkDL/RWKV-LM.
    """
    half = x.shape[2] // 2
    earlier, own = x.split([half, x.shape[2] - half], dim=2)  # (B, T, C) -> 2 x (B, T, C / 2)
    earlier = torch.cat([before[:, :, :half], earlier[:, :-1]], dim=1)  # (B, T, C / 2)
    return torch.cat([earlier, own], dim=2)  # (B, T, C)


# --- The feed-forward network and the block ---------------------------------------------------


class FeedForward(nn.Module):
    """Each character processes what it has gathered, by itself: (B, T, C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.projection = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        x = F.gelu(self.expand(x))  # (B, T, C) -> (B, T, 4C)
        return self.dropout(self.projection(x))  # (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then feed-forward. Both add their result to x, the residual stream that runs
    through the whole network, and read it normalized: (B, T, C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.token_shift = config.token_shift
        self.attention_norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = CausalSelfAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.feed_forward = FeedForward(config)

    def forward(self, x, rotary=None, cache=None):
        x = x + self.attention(self.read(x, self.attention_norm, cache), rotary, cache)
        x = x + self.feed_forward(self.read(x, self.feed_forward_norm, cache))  # (B, T, C)
        return x

    def read(self, x, norm, cache):
        """What a part of the block reads of the residual stream x: (B, T, C) -> (B, T, C)."""
        x = norm(x)
        if not self.token_shift:
            return x
        before = torch.zeros_like(x[:, :1])  # (B, 1, C)
        if cache is not None:
            before = cache.previous.get(norm, before)
            cache.previous[norm] = x[:, -1:]
        return shift(x, before)


# --- The network and its loss -----------------------------------------------------------------


def with_loss(logits, targets):
    """Returns logits (B, T, V) and the mean cross-entropy in nats (None if targets is None)."""
    if targets is None:
        return logits, None
    return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class GPT(nn.Module):
    """From characters to the logits of the next character, at every position at once."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        elif config.position == "sinusoidal":
            angles = position_angles(config.block_size, config.n_embd // 2)
            table = torch.cat([angles.sin(), angles.cos()], dim=1)  # (block_size, C)
            table *= INIT_STD * math.sqrt(2)  # as large as a fresh embedding
            self.register_buffer("position_table", table, persistent=False)
        elif config.position == "rotary":
            cos, sin = rotary_tables(config.block_size, config.head_size)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # tied: one matrix for both
        self.initialize()

    @torch.no_grad()
    def initialize(self):
        """Draw the weights as GPT-2 does: from a normal distribution with INIT_STD. The layers
        that add to the residual stream get less, since 2 n_layer of them add up."""
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
        come next. caches: one KeyValueCache per block; idx then continues what they hold.
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
        x = self.dropout(x)
        rotary = None
        if self.config.position == "rotary":  # here, since x keeps its dtype from here on
            rotary = self.cos[start:end].to(x.dtype), self.sin[start:end].to(x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, caches[layer] if caches else None)  # (B, T, C)
        logits = self.lm_head(self.norm(x))  # (B, T, C) -> (B, T, V)
        return with_loss(logits, targets)

    def new_caches(self):
        """One empty KeyValueCache per block: what forward() takes in generation."""
        return [KeyValueCache(self.config.block_size) for _ in self.blocks]


# --- Generation: from logits to text ----------------------------------------------------------


def next_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution from which the next token is drawn: (B, V) -> (B, V), rows sum to 1.

    The logits are divided by the temperature: below 1, likely tokens become likelier; at 0 only
    the likeliest remains. top_k keeps the k likeliest tokens; top_p then keeps the likeliest ones
    whose probabilities first sum to p or more (nucleus sampling, Holtzman et al. 2019,
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
        probabilities /= probabilities.sum(dim=1, keepdim=True)
    if top_p is not None:
        sum_before = probabilities.cumsum(dim=1) - probabilities
        sum_before[:, 0] = -1  # the likeliest token stays, however small top_p is
        probabilities[sum_before >= top_p] = 0
        probabilities /= probabilities.sum(dim=1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(1, order, probabilities)


@torch.inference_mode()
def stream(network, idx, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Continue idx (B, T), T >= 1: yields the next token of each sequence, (B, 1), one at a time.

    The first pass reads the last block_size tokens of the prompt and caches their keys and values;
    after that, each pass reads one token. When the cache is full, the newest block_size // 2
    tokens are read again, as positions 0 and up, and the cache fills up once more. So in a long
    text, a token sees between half a window and a whole one, and costs two one-token passes on
    average. A network without a cache reads the last block_size tokens each time.
    A `generator` makes the result repeatable.
    """
    block_size = network.config.block_size
    window = idx[:, -block_size:]  # (B, <= block_size)
    unread, caches = window, network.new_caches()
    for _ in range(max_new_tokens):
        logits, _ = network(unread, caches=caches)  # (B, T') -> (B, T', V)
        probabilities = next_probabilities(logits[:, -1], temperature, top_k, top_p)
        # Token i has the largest quotient with probability p_i; multinomial would wait for a GPU.
        noise = torch.empty_like(probabilities).exponential_(generator=generator)  # (B, V)
        drawn = (probabilities / noise).argmax(dim=1, keepdim=True)  # (B, V) -> (B, 1)
        yield drawn
        window = torch.cat([window, drawn], dim=1)[:, -block_size:]
        unread = drawn if caches else window
        if caches and caches[0].length == block_size:
            caches = network.new_caches()
            unread = window[:, -max(1, block_size // 2) :]


def generate(network, idx, max_new_tokens, **settings):
    """idx (B, T) and its continuation: (B, T + max_new_tokens). `settings` are stream()'s.

    Call network.eval() first, or dropout applies.
    """
    return torch.cat([idx, *stream(network, idx, max_new_tokens, **settings)], dim=1)
