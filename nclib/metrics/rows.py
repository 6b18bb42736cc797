"""K vectors of d numbers, read block by block in float64, and all pairs of them, tile by tile.

With a vocabulary for classes (K = 50,000) a float64 or centered copy of the vectors would be the largest tensor, and a
K x K matrix would not fit at all.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

BLOCK_NUMBERS = 1 << 20
MAX_TABLE = 1 << 22
"""Entries up to which a table of all pairs of something is kept."""
TILE = 512
"""Pairs are taken in squares of so many rows: a square in float64 stays in the second-level cache of a CPU."""
CLOSE = 1e-4
"""Squared distances of unit vectors below this are computed from differences, since `2 - 2 cos` loses digits."""


@dataclass(frozen=True)
class Rows:
    """The vectors `scale_k (values_k - origin)`."""

    values: Float[Tensor, "k d"]
    origin: Float64[Tensor, " d"] | None = None
    scale: Float64[Tensor, " k"] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    def part(self, rows: slice) -> Float64[Tensor, "b d"]:
        part = self.values[rows].double()
        part = part if self.origin is None else part - self.origin
        return part if self.scale is None else part * self.scale[rows].unsqueeze(1)

    @property
    def dense(self) -> Float64[Tensor, "k d"]:
        """All rows, where they are few."""
        return self.part(slice(None))

    def blocks(self) -> Iterator[Float64[Tensor, "b d"]]:
        size = max(1, BLOCK_NUMBERS // self.dim)
        return (self.part(slice(start, start + size)) for start in range(0, len(self), size))

    def map(self, function: Callable[..., Tensor], *others: "Rows") -> Float64[Tensor, " k"]:
        """A number for each row, from blocks of these and of other rows."""
        blocks = zip(*(rows.blocks() for rows in (self, *others)), strict=True)
        return torch.cat([function(*block) for block in blocks])

    @cached_property
    def norms(self) -> Float64[Tensor, " k"]:
        return self.map(lambda block: torch.linalg.vector_norm(block, dim=1))

    @cached_property
    def total(self) -> Float64[Tensor, " d"]:
        """Sum of the rows."""
        return reduce(torch.add, (block.sum(dim=0) for block in self.blocks()))

    @cached_property
    def moment(self) -> Float64[Tensor, "d d"]:
        """Sum of the outer products of the rows with themselves."""
        moment = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=self.values.device)
        for block in self.blocks():
            moment.addmm_(block.T, block)
        return moment

    def scaled(self, scale: Float64[Tensor, " *k"]) -> "Rows":
        """The rows times a number for all, or one for each."""
        return replace(self, scale=scale.expand(len(self)) if self.scale is None else self.scale * scale)


def centered(values: Float[Tensor, "k d"]) -> Rows:
    """The rows minus their mean."""
    return Rows(values, Rows(values).total / len(values))


def row_products(a: Rows, b: Rows) -> Float64[Tensor, " k"]:
    """Inner product of each row of `a` with that of `b`."""
    return a.map(lambda x, y: (x * y).sum(dim=1), b)


class PairStatistics(NamedTuple):
    """Means over the pairs of rows k < l, `u` the rows at unit length."""

    equiangle: Float64[Tensor, ""]
    """Mean of `|cos + 1/(K-1)|`."""
    gnc2: Float64[Tensor, ""]
    """Variance of `log(1/|u_k - u_l|)`."""
    gnc2_mean: Float64[Tensor, ""]
    gnc2_distance: Float64[Tensor, ""]
    """Variance of `|u_k - u_l|`."""
    cdnv: Float64[Tensor, ""]
    """Mean of `(var_k + var_l) / (2 |row_k - row_l|²)`."""


def pair_statistics(rows: Rows, variances: Float64[Tensor, " k"] | None = None) -> PairStatistics:
    """All that is a mean over pairs of rows, with `K² d / 2` multiply-adds and no K x K matrix.

    Rows of zeros have no direction: then only `cdnv`, of the `variances` of the rows, is a number.
    """
    k, norms = len(rows), rows.norms
    variances = torch.zeros_like(norms) if variances is None else variances
    unit = rows.scaled(torch.where(norms > 0, 1 / norms, 0))
    ideal = 2 * k / (k - 1)  # |u_k - u_l|² of a simplex ETF: sums about it, so that small variances keep their digits
    sums = norms.new_zeros(6)
    tiles = [slice(start, start + TILE) for start in range(0, k, TILE)]
    for i, first in enumerate(tiles):
        a = unit.part(first)
        for second in tiles[i:]:
            b = unit.part(second)
            cosines = a @ b.T
            squares = 2 - 2 * cosines
            if first == second:
                squares.fill_diagonal_(ideal)
            if bool((squares < CLOSE).any()):
                squares = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
            scaled = squares / ideal
            logs, chords = scaled.log(), scaled.sqrt() - 1
            lengths = norms[first].unsqueeze(1), norms[second]
            distances = (lengths[0] - lengths[1]).square() + lengths[0] * lengths[1] * squares
            ratios = (variances[first].unsqueeze(1) + variances[second]) / (2 * distances)
            terms = ((cosines + 1 / (k - 1)).abs(), logs, logs.square(), chords, chords.square(), ratios)
            sums += torch.stack([(term.triu(1) if first == second else term).sum() for term in terms])
    means = sums / (k * (k - 1) / 2)
    equiangle, log, log_square, chord, chord_square = means[:5].where(norms.min() > 0, torch.nan)
    return PairStatistics(
        equiangle=equiangle,
        gnc2=(log_square - log.square()).clamp(min=0) / 4,
        gnc2_mean=-(log + math.log(ideal)) / 2,
        gnc2_distance=(chord_square - chord.square()).clamp(min=0) * ideal,
        cdnv=means[5],
    )
