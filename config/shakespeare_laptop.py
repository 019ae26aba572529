"""nanoGPT's GPU result without a GPU: a validation loss of 1.4697 in minutes on two CPU cores.

docs/speed.md has its times, and what more steps give. shakespeare_fast.py says what its parts do.
"""

# The network: 4.7 million parameters, almost five for each character of the training text.
n_layer = 6
n_head = 2  # heads of 128 dimensions: as good as four heads, and a step takes a tenth less time
n_embd = 256
block_size = 256
position = "rotary"
token_shift = True
qk_norm = True
dropout = 0.1  # without it, a network of this size overfits a text that it reads five times

# The training: 4,096 characters per step, 4.9 million in all.
optimizer = "muon"
batch_size = 16
max_iters = 1200
learning_rate = 6e-3  # of the embeddings and norms only
muon_learning_rate = 0.04
lr_schedule = "linear"
warmup_iters = 10
min_lr = 0.0
weight_decay = 0.1

# The output.
eval_interval = 150  # an evaluation takes as long as ten steps
eval_iters = 2
