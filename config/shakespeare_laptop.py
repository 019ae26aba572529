"""nanoGPT's GPU result on a laptop: a validation loss of 1.4697 in minutes on two CPU cores.

With more time, --max_iters=2500 --dropout=0.2 gets to 1.41 within half an hour.
"""

# The network: 4.7 million parameters, five for each character of the text.
n_layer = 6  # time grows with it
n_head = 4  # heads of 64 numbers
n_embd = 256
block_size = 256  # context in characters: a speech or two
position = "rotary"  # nothing to learn before distance means something
token_shift = True  # the neighbour at hand; without it, and with dropout 0.05, it ends at 1.458
qk_norm = True  # bears the high rates
dropout = 0.1  # the text is seen four times, and learned by heart if nothing hinders it

# The training: 4,096 characters a step, 4.1 million in all.
optimizer = "muon"
batch_size = 16
max_iters = 1000
learning_rate = 6e-3  # of the embeddings and norms only
muon_learning_rate = 0.03  # of the matrices
lr_schedule = "linear"  # to nothing: the last small steps gain the most
warmup_iters = 10
min_lr = 0.0
weight_decay = 0.1  # pulls the matrices towards zero a little with each step

# What one sees.
eval_interval = 100  # an evaluation takes as long as ten steps
eval_iters = 2
