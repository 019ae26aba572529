"""A GPT on one page: a text goes in, and more of it comes out.

    python gpt.py            Shakespeare, in a minute or two on two CPU cores
    python gpt.py my.txt     any text in UTF-8; a hundred kilobytes or more

PyTorch has the tensors, the layers, the gradients and AdamW; everything else is here. New to this?
Begin at main(), at the end. model.py and train.py are the same, with checkpoints and speed."""

import math
import sys
import urllib.request
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

n_layer = 2  # blocks: the second one can use what the first has found
n_head = 4  # attention heads in a block: each looks for something else
n_embd = 128  # C, the size of a character's vector: more learns more, and takes longer
block_size = 128  # T, how many characters the network reads at once
batch_size = 12  # B, windows of the text in a step: more make it less noisy, and slower
max_iters = 2700  # steps: here, four times through Shakespeare
learning_rate = 5e-3  # of the largest steps: too small is slow, too large never settles
warmup_iters = 100  # the first steps are smaller, since the weights are still random
temperature = 0.8  # for writing: below 1, likely characters become even more likely
device = "cuda" if torch.cuda.is_available() else "cpu"

# --- The text, and a number for each of its characters -----------------------------------------
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
DATA = Path(__file__).parent / "data"


def read_text(own):
    """The text of a file of your own, or Shakespeare, downloaded once, or an imitation of it."""
    path = Path(own or DATA / "shakespeare_char" / "input.txt")
    imitation = (DATA / "pastiche.txt").read_text(encoding="utf-8")
    try:
        if not own and not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(urllib.request.urlopen(URL, timeout=20).read())
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        text = imitation if not own else sys.exit(f"error: {path} is no text in UTF-8: {error}")
    if text == imitation:
        print("Shakespeare could not be downloaded: this is data/pastiche.txt, an imitation")
    if len(text) < 10 * (block_size + 1):  # a tenth of it is for the validation
        sys.exit(f"error: {path} has {len(text)} characters, too few to learn from")
    return text


def encode(text, vocab):
    """A string of T characters to (T) ids: the id of a character is its index in the vocabulary."""
    return torch.tensor([vocab.index(character) for character in text], device=device)


def decode(ids, vocab):
    return "".join(vocab[i] for i in ids.tolist())


def get_batch(ids):
    """Windows from random places: what is read, and what comes next at each position."""
    starts = torch.randint(len(ids) - block_size, (batch_size,)).tolist()
    windows = torch.stack([ids[i : i + block_size + 1] for i in starts])  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]  # x and y: 2 x (B, T)


# --- The network, from its smallest part to the whole ------------------------------------------
class Attention(nn.Module):
    """Each character gathers what it needs, from itself and from those before it."""

    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.projection = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.query_key_value(x).split(C, dim=2)  # it looks for q, is k, says v
        q, k, v = (z.view(B, T, n_head, -1).transpose(1, 2) for z in (q, k, v))  # (B, n_head, T, D)
        scores = q @ k.transpose(2, 3) / math.sqrt(C // n_head)  # (B, n_head, T, T): a match?
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # (T, T)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=3)  # each row sums to 1
        y = weights @ v  # (B, n_head, T, D): weighted means of the values
        return self.projection(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C): all heads


class Block(nn.Module):
    """Attention, then feed-forward: each reads x, with mean 0 and variance 1, and adds to it."""

    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd, bias=False)
        self.attention = Attention()
        self.feed_forward_norm = nn.LayerNorm(n_embd, bias=False)
        self.expand = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.projection = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))  # (B, T, C)
        y = F.gelu(self.expand(self.feed_forward_norm(x)))  # (B, T, 4C), bent: GELU is a curve
        return x + self.projection(y)  # (B, T, C)


