"""nanoGPT's GPU setting: minutes on a GPU, hours on a laptop (try shakespeare_cpu.py there)."""

# The network: 10.7 million parameters, ten for each character of the text.
n_layer = 6  # time grows with it
n_head = 6  # heads of 64 numbers, the size that GPT-2 uses
n_embd = 384  # width: parameters and time grow with its square
block_size = 256  # context in characters: a speech or two
dropout = 0.2  # the text is small for this network: without dropout it learns it by heart

# The training: 16,384 characters a step, 82 million in all, so the text is seen 80 times.
batch_size = 64  # out of memory? 16 here and gradient_accumulation_steps = 4 is the same run
max_iters = 5000  # should validation turn before the end, ckpt.pt keeps its best moment
learning_rate = 1e-3  # nanoGPT's; see the README for what a change did to a small network
warmup_iters = 100  # AdamW's averages are young at first: start small
min_lr = 1e-4  # a tenth of learning_rate, reached at max_iters
beta2 = 0.99  # few tokens a step, so remember squared gradients for longer than usual (0.95)
weight_decay = 0.1  # pulls the matrices towards zero a little with each step

# What one sees.
eval_interval = 250  # the best moment lies between two evaluations: do not set them far apart
eval_iters = 20  # batches in the estimate of the training loss; validation is always whole
