"""Products of rows that come in groups, each with a matrix of its own.

Letters: R rows, G matrices, I and O their width in and out; in a block B matrices with at most M rows each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

Groups = Sequence[tuple[int, int]]  # (matrix, number of rows), in the order of the rows, matrices ascending
MANY = 256  # groups; from here on starting each product alone takes longer than the product
BLOCK = 64  # matrices, whose rows are padded to the largest number among them


def grouped_products(rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Each group of rows times its matrix: [R, I], [G, I, O] → [R, O], with gradients of both.

    Autograd would collect one gradient for each matrix and copy them together, which takes more time than the products
    where there are thousands of matrices. Here each product is written to its place.
    """
    if torch.is_autocast_enabled(rows.device.type):  # autocast does not reach products that are written to a place
        return plain_grouped_products(rows, matrices, groups)
    products = _PaddedProducts if len(groups) >= MANY else _GroupedProducts
    return products.apply(rows, matrices, groups)


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
    """One product for each group."""

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
    written = [matrix for matrix, _ in groups]
    for before, after in pairwise([-1, *written, len(matrices)]):
        if after - before > 1:
            of_matrices[before + 1 : after].zero_()
    return of_matrices


class _PaddedProducts(torch.autograd.Function):
    """One batched product for each block of matrices, whose groups are padded with rows of zeros to one length."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
        ctx.save_for_backward(rows, matrices)
        ctx.blocks = list(_blocks(groups, len(matrices)))
        out = rows.new_empty(len(rows), matrices.shape[2])
        for block in ctx.blocks:
            products = torch.bmm(block.padded(rows), matrices[block.matrices])
            out[block.rows] = products.flatten(0, 1)[block.slots]
        return out

    @staticmethod
    def backward(ctx: Any, *of_out: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (gradient,) = of_out
        rows, matrices = ctx.saved_tensors
        of_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        of_matrices = torch.empty_like(matrices) if ctx.needs_input_grad[1] else None
        for block in ctx.blocks:
            of_block = block.padded(gradient)
            if of_rows is not None:
                products = torch.bmm(of_block, matrices[block.matrices].mT)
                of_rows[block.rows] = products.flatten(0, 1)[block.slots]
            if of_matrices is not None:
                torch.bmm(block.padded(rows).mT, of_block, out=of_matrices[block.matrices])
        return of_rows, of_matrices, None


@dataclass(frozen=True, eq=False)
class _Block:
    matrices: slice
    rows: slice
    slots: torch.Tensor  # of each row among the padded rows
    most: int  # M

    def padded(self, rows: torch.Tensor) -> torch.Tensor:
        """Its rows among zeros: [R, width] → [B, M, width]."""
        n_matrices = self.matrices.stop - self.matrices.start
        padded = rows.new_zeros(n_matrices * self.most, rows.shape[1])
        padded[self.slots.to(rows.device, non_blocking=True)] = rows[self.rows]
        return padded.view(n_matrices, self.most, rows.shape[1])


def _blocks(groups: Groups, n_matrices: int) -> Iterator[_Block]:
    """The matrices in order, BLOCK at a time, also those without rows."""
    counts = torch.zeros(n_matrices, dtype=torch.int64)
    matrix, n_rows = torch.tensor(groups, dtype=torch.int64).T
    counts[matrix] = n_rows
    row = 0
    for first, of_block in zip(range(0, n_matrices, BLOCK), counts.split(BLOCK), strict=True):
        most, end = int(of_block.max()), row + int(of_block.sum())
        of_row = torch.arange(len(of_block)).repeat_interleave(of_block)
        before = of_block.cumsum(0) - of_block
        slots = of_row * most + torch.arange(end - row) - before[of_row]
        yield _Block(slice(first, first + len(of_block)), slice(row, end), slots, most)
        row = end
