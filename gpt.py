"""A GPT on one page: a text goes in, and more of it comes out.

    python gpt.py            Shakespeare, in a minute or two on two CPU cores
    python gpt.py my.txt     any text; a hundred kilobytes or more

This is the whole algorithm: nothing is left out, and nothing is added for speed. model.py and
train.py are the same network and the same training, with settings, checkpoints and speed.
"""

import math
import sys
import urllib.request
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

n_layer = 2  # blocks: the second one can use what the first has found
n_head = 4  # attention heads in a block, each with its own idea of where to look
n_embd = 128  # C, the size of a character's vector: more learns more, and takes longer
block_size = 128  # T, how many characters the network reads at once
batch_size = 12  # B, windows in a step: more would make a step surer, and slower
max_iters = 2700  # steps: here, four times through Shakespeare
learning_rate = 5e-3  # of the largest steps: too small is slow, too large never settles
warmup_iters = 100  # the first steps are smaller, since the weights are still random
weight_decay = 0.1  # pulls the matrices towards zero, so that none grows without need
temperature = 0.8  # for writing: below 1, likely characters become even more likely

device = "cuda" if torch.cuda.is_available() else "cpu"

# --- A text comes in, and each of its characters gets a number ---------------------------------

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def read_text():
    """The file that is named on the command line, or Shakespeare, or the bundled imitation."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "data/shakespeare_char/input.txt")
    if len(sys.argv) > 1 or path.exists():
        return path.read_text(encoding="utf-8")
    try:
        return urllib.request.urlopen(URL, timeout=20).read().decode()
    except OSError as error:
        print(f"no Shakespeare ({error}): this is data/pastiche.txt, a short imitation")
        return Path(__file__).with_name("data").joinpath("pastiche.txt").read_text("utf-8")


# --- A network comes into being, from its smallest part to the whole ---------------------------
def rotate(x):
    """Tell attention where a character is: rotate each pair of entries of its query or key by an
    angle that grows with the position. x: (B, n_head, T, D)."""
    T, pairs = x.shape[2], x.shape[3] // 2
    frequencies = 10000.0 ** -(torch.arange(pairs, device=x.device) / pairs)  # (D / 2)
    angles = torch.outer(torch.arange(T, device=x.device), frequencies)  # (T, D / 2)
    a, b = x.split(pairs, dim=3)  # 2 x (B, n_head, T, D / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=3)  # (B, n_head, T, D)


class Attention(nn.Module):
    """Each character looks at itself and at those before it, and gathers what it needs."""

    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.projection = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.query_key_value(x).view(B, T, 3, n_head, C // n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, n_head, T, D), D = C / n_head
        q, k = rotate(q), rotate(k)  # q: what I look for; k: what I am; v: what I have to say
        scores = q @ k.transpose(2, 3) / math.sqrt(C // n_head)  # (B, n_head, T, T)
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # (T, T)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=3)  # rows that sum to 1
        y = weights @ v  # (B, n_head, T, D): weighted means of the values
        return self.projection(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C)


class FeedForward(nn.Module):
    """Each character, by itself, processes what it has gathered."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.projection = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x):
        return self.projection(F.gelu(self.expand(x)))  # (B, T, C) -> (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then feed-forward; each reads x, normalized, and adds to it."""

    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd, bias=False)
        self.attention = Attention()
        self.feed_forward_norm = nn.LayerNorm(n_embd, bias=False)
        self.feed_forward = FeedForward()

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))  # (B, T, C)
        return x + self.feed_forward(self.feed_forward_norm(x))  # (B, T, C)


class GPT(nn.Module):
    """From characters to the logits of the next character, at every position at once."""

    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.blocks = nn.Sequential(*(Block() for _ in range(n_layer)))
        self.norm = nn.LayerNorm(n_embd, bias=False)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # one table: to read, and to write
        for name, weight in self.named_parameters():
            if name.endswith("projection.weight"):  # 2 n_layer of them add up in x
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * n_layer))
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)  # small: the first guesses are nearly uniform

    def forward(self, ids):
        x = self.token_embedding(ids)  # (B, T) -> (B, T, C)
        return self.lm_head(self.norm(self.blocks(x)))  # (B, T, C) -> (B, T, V)


def loss_of(network, windows):
    """The mean of -ln p, where p is what the network gave to the character that really came.
    windows: (B, T + 1), so that each of the T characters that are read has one that follows."""
    logits = network(windows[:, :-1])  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


# --- The network learns, one step at a time ----------------------------------------------------
def new_optimizer(network):
    """AdamW: moves each weight by about the learning rate, against its mean gradient."""
    matrices = {"params": [w for w in network.parameters() if w.dim() == 2]}
    gains = {"params": [w for w in network.parameters() if w.dim() == 1], "weight_decay": 0.0}
    return torch.optim.AdamW([matrices, gains], betas=(0.9, 0.95), weight_decay=weight_decay)


def train_step(network, optimizer, windows, step):
    """Move all weights a little in the direction in which the loss of these windows falls."""
    warmup, decay = (step + 1) / (warmup_iters + 1), (max_iters - step) / (max_iters - warmup_iters)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * (warmup if step < warmup_iters else decay)
    loss = loss_of(network, windows)
    optimizer.zero_grad()
    loss.backward()  # the gradient: for each weight, how the loss changes with it
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # a strange batch cannot throw it far
    optimizer.step()
    return loss.item()


# --- The network writes: it draws the next character, and reads it again -----------------------
@torch.no_grad()
def write(network, vocab, prompt, length):
    """The prompt and its continuation by `length` characters."""
    ids = torch.tensor([[vocab.index(character) for character in prompt]], device=device)  # (1, T)
    for _ in range(length):
        logits = network(ids[:, -block_size:])[:, -1]  # (1, T, V) -> (1, V)
        probabilities = F.softmax(logits / temperature, dim=1)  # (1, V), they sum to 1
        ids = torch.cat([ids, torch.multinomial(probabilities, 1)], dim=1)  # (1, T + 1)
    return "".join(vocab[i] for i in ids[0].tolist())


# --- All of it, in order -----------------------------------------------------------------------
def main():
    text = read_text()
    vocab = sorted(set(text))  # the id of a character is its index here
    id_of = {character: i for i, character in enumerate(vocab)}
    ids = torch.tensor([id_of[character] for character in text], device=device)
    training, validation = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    torch.manual_seed(1337)
    network = GPT(len(vocab)).to(device)
    optimizer = new_optimizer(network)
    start = "\n" if "\n" in vocab else vocab[0]
    try:
        for step in range(max_iters):
            starts = torch.randint(len(training) - block_size, (batch_size,)).tolist()
            windows = torch.stack([training[i : i + block_size + 1] for i in starts])  # (B, T + 1)
            loss = train_step(network, optimizer, windows, step)
            if step % 100 == 0:
                line = write(network, vocab, start, 60).replace("\n", " ")
                print(f"step {step:4}  loss {loss:.3f}  {line}", flush=True)
    except KeyboardInterrupt:
        print("stopped; this is what it has learned so far")
    total = 0.0
    for i in range(0, len(validation) - 1, block_size):
        window = validation[i : i + block_size + 1]  # the last one may be shorter
        with torch.no_grad():
            total += loss_of(network, window[None]).item() * (len(window) - 1)
    print(f"validation loss: {total / (len(validation) - 1):.4f}\n")
    print(write(network, vocab, start, 500))


if __name__ == "__main__":
    main()
