"""What each measured quantity is called in a figure, and on what axis it is drawn."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Panel:
    """One quantity against epoch.

    Args:
        metric: its name in `metrics.csv`, or a column of `history.csv`.
        title: its name in the figure; `{labels}` stands for `labels`.
        labels: the multiplicity of a tag-wise metric, or the samples per pair of `imbalance_ratio`.
        split: of `metrics.csv`, `train` or `test`.
        log: draw it on a logarithmic axis.
        floor: its smallest possible value, where the axis begins; None leaves that to the data.
        ceiling: its largest possible value; None leaves that to the data.
    """

    metric: str
    title: str
    labels: int | None = None
    split: str = "train"
    log: bool = False
    floor: float | None = 0.0
    ceiling: float | None = None

    @property
    def name(self) -> str:
        """`nc1`, `tag_wise_ratio_2`: what tables that people read call it."""
        return self.metric if self.labels is None else f"{self.metric}_{self.labels}"

    @property
    def may_be_log(self) -> bool:
        """Whether it falls towards 0, so that a logarithmic axis shows more of its end."""
        return self.log or self.floor == 0.0


_LOG = {"log": True, "floor": None}
_SHARE = {"floor": None, "ceiling": 1.0}
_KNOWN = (
    Panel("nc1", r"NC1: $\mathrm{tr}(\Sigma_W\Sigma_B^{+})/K$", **_LOG),
    Panel("nc2_w_centered", "NC2 (W): classifier"),
    Panel("nc2_h_centered", "NC2 (H): class means"),
    Panel("nc3_centered", "NC3: self-duality"),
    Panel("released_nc1", "released NC1", **_LOG),
    Panel("nc2_w", "released NC2 (W)"),
    Panel("nc2_h", "released NC2 (H)"),
    Panel("nc3", "NC3, not centered"),
    Panel("released_nc3", "released NC3"),
    Panel("nc1_quotient", r"$\mathrm{tr}\,\Sigma_W/\mathrm{tr}\,\Sigma_B$", **_LOG),
    Panel("nc1_cdnv", "NC1: class-distance variance", **_LOG),
    Panel("equinorm_w", "NC2 (W): unequal norms"),
    Panel("equinorm_h", "NC2 (H): unequal norms"),
    Panel("equiangle_w", "NC2 (W): unequal angles"),
    Panel("equiangle_h", "NC2 (H): unequal angles"),
    Panel("nc4", "NC4: disagreement with nearest mean"),
    Panel("bias_residual", r"bias: $\|W\mu_G+b\|_2$"),
    Panel("nuclear_over_frobenius", "nuclear / Frobenius norm", floor=1.0),
    Panel("cosine_margin_mean", "mean cosine margin", floor=None),
    Panel("tag_wise_ratio", "tag-wise ratio, {labels} labels"),
    Panel("tag_wise_angle_mean", "tag-wise angle, {labels} labels [°]"),
    Panel("tag_wise_angle_max", "largest tag-wise angle, {labels} labels [°]"),
    Panel("tag_wise_residual", "tag-wise residual, {labels} labels"),
    Panel("tag_wise_scale", "tag-wise scale $C_{labels}$", floor=None),
    Panel("imbalance_ratio", "tag-wise ratio, {labels} images per pair"),
    Panel("soft_iou", "IoU", **_SHARE),
    Panel("jaccard", "Jaccard index", **_SHARE),
    Panel("subset_accuracy", "subset accuracy", **_SHARE),
    Panel("top1", "accuracy", **_SHARE),
    Panel("top5", "top-5 accuracy", **_SHARE),
    Panel("onn_jaccard", "Jaccard index, nearest tag average", **_SHARE),
    Panel("onn_subset_accuracy", "subset accuracy, nearest tag average", **_SHARE),
    Panel("threshold_jaccard", "Jaccard index, threshold", **_SHARE),
    Panel("threshold_subset_accuracy", "subset accuracy, threshold", **_SHARE),
    Panel("lr", "learning rate", **_LOG),
    Panel("train_loss", "training loss", **_LOG),
    Panel("test_loss", "test loss", **_LOG),
    Panel("train_feature_decay", "feature decay", **_LOG),
    Panel("train_soft_iou", "training IoU", **_SHARE),
    Panel("test_soft_iou", "test IoU", **_SHARE),
    Panel("train_accuracy", "training accuracy", **_SHARE),
    Panel("test_accuracy", "test accuracy", **_SHARE),
)
_BY_METRIC = {panel.metric: panel for panel in _KNOWN}


def panel(metric: str, *, labels: int | None = None, split: str = "train", title: str | None = None) -> Panel:
    """The panel of a metric; one that is not known gets its name as title and a linear axis.

    Args:
        metric, labels, split: as for `Panel`.
        title: replaces the usual one.

    >>> panel("tag_wise_ratio", labels=2).title
    'tag-wise ratio, 2 labels'
    """
    found = _BY_METRIC.get(metric) or Panel(metric, metric.replace("_", " "), floor=None)
    title = title or found.title.replace("{labels}", str(labels))
    return replace(found, title=title, labels=labels, split=split)
