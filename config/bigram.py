"""The simplest language model: how likely each character is depends on the one before it alone.

A table of 65 x 65 scores, learned by gradient descent, though counting pairs would give the same.
"""

network = "bigram"
block_size = 64  # how many characters are scored at once: it does not look back at them

batch_size = 64  # a step costs next to nothing, so let it be a steady one
max_iters = 1000
learning_rate = 0.1  # each score is seen seldom and by itself: it bears a very high rate
warmup_iters = 0
min_lr = 1e-3
weight_decay = 0.0  # a rare pair should be rare, not pulled towards the others

eval_interval = 250
eval_iters = 5
