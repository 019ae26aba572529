"""The sprint: a validation loss below 1.88 in seconds on two CPU cores.

nanoGPT's own recipe for a laptop takes 2,000 steps to 1.90. docs/speed.md says what each part of
this recipe gives.
"""

# The network: a single layer, so a step is quick.
n_layer = 1  # two layers need fewer steps, but more time
n_head = 2
n_embd = 128
block_size = 64
position = "rotary"  # needs no training, unlike learned positions
token_shift = True  # pairs of characters are visible from the first step on
qk_norm = True  # keeps the scores small, which allows high learning rates

# The training: 2,048 characters per step, 246 thousand in all, a quarter of the text.
optimizer = "muon"  # needs far fewer steps than AdamW
batch_size = 32  # Muon takes the same time for any batch, so a small batch would waste it
max_iters = 120
learning_rate = 16e-3  # of the embeddings and norms only; sixteen times nanoGPT's
muon_learning_rate = 0.04  # of the matrices in the blocks
lr_schedule = "linear"
warmup_iters = 5
min_lr = 0.0
beta1 = 0.85  # Muon's momentum too: in so short a run, old gradients are soon out of date
weight_decay = 0.0  # a run that reads a quarter of the text cannot overfit it

# The output.
eval_interval = 120  # only before and after the training
eval_iters = 2
