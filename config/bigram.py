"""The simplest language model: the next character depends on the current one alone.

A table of 65 x 65 logits, trained by gradient descent; counting pairs would give the same.
"""

network = "bigram"
block_size = 64  # characters in a sequence; each is predicted from the one before it only

batch_size = 64  # a step is cheap, so average over many characters for a less noisy gradient
max_iters = 1000
learning_rate = 0.1  # AdamW moves a logit by about this much per step, and some logits must reach 5
warmup_iters = 0
min_lr = 1e-3
weight_decay = 0.0  # it would pull the probabilities of rare pairs towards those of the others

eval_interval = 250
eval_iters = 5
