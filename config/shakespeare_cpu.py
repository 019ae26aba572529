"""The quick start: text that is worth reading, soon, on two CPU cores.

shakespeare_plain.py lacks the three changes that make this network so fast to train.
"""

# The network: 0.4 million parameters.
n_layer = 2  # in so short a run, more steps improve the loss more than more layers
n_head = 2  # heads of 64 dimensions: as good as four, and quicker
n_embd = 128  # parameters and time grow with its square
block_size = 128  # characters, three or four lines; more improve the loss, and take longer
position = "rotary"
token_shift = True  # the first change: pairs of characters are visible from the first step on
qk_norm = True  # the second: it keeps the scores small, which allows high learning rates

# The training: 4,096 characters per step, 1.5 million in all, so the text is read 1.5 times.
optimizer = "muon"  # the third: it needs far fewer steps than AdamW
batch_size = 32  # Muon takes the same time for any batch, so a small batch would waste it
max_iters = 360
learning_rate = 16e-3  # of the embeddings and norms only
muon_learning_rate = 0.05  # of the matrices in the blocks
lr_schedule = "linear"
warmup_iters = 10
min_lr = 0.0  # the small last steps improve the loss most
beta2 = 0.95  # average squared gradients over the last 20 steps: they change as the loss falls
weight_decay = 0.1

# The output.
eval_interval = 120  # each evaluation reads the whole validation split
eval_iters = 5  # batches in the estimate of the training loss
