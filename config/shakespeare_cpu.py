"""The quick start: nanoGPT's laptop setting, about a minute on two CPU cores."""

# The network: 0.8 million parameters.
n_layer = 4  # more layers see longer-range patterns, and cost time in proportion
n_head = 4  # heads share n_embd: 4 heads of 32; it must divide n_embd
n_embd = 128  # width; parameters and time grow with its square
block_size = 64  # context in characters: about two lines of verse
position = "rotary"  # nanoGPT's "learned" ends at 1.90 instead of 1.79
dropout = 0.0  # too short a run to overfit; try 0.1 with ten times the steps

# The training: 768 characters a step, 1.5 million in all, so the text is seen one and a half times.
batch_size = 12  # larger is steadier and slower; 32 gives a better loss in 2.5 times the time
max_iters = 2000
learning_rate = 1e-3  # a small network bears a high one; above 5e-3 training gets unstable
warmup_iters = 100  # AdamW's averages are young at first: start small
min_lr = 1e-4  # a tenth of learning_rate, reached at max_iters
beta2 = 0.99  # batches are small, so remember squared gradients for longer than usual (0.95)
weight_decay = 0.1

# What one sees.
eval_interval = 400
eval_iters = 20  # batches in the estimate of the training loss; validation is always whole