class GPT(nn.Module):
    """From characters to a score for each possible next one, the logits, at every position."""

    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*(Block() for _ in range(n_layer)))
        self.norm = nn.LayerNorm(n_embd, bias=False)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # tied: one matrix for both, as in GPT-2
        for name, weight in self.named_parameters():
            added = 2 * n_layer if name.endswith("projection.weight") else 1  # results, in x
            if weight.dim() == 2:  # so small that the first guesses are nearly uniform
                nn.init.normal_(weight, std=0.02 / math.sqrt(added))

    def forward(self, ids):
        what = self.token_embedding(ids)  # (B, T) -> (B, T, C)
        where = self.position_embedding.weight[: ids.shape[1]]  # (T, C); rotary: 0.04 better
        return self.lm_head(self.norm(self.blocks(what + where)))  # (B, T, C) -> (B, T, V)


def loss_of(network, x, y):
    """The mean of -ln p, where p is what the network gave to the character that really came."""
    return F.cross_entropy(network(x).flatten(0, 1), y.flatten())  # (B * T, V) and (B * T)


# --- The training, one step at a time ----------------------------------------------------------
def get_lr(step):
    """The learning rate rises during the warm-up, then it falls to 0, both along a line."""
    warmup = (step + 1) / (warmup_iters + 1)  # 1 and more once it is over
    decay = (max_iters - step) / max(1, max_iters - warmup_iters)  # 1 and more until then
    return learning_rate * min(warmup, decay)


def new_optimizer(network):
    """AdamW: steps of about the learning rate. Matrices decay; gains of norms would go off at 0."""
    matrices = {"params": [w for w in network.parameters() if w.dim() == 2]}
    gains = {"params": [w for w in network.parameters() if w.dim() == 1], "weight_decay": 0.0}
    return torch.optim.AdamW([matrices, gains], betas=(0.9, 0.95), weight_decay=0.1)


def train_step(network, optimizer, x, y, step):
    """Move all weights a little in the direction in which the loss of this batch falls."""
    for group in optimizer.param_groups:
        group["lr"] = get_lr(step)
    loss = loss_of(network, x, y)
    optimizer.zero_grad()
    loss.backward()  # the gradient: for each weight, how the loss changes with it
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # a strange batch cannot throw it far
    optimizer.step()
    return loss.item()


@torch.no_grad()
def estimate_loss(network, ids):
    """The loss on a text that the network was not trained on, window after window."""
    windows = ids.unfold(0, block_size + 1, block_size)  # (N, T + 1)
    losses = [loss_of(network, window[None, :-1], window[None, 1:]) for window in windows]
    return torch.stack(losses).mean().item()


@torch.no_grad()
def write(network, ids, length):
    """Continue ids (1, T) by `length` characters: draw the next one, and read it again."""
    for _ in range(length):
        logits = network(ids[:, -block_size:])[:, -1] / max(temperature, 1e-4)  # (1, V)
        ids = torch.cat([ids, torch.multinomial(F.softmax(logits, dim=1), 1)], dim=1)  # (1, T + 1)
    return ids


def main():
    if n_embd % n_head:
        sys.exit("error: n_embd must be a multiple of n_head")
    text = read_text(sys.argv[1] if len(sys.argv) > 1 else "")
    vocab = "".join(sorted(set(text)))
    print(f"{len(text):,} characters of {len(vocab)} kinds")
    ids = encode(text, vocab)
    training, validation = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    torch.manual_seed(1337)
    network = GPT(len(vocab)).to(device)
    size = sum(weight.numel() for weight in network.parameters())
    print(f"{size:,} parameters; a guess has loss ln {len(vocab)} = {math.log(len(vocab)):.2f}")
    optimizer = new_optimizer(network)
    start = encode("\n" if "\n" in vocab else text[0], vocab)[None]  # (1, 1)
    for step in range(max_iters):
        loss = train_step(network, optimizer, *get_batch(training), step)
        if step % 100 == 0:
            line = decode(write(network, start, 60)[0], vocab).replace("\n", " ")
            print(f"step {step:4}  loss {loss:.3f}  {line}", flush=True)
    print(f"validation loss: {estimate_loss(network, validation):.4f}\n")
    print(decode(write(network, start, 500)[0], vocab))


if __name__ == "__main__":
    main()
