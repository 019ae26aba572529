"""The quick start: nanoGPT's laptop recipe with rotary positions, a minute on two CPU cores.

docs/settings.md has the validation loss of this recipe with each of its settings changed.
"""

# The network: 0.8 million parameters.
n_layer = 4  # time grows with it; in so short a run, more layers improve the loss little
n_head = 4  # heads of 32 numbers each: n_embd must be a multiple of n_head
n_embd = 128  # embedding dimension: parameters and time grow with its square
block_size = 64  # context in characters, about two lines; more improves the loss, at a price
position = "rotary"  # a lower loss than nanoGPT's "learned"
dropout = 0.0  # too short a run to overfit

# The training: 768 characters per step, 1.5 million in all: the text is read one and a half times.
batch_size = 12  # sequences per step: more make the gradient less noisy, and the step slower
max_iters = 2000  # the loss is still falling then
learning_rate = 1e-3  # nanoGPT's, on the safe side: this network tolerates more
warmup_iters = 100  # AdamW's running averages are unreliable at first, so start small
min_lr = 1e-4  # a tenth of learning_rate, reached at max_iters: small steps at the end
beta2 = 0.99  # small batches, so average squared gradients over more steps (usual: 0.95)
weight_decay = 0.1  # pulls the matrices towards zero a little in each step

# The output.
eval_interval = 400  # steps between evaluations: each reads the whole validation split
eval_iters = 20  # batches in the estimate of the training loss
