"""Products of rows that come in groups, each with a matrix of its own.

Letters: R rows, G matrices, I and O their width in and out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch

Groups = Sequence[tuple[int, int]]  # (matrix, number of rows), in the order of the rows; no matrix occurs twice


def grouped_products(rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Each group of rows times its matrix: [R, I], [G, I, O] → [R, O], with gradients of both.

    Autograd would collect one gradient for each matrix and copy them together, which takes more time than the products
    where there are thousands of matrices. Here each product is written to its place.
    """
    if torch.is_autocast_enabled(rows.device.type):  # autocast does not reach products that are written to a place
        return plain_grouped_products(rows, matrices, groups)
    return _GroupedProducts.apply(rows, matrices, groups)


def plain_grouped_products(rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """The same by autograd."""
    each = matrices.unbind(0)  # its gradient is then written once, not once for each group
    return torch.cat([rows[place] @ each[matrix] for matrix, place in _places(groups)])


def _places(groups: Groups) -> Iterator[tuple[int, slice]]:
    first = 0
    for matrix, n_rows in groups:
        yield matrix, slice(first, first + n_rows)
        first += n_rows


class _GroupedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
        ctx.save_for_backward(rows, matrices)
        ctx.groups = groups
        out = rows.new_empty(len(rows), matrices.shape[2])
        for matrix, place in _places(groups):
            torch.mm(rows[place], matrices[matrix], out=out[place])
        return out

    @staticmethod
    def backward(ctx: Any, *of_out: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (gradient,) = of_out
        rows, matrices = ctx.saved_tensors
        of_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        of_matrices = _zeros_without(matrices, ctx.groups) if ctx.needs_input_grad[1] else None
        for matrix, place in _places(ctx.groups):
            if of_rows is not None:
                torch.mm(gradient[place], matrices[matrix].T, out=of_rows[place])
            if of_matrices is not None:
                torch.mm(rows[place].T, gradient[place], out=of_matrices[matrix])
        return of_rows, of_matrices, None


def _zeros_without(matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Zeros for the matrices that no group has; the others are about to be written."""
    of_matrices = torch.empty_like(matrices)
    written = sorted(matrix for matrix, _ in groups)
    for before, after in pairwise([-1, *written, len(matrices)]):
        if after - before > 1:
            of_matrices[before + 1 : after].zero_()
    return of_matrices
