"""What each measured quantity is called in a figure, and on what axis it is drawn."""

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Panel:
    """One quantity against epoch.

    Args:
        column: of the table it is drawn from.
        title: its name.
        log: draw it on a logarithmic axis.
        floor: its smallest possible value, where the axis begins; None leaves that to the data.
        ceiling: its largest possible value; likewise.
    """

    column: str
    title: str
    log: bool = False
    floor: float | None = 0.0
    ceiling: float | None = None

    @property
    def may_be_log(self) -> bool:
        """Whether it falls towards 0, so that a logarithmic axis tells more of its end."""
        return self.log or self.floor == 0.0


NC1 = r"NC1: $\mathrm{tr}(\Sigma_W\Sigma_B^{+})/K$"
_METRICS = [
    Panel("nc1", NC1, log=True, floor=None),
    Panel("nc2_w_centered", "NC2 (W): classifier"),
    Panel("nc2_h_centered", "NC2 (H): class means"),
    Panel("nc3_centered", "NC3: self-duality"),
    Panel("released_nc1", "released NC1", log=True, floor=None),
    Panel("nc2_w", "released NC2 (W)"),
    Panel("nc2_h", "released NC2 (H)"),
    Panel("nc3", "NC3, not centered"),
    Panel("released_nc2_w", "released NC2 (W)"),
    Panel("released_nc2_h", "released NC2 (H)"),
    Panel("released_nc3", "released NC3"),
    Panel("nc1_quotient", r"$\mathrm{tr}\,\Sigma_W/\mathrm{tr}\,\Sigma_B$", log=True, floor=None),
    Panel("nc1_cdnv", "NC1: class-distance variance", log=True, floor=None),
    Panel("equinorm_w", "NC2 (W): unequal norms"),
    Panel("equinorm_h", "NC2 (H): unequal norms"),
    Panel("equiangle_w", "NC2 (W): unequal angles"),
    Panel("equiangle_h", "NC2 (H): unequal angles"),
    Panel("nc4", "NC4: disagreement with nearest mean"),
    Panel("bias_residual", r"bias: $\|W\mu_G+b\|_2$"),
    Panel("nuclear_over_frobenius", "nuclear / Frobenius norm", floor=1.0),
    Panel("cosine_margin_mean", "mean cosine margin", floor=None),
    Panel("soft_iou", "IoU", floor=None, ceiling=1.0),
    Panel("jaccard", "Jaccard index", floor=None, ceiling=1.0),
    Panel("subset_accuracy", "subset accuracy", floor=None, ceiling=1.0),
    Panel("top1", "accuracy", floor=None, ceiling=1.0),
    Panel("top5", "top-5 accuracy", floor=None, ceiling=1.0),
    Panel("onn_jaccard", "Jaccard index, nearest tag average", floor=None, ceiling=1.0),
    Panel("onn_subset_accuracy", "subset accuracy, nearest tag average", floor=None, ceiling=1.0),
    Panel("threshold_jaccard", "Jaccard index, threshold", floor=None, ceiling=1.0),
    Panel("threshold_subset_accuracy", "subset accuracy, threshold", floor=None, ceiling=1.0),
    Panel("lr", "learning rate", log=True, floor=None),
    Panel("train_loss", "training loss", log=True, floor=None),
    Panel("test_loss", "test loss", log=True, floor=None),
    Panel("train_feature_decay", "feature decay", log=True, floor=None),
]
_BY_COLUMN = {panel.column: panel for panel in _METRICS}
_BY_MULTIPLICITY = {
    "tag_wise_ratio": ("tag-wise ratio, {m} labels", 0.0),
    "tag_wise_angle_mean": ("tag-wise angle, {m} labels [°]", 0.0),
    "tag_wise_angle_max": ("largest tag-wise angle, {m} labels [°]", 0.0),
    "tag_wise_residual": ("tag-wise residual, {m} labels", 0.0),
    "tag_wise_scale": ("tag-wise scale $C_{m}$", None),
    "imbalance_ratio": ("tag-wise ratio of pairs with {m} images", 0.0),
}


def panel(column: str, title: str | None = None) -> Panel:
    """The panel of a column of `metrics.csv` or `history.csv`.

    Args:
        column: the column; one without a panel of its own gets its name as title and a linear axis.
        title: replaces the usual one.

    >>> panel("tag_wise_ratio_2").title
    'tag-wise ratio, 2 labels'
    """
    found = _BY_COLUMN.get(column)
    if found is None and (match := re.fullmatch(r"(\w+)_(\d+)", column)) and match.group(1) in _BY_MULTIPLICITY:
        text, floor = _BY_MULTIPLICITY[match.group(1)]
        found = Panel(column, text.replace("{m}", match.group(2)), floor=floor)
    found = found or Panel(column, column.replace("_", " "), floor=None)
    return replace(found, title=title) if title else found
