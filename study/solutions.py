"""The solutions of `python -m study task`, in the lecture's order; a task begins without bodies.

study/mistakes.py quotes lines of these bodies.
"""

import math

import torch


def batch_at(ids, starts, block_size):
    """The questions and answers of some windows (lecture: Questions and answers).

    ids: (N). starts: a list of B positions. Returns x and y, each (B, block_size): what the network
    reads, and the character that follows each.

    Hint: cut windows of block_size + 1 ids; x is all but the last id of each, y all but the first.
    """
    windows = torch.stack([ids[start : start + block_size + 1] for start in starts])
    return windows[:, :-1], windows[:, 1:]


def softmax(z):
    """Scores to probabilities (lecture: From scores to probabilities).

    z: (V), any numbers. Returns (V): positive numbers with the sum 1. Do not call torch's softmax.

    Hint: exponentials, divided by their sum. Subtract the largest score first: why may you?
    """
    powers = torch.exp(z - z.max())  # the largest could overflow
    return powers / powers.sum()


def cross_entropy(logits, targets):
    """The loss (lecture: The loss).

    logits: (N, V). targets: (N), the ids of the right answers. Returns one number: the mean of
    -ln p, where p is the probability of the right answer. Do not call torch's cross_entropy.

    Hint: logits.softmax(dim=1) has all probabilities; [torch.arange(N), targets] picks one a row.
    """
    p = logits.softmax(dim=1)[torch.arange(len(targets)), targets]  # (N)
    return -p.log().mean()


def bigram_counts(ids, vocab_size):
    """How often each character follows each other one (lecture: 1. Counting).

    ids: a list of token ids. Returns (V, V): row a, column b has how often b comes right after a.

    Hint: zip(ids[:-1], ids[1:]) goes through all pairs of neighbors.
    """
    counts = torch.zeros(vocab_size, vocab_size)
    for first, second in zip(ids[:-1], ids[1:], strict=True):
        counts[first, second] += 1
    return counts


def embed(ids, table):
    """From ids to vectors (lecture: 2. A window of embeddings).

    ids: (B, T). table: (V, C). Returns (B, T, C).

    Hint: a tensor can be indexed with a tensor of ids.
    """
    return table[ids]


def layer_norm(x, gains):
    """Mean 0 and variance 1 for each vector (lecture: part 3, point 3).

    x: (B, T, C). gains: (C). Returns (B, T, C). 0.00001 is added to the variance.

    Hint: mean and variance are those of the last dimension. keepdim=True makes the shapes fit.
    """
    mean = x.mean(dim=2, keepdim=True)  # (B, T, 1)
    variance = ((x - mean) ** 2).mean(dim=2, keepdim=True)  # (B, T, 1)
    return gains * (x - mean) / torch.sqrt(variance + 0.00001)


def attention(q, k, v):
    """Causal attention of one head (lecture: part 3, points 6 to 8).

    q, k, v: (T, D). Returns (T, D): no position may depend on a later one.

    Hint: scores, divided by sqrt(D); minus infinity for later keys; softmax over the keys.
    """
    T, D = q.shape
    scores = q @ k.T / math.sqrt(D)  # (T, T)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(dim=1) @ v


def rotate(x):
    """Rotary positions (lecture: part 3, point 5).

    x: (T, D), queries or keys at the positions 0, 1, ..., T - 1. Entry i of the first half and
    entry i of the second half are a pair. Returns (T, D).

    Hint: torch.outer(positions, frequencies) has all angles. torch.cat joins the halves again.
    """
    T, D = x.shape
    angles = torch.outer(torch.arange(T), 10000.0 ** (-2 * torch.arange(D // 2) / D))  # (T, D / 2)
    a, b = x[:, : D // 2], x[:, D // 2 :]  # 2 x (T, D / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=1)


def split_into_heads(x, n_head):
    """Cut each vector into equal parts, one for each head (lecture: part 3, point 9).

    x: (B, T, C). Returns (B, n_head, T, C / n_head).

    Hint: view cuts C into (n_head, D); then two dimensions must change places.
    """
    B, T, C = x.shape
    return x.view(B, T, n_head, C // n_head).transpose(1, 2)


def feed_forward(x, expand, projection):
    """Two linear layers with the GELU between them (lecture: part 3, point 10).

    x: (T, C). expand: (4C, C). projection: (C, 4C). Returns (T, C). The area under the bell curve
    to the left of z is (1 + torch.erf(z / sqrt(2))) / 2. Do not call torch's gelu.

    Hint: a linear layer without a bias is x @ matrix.T.
    """
    z = x @ expand.T  # (T, 4C)
    return z * (1 + torch.erf(z / math.sqrt(2))) / 2 @ projection.T


def adamw_step(w, g, m, s, step, lr, beta1, beta2, weight_decay):
    """One step of AdamW (lecture: AdamW), with epsilon = 0.00000001.

    w, g, m, s: tensors of one shape: weights, their gradient, and the two averages before this
    step. The first step has step = 1. Returns the new w, m and s.

    Hint: first m and s, then their bias correction. The decay is not divided by the root of s.
    """
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g**2
    mean, scale = m / (1 - beta1**step), torch.sqrt(s / (1 - beta2**step))
    return w - lr * weight_decay * w - lr * mean / (scale + 0.00000001), m, s


def learning_rate(step, peak, warmup_iters, max_iters):
    """Linear warm-up, then linear decay to 0 (lecture: The learning rate).

    The steps are counted from 0. It reaches the peak at step warmup_iters, in equal parts, of which
    step 0 has the first; it would reach 0 at step max_iters.

    Hint: in the warm-up, it is (step + 1) / (warmup_iters + 1) of the peak.
    """
    if step < warmup_iters:
        return peak * (step + 1) / (warmup_iters + 1)
    return peak * (max_iters - step) / (max_iters - warmup_iters)


def top_k_top_p(probabilities, k, p):
    """Cut off what is unlikely (lecture: 6. Generation and temperature).

    probabilities: (V), which sum to 1. Keep the k most likely; of these, as a new distribution,
    keep the fewest whose sum reaches p. Returns (V), with zeros for the others, and the sum 1.

    Hint: sort first. A character stays if those before it sum to less than p. scatter unsorts.
    """
    kept, order = probabilities.sort(descending=True)
    kept[k:] = 0
    kept /= kept.sum()
    kept[kept.cumsum(dim=0) - kept >= p] = 0
    return torch.zeros_like(kept).scatter(0, order, kept / kept.sum())


def newton_schulz(x):
    """One step towards an orthogonal matrix (lecture: Muon).

    x: (rows, columns), rows <= columns. Returns 3.4445 x - 4.775 (x x^T) x + 2.0315 (x x^T)^2 x.

    Hint: x @ x.T is small: compute it once.
    """
    square = x @ x.T  # (rows, rows)
    return 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
