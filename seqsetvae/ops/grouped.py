"""Products of rows that come in groups, each with a matrix of its own.

Letters: R rows, G matrices, I and O their width in and out; in a block B matrices with at most M rows each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
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
    is_padded = len(groups) >= MANY
    parts = _blocks(groups, len(matrices), rows.device) if is_padded else starmap(_Group, _places(groups))
    return _GroupedProducts.apply(rows, matrices, list(parts), is_padded)


def plain_grouped_products(rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Grouped products by autograd, the plain reference."""
    matrix_list = matrices.unbind(0)  # its gradient is then written once, not once for each group
    return torch.cat([rows[place] @ matrix_list[matrix] for matrix, place in _places(groups)])


def _places(groups: Groups) -> Iterator[tuple[int, slice]]:
    first = 0
    for matrix, n_rows in groups:
        yield matrix, slice(first, first + n_rows)
        first += n_rows


class _GroupedProducts(torch.autograd.Function):
    """The products of parts, which are groups, or blocks that together have all matrices."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, matrices: torch.Tensor, parts: list[_Group] | list[_Block], is_padded: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(rows, matrices)
        ctx.parts, ctx.is_padded = parts, is_padded
        out = rows.new_empty(len(rows), matrices.shape[2])
        for part in parts:
            part.write_products(rows, matrices, out)
        return out

    @staticmethod
    def backward(ctx: Any, *of_out: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        (gradient,) = of_out
        rows, matrices = ctx.saved_tensors
        of_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        new = torch.empty_like if ctx.is_padded else torch.zeros_like  # matrices without rows belong to no group
        of_matrices = new(matrices) if ctx.needs_input_grad[1] else None
        for part in ctx.parts:
            if of_rows is not None:
                part.write_products(gradient, matrices.mT, of_rows)
            if of_matrices is not None:
                part.write_gradient(rows, gradient, of_matrices)
        return of_rows, of_matrices, None, None


@dataclass(frozen=True)
class _Group:
    """Rows of one matrix."""

    matrix: int
    rows: slice

    def write_products(self, rows: torch.Tensor, matrices: torch.Tensor, out: torch.Tensor) -> None:
        torch.mm(rows[self.rows], matrices[self.matrix], out=out[self.rows])

    def write_gradient(self, rows: torch.Tensor, gradient: torch.Tensor, out: torch.Tensor) -> None:
        torch.mm(rows[self.rows].T, gradient[self.rows], out=out[self.matrix])


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows of BLOCK matrices, those of each padded with rows of zeros to one length."""

    matrices: slice
    rows: slice
    slots: torch.Tensor  # of each row among the padded rows
    most: int  # M

    def write_products(self, rows: torch.Tensor, matrices: torch.Tensor, out: torch.Tensor) -> None:
        products = torch.bmm(self._padded(rows), matrices[self.matrices])
        out[self.rows] = products.flatten(0, 1)[self.slots]

    def write_gradient(self, rows: torch.Tensor, gradient: torch.Tensor, out: torch.Tensor) -> None:
        torch.bmm(self._padded(rows).mT, self._padded(gradient), out=out[self.matrices])

    def _padded(self, rows: torch.Tensor) -> torch.Tensor:
        """Put rows into blocks with zeros between them: [R, width] → [B, M, width]."""
        n_matrices = self.matrices.stop - self.matrices.start
        padded = rows.new_zeros(n_matrices * self.most, rows.shape[1])
        padded[self.slots] = rows[self.rows]
        return padded.view(n_matrices, self.most, rows.shape[1])


def _blocks(groups: Groups, n_matrices: int, device: torch.device) -> Iterator[_Block]:
    """The matrices in order, BLOCK at a time, also those without rows. Slots go to the device at once."""
    counts = torch.zeros(n_matrices, dtype=torch.int64)
    occurring, n_rows = torch.tensor(groups, dtype=torch.int64).T
    counts[occurring] = n_rows
    of_blocks = counts.split(BLOCK)
    most = torch.stack([of_block.max() for of_block in of_blocks])
    matrix = occurring.repeat_interleave(n_rows)  # [R]
    rank = torch.arange(len(matrix)) - (counts.cumsum(0) - counts)[matrix]
    slots = (matrix % BLOCK * most[matrix // BLOCK] + rank).to(device, non_blocking=True)
    first = row = 0
    for of_block, of_slots, length in zip(
        of_blocks, slots.split([int(block.sum()) for block in of_blocks]), most.tolist(), strict=True
    ):
        end, last = row + len(of_slots), first + len(of_block)
        yield _Block(slice(first, last), slice(row, end), of_slots, length)
        first, row = last, end
