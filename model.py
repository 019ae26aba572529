"""The network: a decoder-only Transformer, from its smallest part to the whole.

Its two small ancestors, a table of pairs and a window of embeddings, are in ancestors.py.

A language model gives each possible next character a probability, given the characters before it.
This one is GPT-2 (Radford et al. 2019, https://github.com/openai/gpt-2), read top to bottom.
The letters in the shapes: B sequences in a batch, T characters in a sequence, C numbers a
character (n_embd), V characters in the vocabulary (vocab_size).

Where it departs from GPT-2, and what that does to the validation loss of config/shakespeare_cpu.py
(2,000 steps; the same run with another seed differs by 0.01):

- Positions can be rotary: 1.784, where GPT-2's learned ones give 1.897, sinusoidal ones 1.933 and
  none at all 2.064.
- Queries and keys can be layer-normalised (qk_norm): 1.769. Off unless asked for. (RMS norm does as
  well, 1.777, but PyTorch has no kernel for it on CPUs: 3 ms more a layer at block 256.)
- Each part of a block can see half of the character before (token_shift): 1.662. Off unless asked
  for, to keep the quick start a plain Transformer; both fast recipes have it.
- No biases in linear layers and norms unless asked for: no difference, so they earn nothing.
- Dropout on CPUs draws 16 random bits a number: two thirds of a step's time, the same distribution.
- Sinusoidal positions are scaled to the size of a fresh embedding (0.02, not 0.7).
- Weights are drawn with the same 0.02, but one character is one token, so the vocabulary is the
  text's: 65, not 50,257.
"""

import contextlib
import math
import time
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from ancestors import INIT_STD, MLP, Bigram, with_loss
from config import UserError

ROTARY_BASE = 10000.0  # the longest wavelength of positional encodings, in characters over 2 pi


@dataclass
class NetworkConfig:
    """The shape of a network. Raises ValueError, with the reason, where no such network exists."""

    vocab_size: int
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = False
    position: str = "learned"
    qk_norm: bool = False
    token_shift: bool = False
    attention: str = "auto"
    network: str = "gpt"
    n_hidden: int = 512

    def __post_init__(self):
        if self.network not in ("bigram", "mlp", "gpt"):
            raise ValueError(f"network must be bigram, mlp or gpt, not {self.network}")
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.network == "gpt":
            self.check_gpt()

    def check_gpt(self):
        """Raise ValueError where the sizes of a Transformer do not fit each other."""
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head: {self.n_embd} numbers "
                f"cannot be shared out evenly to {self.n_head} heads"
            )
        if self.position not in ("learned", "sinusoidal", "rotary", "none"):
            raise ValueError(
                f"position must be learned, sinusoidal, rotary or none, not {self.position}"
            )
        if self.position == "rotary" and self.head_size % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers, so n_embd / n_head must be even, "
                f"not {self.head_size}"
            )
        if self.position == "sinusoidal" and self.n_embd % 2:
            raise ValueError(
                f"sinusoidal positions come in pairs, so n_embd must be even, not {self.n_embd}"
            )
        if self.attention not in ("auto", "written_out", "fused"):
            raise ValueError(f"attention must be auto, written_out or fused, not {self.attention}")

    @property
    def head_size(self):
        return self.n_embd // self.n_head


# ---------------------------------------------------------------------------------------------
# Positions: attention alone cannot tell "ab" from "ba"


def position_angles(positions, pairs):
    """Angles that tell positions apart: pair i turns at 1 / 10000^(i / pairs) radians a character.

    Fast pairs tell neighbours apart, slow ones tell near from far. Shape (positions, pairs).
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.
    """
    speed = ROTARY_BASE ** -(torch.arange(pairs) / pairs)  # (pairs,)
    return torch.outer(torch.arange(positions), speed)  # (positions, pairs)


