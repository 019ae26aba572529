"""A GPT on one page: a text goes in, and more of it comes out.

    python gpt.py            learn from Shakespeare, in a minute or two on two CPU cores
    python gpt.py my.txt     from any text in UTF-8; a hundred kilobytes or more

PyTorch has the tensors, the layers, the gradients and AdamW; everything else is here. New to this?
Begin at main(), at the end. model.py and train.py are this with options, checkpoints and speed."""

import math
import sys
import urllib.request
from pathlib import Path

import torch
from torch import nn

n_layer = 2  # blocks: the second one can use what the first has found
n_head = 4  # attention heads in a block: each can look for something different
n_embd = 128  # C, the size of a character's vector: a larger one learns more, but takes longer
block_size = 128  # T, how many characters the network reads at once
batch_size = 12  # B, windows of the text in a step: with more, steps are less random, but slower
max_iters = 2700  # steps: in all, they read Shakespeare's million characters four times
learning_rate = 5e-3  # at its peak: too small, and learning is slow; too large, it never settles
warmup_iters = 100  # the first steps are smaller: AdamW's averages are unreliable at first
temperature = 0.8  # for writing: below 1, likely characters become even more likely
device = "cuda" if torch.cuda.is_available() else "cpu"

# --- The text, and a number for each of its characters -----------------------------------------
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
DATA = Path(__file__).parent / "data"


def read_text(own):
    """Your own file's text; without one, Shakespeare (downloaded once), or else an imitation."""
    path = Path(own or DATA / "shakespeare_char" / "input.txt")
    text = imitation = (DATA / "pastiche.txt").read_text(encoding="utf-8")
    try:
        if not own and not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(urllib.request.urlopen(URL, timeout=20).read())
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        if own:
            sys.exit(f"error: cannot read {path} as UTF-8: {error}")
    if text == imitation and not own:  # prepare_shakespeare.py may have saved it, too
        print("Shakespeare could not be downloaded: this is data/pastiche.txt, an imitation")
    if len(text) < 10 * (block_size + 1):  # a tenth of it is for the validation
        sys.exit(f"error: {path} has {len(text)} characters, too few to learn from")
    return text


def encode(text, vocab):
    """The ids (T) of a string of T characters: an id is the character's index in the vocabulary."""
    return torch.tensor([vocab.index(character) for character in text], device=device)


def decode(ids, vocab):
    return "".join(vocab[i] for i in ids.tolist())


def get_batch(ids):
    """Windows from random places: what is read, and what comes next at each position."""
    starts = torch.randint(len(ids) - block_size, (batch_size,)).tolist()
    windows = torch.stack([ids[i : i + block_size + 1] for i in starts])  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]  # x and y, each (B, T): y is x one character later


# --- The network, from its smallest part to the whole ------------------------------------------
class Attention(nn.Module):
    """Each character takes a mean of the values so far, mostly those whose keys match its query."""

    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.projection = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.query_key_value(x).split(C, dim=2)  # query, key, value: each (B, T, C)
        q, k, v = (z.view(B, T, n_head, -1).transpose(1, 2) for z in (q, k, v))  # (B, n_head, T, D)
        scores = q @ k.transpose(2, 3) / math.sqrt(C // n_head)  # D = C / n_head; (B, n_head, T, T)
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # (T, T)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=3)  # each row sums to 1
        y = weights @ v  # (B, n_head, T, D): weighted means of the values
        return self.projection(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C): all heads


class Block(nn.Module):
    """Attention, then feed-forward: each reads a normalized copy of x, and adds its result to x."""

    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd, bias=False)  # mean 0, variance 1; trained gains
        self.attention = Attention()
        self.feed_forward_norm = nn.LayerNorm(n_embd, bias=False)
        self.expand = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.projection = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))  # (B, T, C)
        y = self.expand(self.feed_forward_norm(x))  # (B, T, 4C)
        return x + self.projection(nn.functional.gelu(y))  # (B, T, C); GELU: a smooth max(0, x)


class GPT(nn.Module):
    """From ids (B, T) to logits (B, T, V): at each position, a score for each next character."""

    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*(Block() for _ in range(n_layer)))
        self.norm = nn.LayerNorm(n_embd, bias=False)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight  # tied: one matrix for both
        for name, weight in self.named_parameters():
            added = 2 * n_layer if "projection" in name else 1  # how many outputs add up in x
            if weight.dim() == 2:  # gains stay 1; small weights: near-uniform guesses
                nn.init.normal_(weight, std=0.02 / math.sqrt(added))

    def forward(self, ids):
        what = self.token_embedding(ids)  # (B, T) -> (B, T, C)
        where = self.position_embedding.weight[: ids.shape[1]]  # (T, C); rotary: 0.04 better
        return self.lm_head(self.norm(self.blocks(what + where)))  # (B, T, C) -> (B, T, V)


def loss_of(network, x, y):
    """The mean of -ln p, where p is the probability that the network gave to the true character."""
    return nn.functional.cross_entropy(network(x).flatten(0, 1), y.flatten())  # B * T predictions


# --- The training, one step at a time ----------------------------------------------------------
def get_lr(step):
    """The learning rate rises along a line (warm-up), then falls along another, towards 0."""
    warmup = (step + 1) / (warmup_iters + 1)  # rises to 1, then above it
    decay = (max_iters - step) / max(1, max_iters - warmup_iters)  # 1 at the peak, 0 at the end
    return learning_rate * min(warmup, decay)


def new_optimizer(network):
    """AdamW moves each weight against its average gradient, and pulls all but the gains to 0."""
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
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # so that no odd batch moves it too far
    optimizer.step()
    return loss.item()


@torch.no_grad()
def estimate_loss(network, ids):
    """The loss on a text that the network was not trained on, window after window."""
    windows = ids.unfold(0, block_size + 1, block_size)  # (N, T + 1), only complete ones
    losses = [loss_of(network, window[None, :-1], window[None, 1:]) for window in windows]
    return torch.stack(losses).mean().item()


@torch.no_grad()
def write(network, ids, length):
    """Continue ids (1, T) by `length` characters: draw one, append it, read all again."""
    for _ in range(length):
        logits = network(ids[:, -block_size:])[:, -1] / max(temperature, 1e-4)  # (1, V)
        ids = torch.cat([ids, torch.multinomial(logits.softmax(dim=1), 1)], dim=1)  # (1, T + 1)
    return ids


def main():
    if n_embd % n_head:
        sys.exit("error: n_embd must be a multiple of n_head")
    text = read_text(sys.argv[1] if len(sys.argv) > 1 else "")
    vocab = "".join(sorted(set(text)))
    print(f"{len(text):,} characters, {len(vocab)} different ones")
    ids = encode(text, vocab)
    training, validation = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    torch.manual_seed(1337)
    network = GPT(len(vocab)).to(device)
    size = sum(weight.numel() for weight in network.parameters())
    print(f"{size:,} parameters; blind guessing: loss ln {len(vocab)} = {math.log(len(vocab)):.2f}")
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
