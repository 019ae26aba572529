"""How gradients move the weights: the two optimizers, and the learning rate over a run.

The gradient of the loss says for each weight which way is up. AdamW takes a step down of about the
learning rate for each weight, whatever the gradient's size: it divides a running average of the
gradient (where to) by the root of a running average of its square (how sure). Muon does the like
for a matrix as a whole.
"""

import inspect
import math

import torch
from torch.optim import Optimizer

from config import UserError

# Of Newton and Schulz's method, a matrix product each. Muon's authors take 5; in 200 steps of a
# network of two layers, 128 wide, 4 lost as little (1.886 against 1.888) and 3 more (1.909).
ORTHOGONALISATION_STEPS = 4

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
    """Give every optimizer its rate for a step; returns AdamW's."""
    rate = learning_rate_at(step, config)
    set_rate(optimizers, rate, config)
    return rate


def set_rate(optimizers, rate, config):
    """Set AdamW's learning rate; Muon's follows in proportion."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
            if isinstance(optimizer, Muon):
                group["lr"] = rate / config.learning_rate * config.muon_learning_rate


# ---------------------------------------------------------------------------------------------
# The optimizers


class WithoutCompiler:
    """Optimizer's methods as PyTorch wrote them, without the decorators that import torch.compile's
    machinery when they are first called: 1.3 seconds before the first step, and no use here."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class AdamW(WithoutCompiler, torch.optim.AdamW):
    """Steps of about the learning rate, in the direction of the gradient's running average.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(WithoutCompiler, torch.optim.Muon):
    """Momentum whose every update is turned into the nearest orthogonal matrix: it moves all
    directions of a matrix alike, where AdamW moves mostly the few that dominate its gradients.

    torch's own step computes in bfloat16 whatever the machine, which a CPU without bfloat16
    instructions emulates, and takes one matrix after the other; this one computes in `dtype`, and
    all matrices of one shape at once (10 and 4.7 ms a step of config/shakespeare_cpu.py).
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(self, parameters, dtype, **options):
        super().__init__(parameters, **options)
        self.dtype = dtype
        self.found_inf = None  # or a tensor: above 0 if a gradient is not finite

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameters in by_shape(group["params"]):
                updates = torch.stack(
                    [self.look_ahead(parameter, group) for parameter in parameters]
                )
                updates = nearly_orthogonal(updates.to(self.dtype), group["ns_steps"])
                for parameter, update in zip(parameters, updates, strict=True):
                    rows, columns = parameter.shape
                    change = math.sqrt(max(1, rows / columns)) * update.to(parameter.dtype)
                    change = group["lr"] * (change + group["weight_decay"] * parameter)
                    if self.found_inf is not None:
                        change = torch.where(self.found_inf > 0, 0.0, change)
                    parameter.sub_(change)

    def look_ahead(self, parameter, group):
        """The gradient's running average as it will be after one more like it (Nesterov's)."""
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"])


def by_shape(parameters):
    """The parameters in lists of equal shape."""
    lists = {}
    for parameter in parameters:
        lists.setdefault(parameter.shape, []).append(parameter)
    return lists.values()


def nearly_orthogonal(matrices, steps):
    """The matrices (count, rows, columns) with all their singular values moved close to 1.

    Each step applies a polynomial to them (Newton and Schulz's method); its coefficients, Jordan's,
    favour speed over precision: the values end between about 0.7 and 1.2.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return nearly_orthogonal(matrices.mT, steps).mT
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT  # (count, rows, columns) -> (count, rows, rows)
        polynomial = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)  # (count, rows, columns)
    return x


def build_optimizers(network, config, dtype):
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest.

    Matrices (and embeddings) decay towards zero, biases and the gains of norms do not: a gain
    pulled to zero would switch its part off (the rule of GPT-3 and nanoGPT).
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
    if muon and not inside:
        raise UserError(
            f"optimizer=muon is for the matrices inside a gpt's blocks: a {config.network} has none"
        )
    groups = [
        {"params": outside if muon else inside + outside, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    optimizers = [AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)]
    if muon:
        rate, decay = config.muon_learning_rate, config.weight_decay
        options = {"momentum": config.beta1, "ns_steps": ORTHOGONALISATION_STEPS}
        optimizers.append(Muon(inside, dtype, lr=rate, weight_decay=decay, **options))
    return optimizers
