"""The Muon optimizer, for the matrices inside a network's blocks."""

import math

import torch
from torch.optim import Optimizer

# Matrix products of the Newton-Schulz iteration. Muon's authors take 5; in 200 steps of a network
# of two layers, 128 wide, 4 lose nothing (1.886 against 1.888) and 3 lose more (1.909).
ITERATIONS = 4


class Muon(Optimizer):
    """Momentum, with each update replaced by the nearest orthogonal matrix: the matrix moves
    equally in all directions, while AdamW moves mostly in the few that dominate its gradients.

    All matrices of one shape are updated at once (10 and 4.7 ms a step of
    config/shakespeare_cpu.py), in `dtype`: torch.optim.Muon always takes bfloat16, which a CPU
    without bfloat16 instructions emulates.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(self, parameters, dtype, lr=0.02, momentum=0.95, weight_decay=0.1):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self.dtype = dtype
        self.found_inf = None  # or a tensor: above 0 if a gradient is not finite

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                # Nesterov: the average as it will be after one more such gradient.
                update = parameter.grad.lerp(momentum, group["momentum"])
                by_shape.setdefault(parameter.shape, []).append((parameter, update))
            for (rows, columns), pairs in by_shape.items():
                updates = torch.stack([update for _, update in pairs]).to(self.dtype)
                updates = nearly_orthogonal(updates)  # (count, rows, columns)
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    change = math.sqrt(max(1, rows / columns)) * update.to(parameter.dtype)
                    change = group["lr"] * (change + group["weight_decay"] * parameter)
                    if self.found_inf is not None:
                        change = torch.where(self.found_inf > 0, 0.0, change)
                    parameter.sub_(change)


def nearly_orthogonal(matrices):
    """The matrices (count, rows, columns) with all their singular values moved close to 1.

    Each Newton-Schulz iteration applies a polynomial to the singular values; Jordan's coefficients
    favor speed over precision: the values end between about 0.7 and 1.2.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return nearly_orthogonal(matrices.mT).mT
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT  # (count, rows, columns) -> (count, rows, rows)
        polynomial = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)  # (count, rows, columns)
    return x
