"""Mistakes that people make in the tasks. The checker knows each by the numbers that come out."""

# A task | a part of its solution | what a learner may write there | the mistake in words.
TABLE = """
softmax | z - z.max() | z | without subtracting the largest score, so exponentials overflow
softmax | powers / powers.sum() | powers | without the division by the sum
softmax | torch.exp(z - z.max()) | z | without the exponential
cross_entropy | .mean() | .sum() | with the sum over the N answers, not their mean
cross_entropy | -p.log().mean() | -p.mean().log() | with the log of the mean, not the mean of logs
cross_entropy | dim=1 | dim=0 | with the softmax over dim 0: each row, dim 1, should sum to 1
cross_entropy | -p.log() | p.log() | without the minus sign
cross_entropy | .log() | .log2() | with log2: this is in bits, not in nats
cross_entropy | .softmax(dim=1) | | without the softmax: logits are not probabilities
cross_entropy | [torch.arange(len(targets)), targets] | | with all of each row, not the answer alone
bigram_counts | [first, second] | [second, first] | with rows and columns swapped
bigram_counts | += 1 | = 1 | when a pair that comes again is not counted again
bigram_counts | torch.zeros | torch.ones | when the counts begin at 1, not at 0
bigram_counts | return counts | return counts / counts.sum(1, True) | with rows divided by the sum
bigram_counts | ids[:-1], ids[1:], strict=True | ids[:-2], ids[1:] | without the last pair
bigram_counts | ids[:-1], ids[1:] | ids, ids[1:] + ids[:1] | when the first id follows the last one
embed | table[ids] | torch.eye(len(table))[ids] | with one-hot vectors, not multiplied by the table
layer_norm | gains * ( | ( | without the gains
layer_norm | x.mean(dim=2, keepdim=True) | 0 | without subtracting the mean
layer_norm | torch.sqrt( | ( | with a division by the variance, not by its root
layer_norm | ** 2).mean( | ** 2 / (1 - 1 / x.shape[2])).mean( | with C - 1 in the variance, not C
layer_norm | + 0.00001 | | without the 0.00001
layer_norm | torch.sqrt(variance + | (variance.sqrt() + | with the 0.00001 outside the root
layer_norm | dim=2 | dim=1 | with mean and variance over dim 1, the positions: it should be dim 2
layer_norm | dim=2 | dim=(0, 1, 2) | with one mean and variance for all: each vector has its own
rotate | a * cos - b * sin | a * cos + b * sin | with a plus in the first half
rotate | b * cos + a * sin | b * cos - a * sin | with a minus in the second half
rotate | -2 * | -1 * | with the exponents -i / D, not -2 i / D
rotate | -2 * | -4 * | with the exponents -4 i / D, not -2 i / D
rotate | arange(T) | arange(1, T + 1) | with the positions 1 to T, not 0 to T - 1
rotate | : D // 2], x[:, D // 2 :] | ::2], x[:, 1::2] | with neighboring entries of x as pairs
rotate | dim=1) | dim=1).view(T, 2, D // 2).mT.flatten(1) | with each pair's results side by side
attention | / math.sqrt(D) | | without the division by sqrt(D)
attention | math.sqrt(D) | D | with a division by D, not by sqrt(D)
attention | math.sqrt(D) | math.sqrt(T) | with a division by sqrt(T), not by sqrt(D)
attention | q @ k.T | k @ q.T | with q and k swapped
attention | @ v | @ k | with the keys in place of the values
attention | q @ k.T | q @ v.T | with the values in place of the keys
attention | .masked_fill(future, -math.inf) | | without the mask
attention | -math.inf | 0 | with hidden scores of 0, not minus infinity: e^0 is 1
attention | triu(1) | triu(0) | when the mask hides each position from itself, too
attention | triu(1) | triu(2) | when the mask lets each position see the next one
attention | triu(1) | tril(-1) | when the mask hides the past, not the future
attention | dim=1 | dim=0 | with the softmax over the queries, dim 0: the keys are dim 1
attention | return | return scores.softmax(1).tril() @ v # | with the mask after the softmax
split_into_heads | .transpose(1, 2) | | without swapping the dimensions of positions and heads
split_into_heads | .trans | .reshape(B, n_head, T, -1) # | with a view alone, which mixes the heads
split_into_heads | x.v | x.view(B, T, -1, n_head).mT.v | with each n_head-th entry, not D neighbors
feed_forward | / 2 @ | @ | without the division by 2
feed_forward | / math.sqrt(2) | | without the division by sqrt(2)
feed_forward | erf(z / math.sqrt(2)) | tanh(.79788 * (z + .044715 * z**3)) | with tanh, not erf
feed_forward | z * (1 | (1 | without the factor z: GELU is z times the area
feed_forward | z * (1 + torch.erf(z / math.sqrt(2))) / 2 | z.relu() | with ReLU, not GELU
feed_forward | (1 + torch.erf(z / math.sqrt(2))) / 2 | z.sigmoid() | with SiLU, not GELU
feed_forward | (1 + torch.erf(z / math.sqrt(2))) / 2 | (1.702 * z).sigmoid() | with sigmoid, not erf
feed_forward | * (1 + torch.erf(z / math.sqrt(2))) / 2 | | without GELU
batch_at | [:, 1:] | [:, :-1] | when y is x: it should be one position further
batch_at | [:, :-1], windows[:, 1:] | [:, 1:], windows[:, :-1] | with x and y swapped
batch_at | windows[:, 1:] | windows[:, :-1].roll(-1, 1) | with x rolled, not cut anew
batch_at | block_size + 1 | block_size | with windows of block_size ids: one more is needed
learning_rate | step + 1 | step | with a rate of 0 at step 0
learning_rate | (warmup_iters + 1) | warmup_iters | when the peak is reached one step early
learning_rate | < warmup_iters | < 0 | without the warm-up
learning_rate | * (max_iters - step) / (max_iters - warmup_iters) | | without the decay
learning_rate | (max_iters - warmup_iters) | max_iters | with the decay divided by max_iters alone
learning_rate | peak * | | without the peak: this is the factor alone
adamw_step | g**2 | g | without the square of g in s
adamw_step | torch.sqrt( | ( | without the root of s
adamw_step | m = b | beta1, beta2 = beta2, beta1; m = b | with beta1 and beta2 swapped
adamw_step | - lr * mean | + lr * mean | with a step up, along the gradient, not against it
adamw_step | m / (1 - beta1**step) | m | without the bias correction of m
adamw_step | s / (1 - beta2**step) | s | without the bias correction of s
adamw_step | **step | | with beta, not beta to the power of step, in the bias correction
adamw_step | , m, s | , mean, s / (1 - beta2**step) | when the corrected averages are returned
adamw_step | - lr * weight_decay * w | | without the weight decay
adamw_step | m = b | g = g + weight_decay * w; weight_decay = 0; m = b | with the decay in g, as L2
adamw_step | 0001) | 0001) * (1 - lr * weight_decay) | with the decay of the new w, not of the old
adamw_step | + 0.00000001 | | without the epsilon
adamw_step | scale + 0.00000001 | (scale**2 + 1e-8).sqrt() | with the epsilon inside the root
top_k_top_p | kept[k:] = 0 | | without the cut after the k most likely
top_k_top_p | >= p | > 1 | without the cut at p
top_k_top_p | - kept >= p | > p | without the character with which the sum reaches p
top_k_top_p | kept /= kept.sum() | | when the k do not get the sum 1 before the cut at p
top_k_top_p | kept / kept.sum()) | kept) | without the division by the sum at the end
top_k_top_p | order, | order.sort()[0], | when the result stays sorted
newton_schulz | @ square) @ x | ) @ x | without the square of x x^T
newton_schulz | square @ square | square * square | with the squares of the entries of x x^T
"""
MISTAKES = [[part.strip() for part in line.split("|")] for line in TABLE.strip().splitlines()]
