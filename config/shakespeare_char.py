"""nanoGPT's GPU recipe: minutes on a GPU, hours on a CPU (use shakespeare_laptop.py there)."""

# The network: 10.7 million parameters, ten for each character of the text.
n_layer = 6  # time grows with it
n_head = 6  # heads of 64 numbers, as in GPT-2
n_embd = 384  # embedding dimension: parameters and time grow with its square
block_size = 256  # context in characters: a speech or two
dropout = 0.2  # the text is small for this network, which would overfit it otherwise

# The training: 16,384 characters per step, 82 million in all: the text is read 80 times.
batch_size = 64  # out of memory? 16 and gradient_accumulation_steps = 4 give the same run
max_iters = 5000  # if validation loss rises before the end, ckpt.pt still has the lowest one
learning_rate = 1e-3  # nanoGPT's
warmup_iters = 100  # AdamW's running averages are unreliable at first, so start small
min_lr = 1e-4  # a tenth of learning_rate, reached at max_iters
beta2 = 0.99  # few tokens per step, so average squared gradients over more steps (usual: 0.95)
weight_decay = 0.1  # pulls the matrices towards zero a little in each step

# The output.
eval_interval = 250  # ckpt.pt can only be as good as the best evaluation, so not too rarely
eval_iters = 20  # batches in the estimate of the training loss; validation reads its whole split
