"""All metrics of one set of features at once: the two passes are done once, whatever is asked for after."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.duality import _bias_residual, duality_values
from nclib.metrics.prediction import check_logits
from nclib.metrics.rows import Rows, centered, pair_statistics
from nclib.metrics.samples import SampleMeasures, measure_samples
from nclib.metrics.simplex import _equinorm, _nc2, simplex_distance
from nclib.metrics.spectrum import nuclear_ratios
from nclib.metrics.statistics import CollapseStatistics, statistics_and_last_layer
from nclib.metrics.tag_wise import tag_wise_rows
from nclib.metrics.uniformity import MAX_MARGIN_CLASSES, margin_one_vs_rest
from nclib.metrics.variability import _nc1_quotient, whitenings


@dataclass(frozen=True)
class Measurement:
    """The geometry of some features and their classifier: scalars by `scalars()`, arrays from the parts.

    The bias is zeros where there is none, `nuclear_ratios` None where it was not asked for.
    """

    statistics: CollapseStatistics
    weight: Float[Tensor, "k d"]
    bias: Float64[Tensor, " k"]
    samples: SampleMeasures
    nuclear_ratios: Float64[Tensor, " k"] | None

    def scalars(self) -> dict[str, float]:
        """Every scalar metric, by its plain key; see `measure`."""
        return {name if m is None else f"{name}_{m}": value for name, m, value in self.rows()}

    def rows(self) -> list[tuple[str, int | None, float]]:
        """Every scalar metric as (name, multiplicity, value); the multiplicity is None where a metric has none."""
        values = self.samples.values | {"cosine_margin_mean": self.samples.margins.double().mean()}
        if self.nuclear_ratios is not None:
            values["nuclear_over_frobenius"] = self.nuclear_ratios.mean()
        values |= mean_values(self.statistics, self.samples.class_variances)
        values |= classifier_values(self.statistics, self.weight, self.bias)
        rows: list[tuple[str, int | None, float]] = [(name, None, float(value)) for name, value in values.items()]
        return rows + [(name, m, float(value)) for name, m, value in tag_wise_rows(self.statistics)]


def mean_values(
    statistics: CollapseStatistics, class_variances: Float64[Tensor, " k"]
) -> dict[str, Float64[Tensor, ""]]:
    """Metrics of the class means and variances alone."""
    pairs = pair_statistics(statistics.deviations, class_variances)
    kept = statistics.sets.kept
    present = {} if kept is None else {"num_classes_present": statistics.set_means.new_tensor(len(kept))}
    return present | {
        "nc1_quotient": _nc1_quotient(statistics, class_variances),
        "nc1_cdnv": pairs.cdnv,
        "nc2_h": _nc2(Rows(statistics.class_means)),
        "nc2_h_centered": _nc2(statistics.deviations),
        "equinorm_h": _equinorm(statistics.deviations),
        "equiangle_h": pairs.equiangle,
        "gnc2_h": pairs.gnc2,
        "gnc2_h_mean": pairs.gnc2_mean,
        "gnc2_h_distance": pairs.gnc2_distance,
        "mean_norm": statistics.deviations.norms.mean(),
    }


def classifier_values(
    statistics: CollapseStatistics, weight: Float[Tensor, "k d"], bias: Float64[Tensor, " k"]
) -> dict[str, Float64[Tensor, ""]]:
    """Metrics of the last layer, and of it against the class means."""
    deviations, raw, rows = statistics.deviations, Rows(weight), centered(weight)
    pairs = pair_statistics(rows)
    margin = {"margin_one_vs_rest": margin_one_vs_rest(weight)} if len(weight) <= MAX_MARGIN_CLASSES else {}
    return {
        "nc2_w": _nc2(raw),
        "nc2_w_centered": _nc2(rows),
        "nc3": simplex_distance(raw, deviations),
        "nc3_centered": simplex_distance(rows, deviations),
        "equinorm_w": _equinorm(rows),
        "equiangle_w": pairs.equiangle,
        "gnc2_w": pairs.gnc2,
        "gnc2_w_mean": pairs.gnc2_mean,
        "gnc2_w_distance": pairs.gnc2_distance,
        **duality_values(raw, deviations),
        **margin,
        "bias_residual": _bias_residual(statistics.global_mean, raw, bias),
        "released_nc3": simplex_distance(raw, statistics.released_deviations),
    }


@torch.no_grad()
def take_measurement(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    logits: Float[Tensor, "n k"] | None = None,
    nuclear_norm: bool = True,
    classes: str = "all",
) -> Measurement:
    """Two passes over the features, kept for scalars and arrays alike. Args, Raises: as `measure`."""
    num_classes = len(weight)
    statistics, weight, bias = statistics_and_last_layer(features, labels, weight, bias, classes=classes)
    if logits is not None:
        check_logits(logits, labels, num_classes=num_classes)
        (columns,) = statistics.sets.rows_of_kept(logits.T)
        logits = columns.T
    directions = whitenings(statistics)
    samples = measure_samples(features, statistics, weight, bias, logits=logits, whitenings=directions)
    samples.values.setdefault("separation", statistics.sets.num_classes * samples.values["nc1"])
    samples.values["class_mean_rank"] = torch.tensor(len(directions["nc1"]))
    ratios = nuclear_ratios(features, statistics.sets) if nuclear_norm else None
    return Measurement(statistics, weight, bias, samples, ratios)


def measure(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    logits: Float[Tensor, "n k"] | None = None,
    nuclear_norm: bool = True,
    classes: str = "all",
) -> dict[str, float]:
    """Every scalar metric of features, labels and a last layer, by plain keys.

    The keys are the names of the functions of this package, `tag_wise_..._m` for each multiplicity m >= 2 that occurs.
    Accuracies and other shares lie in [0, 1]. `tag_wise_ratio_m` is left out where it would be a mean over more than
    `tag_wise.MAX_PAIRS` pairs of sets. A value is NaN where it has no meaning, such as angles of a weight of zeros.

    Args:
        features: Last-layer features (n, d), float16 to float64; computed in float32 (float64 for float64), sums
            over samples in float64.
        labels: Multi-hot (n, k) of zeros and ones, or class ids (n,); samples without labels are left out.
        weight: Classifier (k, d), k >= 2.
        bias: Its bias (k,).
        logits: Logits (n, k) of the model, where they are not `W h + b`.
        nuclear_norm: Include `nuclear_over_frobenius`. All other keys together cost a few reads of the features; it
            needs the singular values of each class, n d min(d, n/k) multiply-adds: at d = 2048 a hundred times more.
        classes: "all", or "present" to leave out those without samples: of the classifier and the logits, too. Then
            `num_classes_present` says how many there are.

    Returns:
        Name to value.

    Raises:
        ValueError: If shapes do not fit, labels are invalid, a class has no sample that carries it alone, all
            class means are equal, or values are not finite.

    >>> values = measure(torch.eye(3), torch.arange(3), torch.eye(3))
    >>> values["nc1"], round(values["nc2_h_centered"], 6), values["top1"]
    (0.0, 0.0, 1.0)
    """
    measurement = take_measurement(
        features, labels, weight, bias, logits=logits, nuclear_norm=nuclear_norm, classes=classes
    )
    return measurement.scalars()
