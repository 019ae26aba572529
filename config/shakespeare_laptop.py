"""nanoGPT's GPU result without a GPU: a validation loss of 1.4697 in a minute or two.

That is for two CPU cores with bfloat16 instructions; docs/speed.md has the times. The parts are
those of shakespeare_cpu.py, which says what they do.
"""

# The network: 0.8 million parameters. A larger one learns more from a character, but takes longer.
n_layer = 4
n_head = 2
n_embd = 128
block_size = 256  # characters
position = "rotary"
token_shift = True
qk_norm = True
dropout = 0.0  # so small a network does not overfit a text that it reads three times

# The training: 4,096 characters per step, 3.3 million in all.
optimizer = "muon"
batch_size = 16
max_iters = 800
learning_rate = 16e-3  # of the embeddings and norms only
muon_learning_rate = 0.05
lr_schedule = "linear"
warmup_iters = 10
min_lr = 0.0
beta2 = 0.95
weight_decay = 0.1

# The output.
eval_interval = 100  # an evaluation takes as long as ten steps
eval_iters = 2
