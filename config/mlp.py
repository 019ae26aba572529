"""The MLP of Bengio et al. 2003: the last 16 characters, side by side, through one tanh layer."""

network = "mlp"
block_size = 16  # each position has weights of its own, so their number grows with the context
n_embd = 32
n_hidden = 512

batch_size = 64  # 1,024 characters per step
max_iters = 2000
learning_rate = 3e-3  # a little below what find_lr proposes
warmup_iters = 100
min_lr = 3e-4
weight_decay = 0.1

eval_interval = 500
eval_iters = 20