def sinusoidal_table(positions, width):
    """A fixed vector for each position, (positions, width), with the size of a fresh embedding."""
    angles = position_angles(positions, width // 2)
    table = torch.cat([angles.sin(), angles.cos()], dim=1)  # (positions, width)
    return table * (INIT_STD * math.sqrt(2))  # a wave of height 1 has a size of 1 / sqrt(2)


def rotary_tables(positions, head_size):
    """The cosines, and the sines with the sign that each half of a pair takes, for rotate():
    two tensors (positions, head_size)."""
    angles = position_angles(positions, head_size // 2)  # (positions, head_size / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def rotate(x, cos, sin):
    """Turn each pair of numbers of x (..., T, head_size) by the angle of its position.

    Number i of the first half and number i of the second are a pair: (a, b) becomes
    (a cos - b sin, b cos + a sin). The product of a query and a key then depends on how far apart
    they are, not on where. Source: Su et al. 2021, https://arxiv.org/abs/2104.09864.
    """
    partners = x.roll(x.shape[-1] // 2, dims=-1)  # (a, b) -> (b, a)
    return torch.addcmul(x * cos, partners, sin)  # (..., T, head_size)


# ---------------------------------------------------------------------------------------------
# Dropout: a cure for learning by heart


class Dropout(nn.Module):
    """In training, zero each number with probability p and divide the others by 1 - p.

    No number can then be relied on, so what is learned must not hang on any one of them.
    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.

    On a CPU, PyTorch's own draws a full random number for each decision, on one core: at 6 layers,
    256 wide, over a third of a training step. Here a decision takes 16 random bits, so p is
    rounded to a multiple of 1 / 65536.
    """

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        fours = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = fours.view(torch.int16)[: x.numel()].view(x.shape)  # each in -32768 .. 32767
        keep = draws.ge_(round(self.p * 65536) - 32768).to(x.dtype)  # 0 or 1
        return x * keep / (1 - self.p)


# ---------------------------------------------------------------------------------------------
# Attention: characters look at those before them


class KeyValueCache:
    """The keys and values that one attention layer has computed so far, for generation.

    What a character's key and value are does not depend on later characters, so they are computed
    once and kept: a new character costs one pass over itself, not over the whole text.

    All places are handed out from the start, the empty ones as zeros that the mask hides. On a CPU
    that is faster than handing out the filled ones: oneDNN builds a kernel for each new size, and
    copies what does not lie in one piece.
    """

    def __init__(self, block_size):
        self.block_size = block_size
        self.length = 0
        self.last = {}  # for token_shift: the newest character's numbers after each norm, (B, 1, C)

    def extend(self, k, v):
        """Append keys and values, (B, n_head, T, head_size); return all block_size of each."""
        if self.length == 0:
            B, n_head, _, head_size = k.shape
            self.keys = k.new_zeros(B, n_head, self.block_size, head_size)
            self.values = v.new_zeros(B, n_head, self.block_size, head_size)
        start, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys, self.values


class CausalSelfAttention(nn.Module):
    """Each character gathers values from itself and those before it, weighted by how well its
    query matches their keys. (B, T, C) -> (B, T, C), n_head times in parallel on C / n_head each.

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.projection = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attention_dropout = Dropout(config.dropout)
        self.residual_dropout = Dropout(config.dropout)

    def forward(self, x, positions, cache=None):
        B, T, C = x.shape
        n_head, head_size = self.config.n_head, self.config.head_size

        qkv = self.query_key_value(x)  # (B, T, C) -> (B, T, 3C)
        qkv = qkv.view(B, T, 3, n_head, head_size)  # (B, T, 3C) -> (B, T, 3, n_head, head_size)
        qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()  # -> (3, B, n_head, T, head_size)
        qk, v = qkv[:2], qkv[2]
        if self.config.qk_norm:
            qk = F.layer_norm(qk, (head_size,))
        if self.config.position == "rotary":
            qk = rotate(qk, *positions)
        q, k = qk  # (2, B, n_head, T, head_size) -> 2 x (B, n_head, T, head_size)
        start = 0
        if cache is not None:
            start = cache.length
            keys, values = cache.extend(k, v)  # 2 x (B, n_head, block_size, head_size)
            if start > 0:  # else there is nothing to look back on but these T
                k, v = keys, values

        # On a CPU the fused kernel is the slower one: 8 against 4 ms forward at block 256, and 29
        # against 11 with the way back.
        kind = self.config.attention
        fused = kind == "fused" or (kind == "auto" and x.is_cuda)
        if fused and start == 0:
            y = self.attend_fused(q, k, v)  # (B, n_head, T, head_size)
        else:
            y = self.attend_written_out(q, k, v, start)  # (B, n_head, T, head_size)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, n_head, T, head_size) -> (B, T, C)
        return self.residual_dropout(self.projection(y))  # (B, T, C)

    def attend_written_out(self, q, k, v, start):
        """softmax(q k^T / sqrt(head_size)) v over the past, in so many words.

        q is (B, n_head, T, head_size), for the characters at `start` and after; k and v are
        (B, n_head, S, head_size), for those at 0 and after.
        """
        T, S = q.shape[2], k.shape[2]
        scores = (q / math.sqrt(q.shape[3])) @ k.transpose(2, 3)  # (B, n_head, T, S)
        future = torch.full((T, S), -math.inf, dtype=scores.dtype, device=scores.device)
        scores += future.triu(1 + start)  # adding -inf leaves a weight of 0
        weights = self.attention_dropout(F.softmax(scores, dim=3))  # (B, n_head, T, S)
        return weights @ v  # (B, n_head, T, S) -> (B, n_head, T, head_size)

    def attend_fused(self, q, k, v):
        """The same numbers for start 0, from one kernel that never stores the (T, T) weights."""
        dropout = self.config.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


# ---------------------------------------------------------------------------------------------
# Token shift: each character also shows what came before it


def shift(x, before):
    """Half of each character's numbers, replaced by those of the one before it.

    x is (B, T, C); before, (B, 1, C), is what precedes it. Whatever reads the result sees a pair of
    neighbours at once, which attention would first have to learn to find.
    Source: Bo Peng's token-shift, https://github.com/BlinkDL/RWKV-LM.
    """
    half = x.shape[2] // 2
    earlier, own = x.split([half, x.shape[2] - half], dim=2)  # (B, T, C) -> 2 x (B, T, C / 2)
    earlier = torch.cat([before[:, :, :half], earlier[:, :-1]], dim=1)  # (B, T, C / 2)
    return torch.cat([earlier, own], dim=2)  # (B, T, C)


# ---------------------------------------------------------------------------------------------
# The block, and the network


class FeedForward(nn.Module):
    """What a character does with what it has gathered: (B, T, C) -> (B, T, C), each on its own."""

    def __init__(self, config):
        super().__init__()
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.projection = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x):
        x = F.gelu(self.expand(x))  # (B, T, C) -> (B, T, 4C)
        return self.dropout(self.projection(x))  # (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Look around, then think: both add to the stream x that runs through the whole network."""

    def __init__(self, config):
        super().__init__()
        self.token_shift = config.token_shift
        self.attention_norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = CausalSelfAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.feed_forward = FeedForward(config)

    def forward(self, x, positions, cache=None):
        x = x + self.attention(self.read(x, self.attention_norm, cache), positions, cache)
        x = x + self.feed_forward(self.read(x, self.feed_forward_norm, cache))  # (B, T, C)
        return x

    def read(self, x, norm, cache):
        """What a part of the block sees of the stream x: (B, T, C) -> (B, T, C)."""
        x = norm(x)
        if not self.token_shift:
            return x
        before = torch.zeros_like(x[:, :1])  # (B, 1, C)
        if cache is not None:
            before = cache.last.get(norm, before)
            cache.last[norm] = x[:, -1:]
        return shift(x, before)


class GPT(nn.Module):
    """Characters in, scores for the next character out, at every position at once."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        elif config.position == "sinusoidal":
            table = sinusoidal_table(config.block_size, config.n_embd)
            self.register_buffer("position_table", table, persistent=False)
        elif config.position == "rotary":
            cos, sin = rotary_tables(config.block_size, config.head_size)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # what reads a character also writes it
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        """GPT-2's: normal with 0.02; what adds to the stream is smaller, as 2 n_layer parts add."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("projection.weight"):
                parameter.normal_(std=INIT_STD / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                parameter.normal_(std=INIT_STD)

    def forward(self, idx, targets=None, caches=None):
        """Scores of the next character at each position, and the loss.

        idx: (B, T) token ids, T <= block_size (else ValueError). targets: (B, T), the ids that
        come next. caches: one KeyValueCache a block; idx then continues what they hold.
        Returns logits (B, T, V), and the mean cross-entropy in nats (None without targets).
        """
        start = caches[0].length if caches else 0
        end = start + idx.shape[1]
        if end > self.config.block_size:
            raise ValueError(f"{end} characters do not fit block_size {self.config.block_size}")

        x = self.token_embedding(idx)  # (B, T) -> (B, T, C)
        positions = None
        if self.config.position == "learned":
            x = x + self.position_embedding.weight[start:end]  # (B, T, C) + (T, C)
        elif self.config.position == "sinusoidal":
            x = x + self.position_table[start:end]  # (B, T, C) + (T, C)
        elif self.config.position == "rotary":
            positions = self.cos[start:end].to(x.dtype), self.sin[start:end].to(x.dtype)
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, positions, caches[layer] if caches else None)  # (B, T, C)
        logits = self.lm_head(self.norm(x))  # (B, T, C) -> (B, T, V)
        return with_loss(logits, targets)

    def new_caches(self):
        """One KeyValueCache a block, empty: what forward() takes to generate with."""
        return [KeyValueCache(self.config.block_size) for _ in self.blocks]


NETWORKS = {"bigram": Bigram, "mlp": MLP, "gpt": GPT}  # from the simplest up


def build(config):
    """A fresh network of the kind that a NetworkConfig names."""
    return NETWORKS[config.network](config)


# ---------------------------------------------------------------------------------------------
# Writing: from scores to characters


@torch.inference_mode()
def stream(network, idx, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Continue idx (B, T), T >= 1: yields the next token of each sequence, (B, 1), in turn.

    The first pass reads the prompt's last block_size tokens and keeps its keys and values; after it
    each pass reads one token. When block_size tokens are held, the window slides: the newest
    block_size // 2 are read afresh, as positions 0 and up, and it fills again. So a token sees
    between half a window and a whole one, and costs at most about two passes of one token, however
    long the text grows. The same rule holds for every position kind. Networks that keep nothing
    read the last block_size tokens each time.
    """
    block_size = network.config.block_size
    window = idx[:, -block_size:]  # (B, <= block_size)
    unread, caches = window, network.new_caches()
    for _ in range(max_new_tokens):
        logits, _ = network(unread, caches=caches)  # (B, T') -> (B, T', V)
        probabilities = next_probabilities(logits[:, -1], temperature, top_k, top_p)
        drawn = torch.multinomial(probabilities, 1, generator=generator)  # (B, V) -> (B, 1)
        yield drawn
        window = torch.cat([window, drawn], dim=1)[:, -block_size:]
        unread = drawn if caches else window
        if caches and caches[0].length == block_size:
            caches = network.new_caches()
            unread = window[:, -max(1, block_size // 2) :]


def generate(network, idx, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None):
    """idx (B, T) and its continuation: (B, T + max_new_tokens). See stream for the window.

    temperature 0 takes the likeliest character; top_k and top_p as in next_probabilities.
    Dropout is as the network is set: call eval() first. `generator` makes it repeatable.
    """
    steps = stream(network, idx, max_new_tokens, temperature, top_k, top_p, generator)
    return torch.cat([idx, *steps], dim=1)  # (B, T + max_new_tokens)


def next_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution that the next token is drawn from: (B, V) -> (B, V), rows summing to 1.

    Temperature divides the scores: below 1 the likely become likelier, 0 leaves the likeliest
    alone. top_k keeps the k likeliest; top_p then keeps the likeliest ones whose probabilities
    first sum to p or more (nucleus sampling, Holtzman et al. 2019,
    https://arxiv.org/abs/1904.09751).
    """
    if temperature < 1e-4:  # as good as 0, and dividing by it would overflow
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).float()
    probabilities = F.softmax(logits.float() / temperature, dim=1)
    if top_k is None and top_p is None:
        return probabilities
    probabilities, order = probabilities.sort(dim=1, descending=True, stable=True)
    if top_k is not None:
        probabilities[:, top_k:] = 0
        probabilities /= probabilities.sum(dim=1, keepdim=True)
    if top_p is not None:
        likelier = probabilities.cumsum(dim=1) - probabilities  # what is ahead of each in the row
        probabilities[likelier >= top_p] = 0
        probabilities /= probabilities.sum(dim=1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(1, order, probabilities)


class PackedLinear(nn.Module):
    """What nn.Linear computes, with the matrix laid out beforehand as oneDNN's kernels read it.

    nn.Linear has it laid out anew for each product, as in training it would be another one each
    time. Both operators are those that PyTorch's own compiler uses, _inductor/mkldnn_lowerings.py.
    """

    def __init__(self, linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def pack_weights(network):
    """Make a network on a CPU write faster; it cannot learn any more.

    10 texts at once, 10.7 million parameters: 1.3 times as fast in bfloat16, 1.8 in float32.
    Where this PyTorch, the device or the dtype has no such kernels, the network stays as it is.
    """
    with contextlib.suppress(AttributeError, RuntimeError):  # no such operators, or not for these
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, PackedLinear(child))


# ---------------------------------------------------------------------------------------------
# Where a network runs


def pick_device(name="auto"):
    """The torch.device of that name; auto takes CUDA, else MPS (Apple), else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # a device that is named well need not be there
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here ({reason})") from error
    return device


def pick_dtype(name, device):
    """The torch.dtype of that name; auto takes bfloat16 where the device multiplies faster in it.

    A CPU without bfloat16 instructions emulates them, a hundred times slower than float32, so
    CPUs are timed: for 20 milliseconds, on one thread, which other programs disturb least.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if device.type == "cpu":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        seconds = {dtype: seconds_to_multiply(dtype) for dtype in (torch.float32, torch.bfloat16)}
        torch.set_num_threads(threads)
        if seconds[torch.bfloat16] < 0.7 * seconds[torch.float32]:
            return torch.bfloat16
    return torch.float32


def seconds_to_multiply(dtype):
    """How long one small matrix product takes on this CPU: the best of as many as 10 ms hold."""
    matrix = torch.ones(192, 192, dtype=dtype)
    seconds = []
    while sum(seconds) < 0.01 or len(seconds) < 3:
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return min(seconds)
