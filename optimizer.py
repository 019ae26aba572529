"""How gradients move the weights: the two optimizers, and the learning rate over a run.

The gradient of the loss says for each weight which way is up. AdamW takes a step down of about the
learning rate for each weight, whatever the gradient's size: it divides a running average of the
gradient (where to) by the root of a running average of its square (how sure). Muon does the like
for a matrix as a whole.
"""

import math

import torch

# ---------------------------------------------------------------------------------------------
# The learning rate


def learning_rate_at(step, config):
    """The learning rate of a step: linear warm-up, then a decay to min_lr at lr_decay_iters."""
    end = config.lr_decay_iters or config.max_iters
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if config.lr_schedule == "constant":
        return config.learning_rate
    if step >= end:
        return config.min_lr
    share = (end - step) / (end - config.warmup_iters)  # what is left of the way: 1 to 0
    if config.lr_schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return config.min_lr + share * (config.learning_rate - config.min_lr)


def set_learning_rate(optimizers, step, config):
    """Give every optimizer its rate for a step; returns AdamW's. Muon's follows in proportion."""
    rate = learning_rate_at(step, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
            if isinstance(optimizer, Muon):
                group["lr"] = rate / config.learning_rate * config.muon_learning_rate
    return rate


# ---------------------------------------------------------------------------------------------
# The optimizers


class Muon(torch.optim.Muon):
    """Momentum whose every update is turned into the nearest orthogonal matrix: it moves all
    directions of a matrix alike, where AdamW moves mostly the few that dominate its gradients.

    torch's own step computes in bfloat16 whatever the machine, which a CPU without bfloat16
    instructions emulates: on one core of a busy machine a step of config/shakespeare_cpu.py took
    1.0 s, and takes 0.35 with this one, which computes in `dtype`. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(self, parameters, dtype, **options):
        super().__init__(parameters, **options)
        self.dtype = dtype
        self.found_inf = None  # or a tensor: above 0 if a gradient is not finite

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(momentum, group["momentum"])  # Nesterov's look ahead
                update = nearly_orthogonal(update.to(self.dtype), group["ns_steps"])
                rows, columns = parameter.shape
                change = math.sqrt(max(1, rows / columns)) * update.to(parameter.dtype)
                change = group["lr"] * (change + group["weight_decay"] * parameter)
                if self.found_inf is not None:
                    change = torch.where(self.found_inf > 0, 0.0, change)
                parameter.sub_(change)


def nearly_orthogonal(matrix, steps):
    """The matrix (rows, columns) with all its singular values moved close to 1.

    Each step applies a polynomial to them (Newton and Schulz's method); its coefficients, Jordan's,
    favour speed over precision: the values end between about 0.7 and 1.2.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return nearly_orthogonal(matrix.T, steps).T
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T  # (rows, columns) -> (rows, rows)
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x  # (rows, columns)
    return x


def build_optimizers(network, config, dtype):
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest.

    Matrices (and embeddings) decay towards zero, biases and the gains of norms do not: a gain
    pulled to zero would switch its part off (the rule of GPT-3 and nanoGPT).
    AdamW: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101.
    """
    parameters = network.named_parameters()
    inside, outside, vectors = [], [], []
    for name, parameter in parameters:
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif name.startswith("blocks."):
            inside.append(parameter)
        else:
            outside.append(parameter)

    muon = config.optimizer == "muon"
    groups = [
        {"params": outside if muon else inside + outside, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    optimizers = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)]
    if muon:
        rate, decay = config.muon_learning_rate, config.weight_decay
        optimizers.append(Muon(inside, dtype, lr=rate, weight_decay=decay))
    return optimizers
