"""Muon for the layers' matrices, AdamW for everything else.

torch.optim.Muon orthogonalises one matrix after another: thousands of kernels a step at this size, more time than the
forward and backward passes. Here the matrices of one shape go through the iteration together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

# Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS: Final = 5


class BatchedMuon(torch.optim.Optimizer):
    """Momentum (Nesterov) whose step is replaced by the nearest semi-orthogonal matrix."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix.

        Raises:
            ValueError: one has no gradient. Nothing is updated then.
        """
        self._check_gradients()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                gradients = torch.stack([_gradient(parameter) for parameter in parameters])
                state = self.state[parameters[0]]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(gradients)
                state["momentum"].lerp_(gradients, 1 - group["momentum"])
                steps = orthogonalize(gradients.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(steps.float()), alpha=-group["lr"] * scale)

    def _check_gradients(self) -> None:
        """Momentum is kept of all matrices of a shape together, so none may be left out of an update."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        without = [tuple(parameter.shape) for parameter in parameters if parameter.grad is None]
        if without:
            raise ValueError(
                f"{len(without)} of {len(parameters)} matrices have no gradient, the first of shape {without[0]}: "
                "leave out of the optimizer what the loss does not depend on"
            )


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "checked before anything was updated"
    return parameter.grad


def orthogonalize(matrices: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrices: singular values near 1. matrices [B, m, n]."""
    a, b, c = NEWTON_SCHULZ
    # As `half_precision`.
    x = matrices if matrices.is_cpu else matrices.bfloat16()
    transposed = x.size(1) > x.size(2)
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, b * gram + c * gram @ gram, x, beta=a)
    return x.mT if transposed else x
