"""nanoGPT's GPU recipe: hours on a CPU, where shakespeare_laptop.py is the one to take."""

# The network: 10.7 million parameters, ten for each character of the text.
n_layer = 6  # time grows with it
n_head = 6  # heads of 64 dimensions, as in GPT-2
n_embd = 384
block_size = 256  # characters: a speech or two
dropout = 0.2  # without it, this network would overfit so small a text

# The training: 16,384 characters per step, 82 million in all, so the text is read 80 times.
batch_size = 64  # out of memory? 16 and gradient_accumulation_steps = 4 give the same run
max_iters = 5000  # if the validation loss rises before the end, ckpt.pt has the best weights
learning_rate = 1e-3
warmup_iters = 100
min_lr = 1e-4  # a tenth of learning_rate, reached at max_iters
beta2 = 0.99  # few tokens per step, so average squared gradients over more steps (usual: 0.95)
weight_decay = 0.1

# The output.
eval_interval = 250  # ckpt.pt can only be as good as the best evaluation
eval_iters = 20
