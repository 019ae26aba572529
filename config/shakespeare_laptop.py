"""nanoGPT's GPU result without a GPU: a validation loss of 1.4697 in minutes on two CPU cores.

docs/speed.md has its times, and what more steps give.
"""

# The network: 4.7 million parameters, almost five for each character of the training text.
n_layer = 6  # time grows with it
n_head = 2  # heads of 128 numbers: as good as four heads, and a step takes a tenth less time
n_embd = 256
block_size = 256  # context in characters: a speech or two
position = "rotary"  # needs no training, unlike learned positions
token_shift = True  # pairs of characters are visible from the first step on
qk_norm = True  # allows the high learning rates
dropout = 0.1  # a network of this size overfits a text that it reads five times

# The training: 4,096 characters per step, 4.9 million in all.
optimizer = "muon"  # needs far fewer steps than AdamW
batch_size = 16
max_iters = 1200
learning_rate = 6e-3  # of the embeddings and norms only
muon_learning_rate = 0.04  # of the matrices
lr_schedule = "linear"  # to zero: the small last steps improve the loss most
warmup_iters = 10
min_lr = 0.0
weight_decay = 0.1  # pulls the matrices towards zero a little in each step

# The output.
eval_interval = 150  # an evaluation takes as long as ten steps
eval_iters = 2
