"""The theorems of both papers for unconstrained features, as numbers that can be checked to machine precision.

`global_minimum` predicts the optimum of balanced labels from a handful of scalars, `certified_minimum` finds and proves
that of any label counts, `minimize` descends over all weights and features, `saddles` looks at the other critical
points, and `predict_training` says what a training run's settings imply. The derivations are in docs/theory.md.
"""

from nclib.theory.certified import CertifiedMinimum, certified_fixed_head, certified_minimum
from nclib.theory.minimum import GlobalMinimum, fixed_head_minimum, global_minimum
from nclib.theory.problem import Point, Problem, objective
from nclib.theory.saddles import (
    Curvature,
    gradient_norm,
    most_negative_curvature,
    predicted_curvature,
    rank_deficient_point,
    trivial_point,
    values_along,
)
from nclib.theory.training import predict_training, settings_of_training
from nclib.theory.unconstrained import Minimization, descend, minimize, random_point

__all__ = [
    "CertifiedMinimum",
    "Curvature",
    "GlobalMinimum",
    "Minimization",
    "Point",
    "Problem",
    "certified_fixed_head",
    "certified_minimum",
    "descend",
    "fixed_head_minimum",
    "global_minimum",
    "gradient_norm",
    "minimize",
    "most_negative_curvature",
    "objective",
    "predict_training",
    "predicted_curvature",
    "random_point",
    "rank_deficient_point",
    "settings_of_training",
    "trivial_point",
    "values_along",
]
