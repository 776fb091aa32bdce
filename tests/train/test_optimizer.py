"""Muon in fp32 is torch's Muon: the same updates within bf16, the same state; its iteration orthogonalises."""

from __future__ import annotations

import pytest
import torch

from tagmoe.train.optimizer import MuonFp32, orthogonalise

SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}


def walk(kind: type[torch.optim.Muon], steps: int = 5) -> tuple[list[torch.Tensor], dict[str, object]]:
    """Two matrices after a few steps with given gradients, and the optimizer's state."""
    random = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in ((24, 40), (40, 8))]
    optimizer = kind(parameters, **SETTINGS)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer.state_dict()


def test_it_walks_where_torchs_own_does() -> None:
    (ours, state), (theirs, expected) = walk(MuonFp32), walk(torch.optim.Muon)
    start, _ = walk(MuonFp32, steps=0)
    for mine, other, first in zip(ours, theirs, start, strict=True):
        # torch rounds the direction to bf16: 3 decimal digits of each of the steps
        assert (mine - other).norm() < 0.02 * (other - first).norm()
        assert (mine - first).norm() > 0.1
    assert state["param_groups"] == expected["param_groups"]
    assert state["state"].keys() == expected["state"].keys()  # type: ignore[attr-defined]
    for place, values in state["state"].items():  # type: ignore[attr-defined]
        torch.testing.assert_close(values, expected["state"][place])  # type: ignore[index]


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_the_iteration_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before, after = (torch.linalg.svdvals(value) for value in (matrix, orthogonalise(matrix, *COEFFICIENTS)))
    assert before.max() / before.min() > 2
    assert ((after > 0.6) & (after < 1.3)).all()
    assert orthogonalise(matrix, *COEFFICIENTS).shape == matrix.shape


COEFFICIENTS = ((3.4445, -4.775, 2.0315), 5, 1e-7)
