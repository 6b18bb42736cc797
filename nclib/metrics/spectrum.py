"""Singular values of the feature matrix of each class."""

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from nclib.metrics.label_sets import LabelSets, label_sets
from nclib.metrics.statistics import check_features, row_blocks, working_dtype

MIN_STRIP = 128
"""Fewest rows of a Gram matrix computed at a time; strips up to its diagonal took 0.6 of the time of all of it."""


def nuclear_over_frobenius(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean over classes of `|H_k|_* / |H_k|_F`, the features of a class **not** centered; in [1, sqrt(rank)].

    1 at collapse, where the features of a class are all the same. Only samples with one label, and classes that
    have some. float64 features go through a singular value decomposition; narrower ones through the eigenvalues of the
    smaller Gram matrix in float64, exact to 1e-6 of the largest singular value of float32 data.

    Source: paper 2. Args, Returns, Raises: as `nc1`; a class need not occur alone.

    >>> nuclear_over_frobenius(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    tensor(1.4142)
    """
    check_features(features, labels)
    if not bool(features.isfinite().all()):
        raise ValueError("Expected finite features, but got NaN or infinity.")
    ratios = nuclear_ratios(features, label_sets(labels))
    return ratios.mean().to(working_dtype(features))


def nuclear_ratios(features: Float[Tensor, "n d"], sets: LabelSets) -> Float64[Tensor, " k"]:
    """`|H_k|_* / |H_k|_F` of each class that occurs alone."""
    features = features.detach()
    singles = int((sets.multiplicity == 1).sum())
    order = sets.of_sample.argsort(stable=True)
    first = int((sets.of_sample < 0).sum())
    ratios = []
    for rows in order[first:].split(sets.counts.tolist())[:singles]:
        values = _singular_values(features, rows)
        # the Frobenius norm from the same values, so that exact collapse gives exactly 1
        ratios.append(values.sum() / torch.linalg.vector_norm(values))
    return torch.stack(ratios)


def _singular_values(features: Float[Tensor, "n d"], rows: Int64[Tensor, " m"]) -> Float64[Tensor, " r"]:
    if features.dtype == torch.float64:
        return torch.linalg.svdvals(features[rows])
    # eigvalsh reads the lower triangle
    return torch.linalg.eigvalsh(_gram(features, rows)).clamp(min=0).sqrt()


def _gram(features: Float[Tensor, "n d"], rows: Int64[Tensor, " m"]) -> Float64[Tensor, "r r"]:
    """The lower triangle of the smaller of `H Hᵀ` and `Hᵀ H` in float64, H the given rows; above it partly zeros."""
    size = min(len(rows), features.shape[1])
    strip = max(MIN_STRIP, size // 8)
    if len(rows) == size:
        factors = [features[rows].double().T]
    else:
        parts = (rows[part] for part in row_blocks(features) if part.start < len(rows))
        factors = (features[part].double() for part in parts)
    gram = torch.zeros(size, size, dtype=torch.float64, device=features.device)
    for factor in factors:
        for start in range(0, size, strip):
            stop = start + strip
            gram[start:stop, :stop].addmm_(factor[:, start:stop].T, factor[:, :stop])
    return gram
