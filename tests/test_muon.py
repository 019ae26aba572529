"""quill/muon.py: its steps are those of torch.optim.Muon."""

import pytest
import torch

from quill.muon import ITERATIONS, Muon, nearly_orthogonal

SHAPES = [(12, 12), (48, 12), (12, 48)]


def train_on(optimizer, parameters, gradients):
    """Give each parameter its gradients, one step after the other."""
    for step in range(len(gradients[0])):
        for parameter, sequence in zip(parameters, gradients, strict=True):
            parameter.grad = sequence[step].clone()
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is from torch 2.9")
@pytest.mark.parametrize("shape", SHAPES)
def test_muon_equals_torchs_muon_within_bfloat16(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(6, *shape)
    ends = []
    for build in (
        lambda parameters, **options: Muon(parameters, torch.float32, **options),
        lambda parameters, **options: torch.optim.Muon(parameters, ns_steps=ITERATIONS, **options),
    ):
        parameter = torch.nn.Parameter(start.clone())
        train_on(build([parameter], lr=0.02, weight_decay=0.1), [parameter], [gradients])
        ends.append(parameter.detach() - start)
    assert ends[1].norm() > 0.2
    assert (ends[0] - ends[1]).norm() < 0.02 * ends[1].norm()  # bfloat16 has 8 bits


def test_matrices_updated_together_equal_matrices_updated_alone():
    torch.manual_seed(0)
    frozen = torch.nn.Parameter(torch.ones(12, 12))  # it has no gradient, and stays
    shapes = [(12, 12), (48, 12), (12, 12), (48, 12), (12, 48)]
    starts, gradients = [torch.randn(s) for s in shapes], [torch.randn(2, *s) for s in shapes]
    together = [torch.nn.Parameter(start.clone()) for start in starts]
    train_on(Muon([frozen, *together], torch.float32), together, gradients)
    for start, sequence, a in zip(starts, gradients, together, strict=True):
        b = torch.nn.Parameter(start.clone())
        train_on(Muon([b], torch.float32), [b], [sequence])
        assert (a - start).norm() > 1e-3
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert (frozen == 1).all()


def test_all_singular_values_of_an_update_end_close_to_1():
    torch.manual_seed(0)
    matrices = torch.randn(50, 24, 12) * torch.logspace(0, -1, 12)  # of very different sizes
    before, after = (
        torch.linalg.svdvals(m) for m in (matrices, nearly_orthogonal(matrices, torch.float32))
    )
    assert (before[:, 0] > 5 * before[:, -1]).all()
    assert after.min() > 0.6 and after.max() < 1.3


def test_float16_keeps_small_gradients():
    torch.manual_seed(0)
    matrices = torch.randn(2, 8, 6) * 2.0**-22  # float16's smallest number is 2^-24
    expected = nearly_orthogonal(matrices, torch.float32)
    found = nearly_orthogonal(matrices, torch.float16).float()
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
