"""The quick start: nanoGPT's laptop setting, minutes on two CPU cores.

The figures are validation losses at the end of this recipe with that one line changed.
"""

# The network: 0.8 million parameters.
n_layer = 4  # time grows with it; 2 end at 1.79 as well, so depth is not what is short here
n_head = 4  # heads share n_embd, 4 of 32 numbers each, and must divide it; 1 ends at 1.82
n_embd = 128  # width: parameters and time grow with its square; 64 ends at 1.91
block_size = 64  # context in characters, about two lines; 32 ends at 1.90, 128 at 1.67
position = "rotary"  # nanoGPT's "learned" ends at 1.90 instead of 1.79
dropout = 0.0  # too short a run to overfit: 0.1 ends at 1.85

# The training: 768 characters a step, 1.5 million in all: the text is seen one and a half times.
batch_size = 12  # sequences a step: more make a step steadier, and slower in proportion
max_iters = 2000  # 1,000 end at 1.92; the loss is still falling at 2,000
learning_rate = 1e-3  # nanoGPT's, on the safe side: 3e-3 ends at 1.72, 3e-4 at 1.88
warmup_iters = 100  # AdamW's averages are young at first: start small
min_lr = 1e-4  # a tenth of learning_rate, reached at max_iters: small steps to settle
beta2 = 0.99  # batches are small, so remember squared gradients for longer than usual (0.95)
weight_decay = 0.1  # pulls the matrices towards zero a little with each step

# What one sees.
eval_interval = 400  # steps between evaluations: each takes two or three seconds
eval_iters = 20  # batches in the estimate of the training loss; validation is always whole
