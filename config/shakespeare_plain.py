"""The plain Transformer with rotary positions, the network of the lecture; gpt.py has learned ones.

docs/settings.md has the validation loss of this recipe with each of its settings changed.
"""

# The network: 0.4 million parameters.
n_layer = 2  # in so short a run, more steps improve the loss more than more layers
n_head = 4  # heads of 32 dimensions: n_embd must be a multiple of n_head
n_embd = 128  # parameters and time grow with its square
block_size = 128  # characters, three or four lines; more improve the loss, and take longer
position = "rotary"  # a lower loss than GPT-2's "learned"
dropout = 0.0  # a small network does not overfit in so short a run

# The training: 1,536 characters per step, 4.1 million in all, so the text is read four times.
batch_size = 12  # more sequences make the gradient less noisy, and the step slower
max_iters = 2700  # the loss is still falling then
learning_rate = 5e-3  # five times nanoGPT's: a small network tolerates a high one
lr_schedule = "linear"  # a little better than the cosine
warmup_iters = 100  # AdamW's averages are unreliable at first, so the first steps are small
min_lr = 0.0  # the small last steps improve the loss most
beta2 = 0.95  # average squared gradients over the last 20 steps: they change as the loss falls
weight_decay = 0.1  # pulls the matrices towards zero a little in each step

# The output.
eval_interval = 540  # each evaluation reads the whole validation split
eval_iters = 20  # batches in the estimate of the training loss
