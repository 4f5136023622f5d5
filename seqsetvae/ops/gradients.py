"""The mean gradient along a straight path, from which integrated gradients follow (Sundararajan et al., 2017).

Legend: N ends of paths, D numbers of a point, R points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def mean_gradient(
    function: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    ends: torch.Tensor,
    *,
    steps: int,
    at_once: int,
) -> torch.Tensor:
    """Mean gradient of a function, [R, D] → [R], on the way from `start` [D] to each of `ends` [N, D]: [N, D].

    Times (end - start) it adds up to the difference of the function's values, the better the more `steps`; `at_once`
    points are computed together.
    """
    total = torch.zeros_like(ends)
    for shares in ((torch.arange(steps) + 0.5) / steps).to(ends).split(max(1, at_once // len(ends))):
        points = (start + shares[:, None, None] * (ends - start)).flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(function(points).sum(), points)
        total += gradient.view(len(shares), *ends.shape).sum(0)
    return total / steps
