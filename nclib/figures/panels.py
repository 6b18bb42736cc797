"""What each measured quantity is called in a figure, and on what axis it is drawn."""

from dataclasses import dataclass

TITLES = {  # of those whose name does not read well
    "nc1": r"NC1: $\mathrm{tr}(\Sigma_W\Sigma_B^{+})/K$",
    "nc2_w_centered": "NC2 (W): classifier",
    "nc2_h_centered": "NC2 (H): class means",
    "nc3_centered": "NC3: self-duality",
    "released_nc1": "released NC1",
    "nc2_w": "released NC2 (W)",
    "nc2_h": "released NC2 (H)",
    "nc3": "NC3, not centered",
    "released_nc3": "released NC3",
    "nc4": "NC4: disagreement with nearest mean",
    "held_out_nc4": "NC4 by the means of training",
    "ncc_accuracy": "accuracy of the nearest mean",
    "held_out_ncc_accuracy": "accuracy of the nearest mean of training",
    "gnc2_w": "GNC2 (W): uniformity",
    "gnc2_h": "GNC2 (H): uniformity",
    "unc3": "UNC3: uniform duality",
    "separation": r"separation: $\mathrm{tr}(SS_W SS_B^{+})$",
    "margin_one_vs_rest": "margin, one row of W against the rest",
    "class_mean_rank": "rank of the class means",
    "bias_residual": r"bias: $\|W\mu_G+b\|_2$",
    "nuclear_over_frobenius": "nuclear / Frobenius norm",
    "cosine_margin_mean": "mean cosine margin",
    "tag_wise_angle_mean": "tag-wise angle [°], {labels} labels",
    "tag_wise_angle_max": "largest tag-wise angle [°], {labels} labels",
    "tag_wise_scale": "tag-wise scale $C_{labels}$",
    "imbalance_ratio": "tag-wise ratio, {labels} images per pair",
    "jaccard": "Jaccard index",
    "onn_jaccard": "Jaccard index, nearest average",
    "onn_subset_accuracy": "subset accuracy, nearest average",
    "threshold_jaccard": "Jaccard index, threshold",
    "threshold_subset_accuracy": "subset accuracy, threshold",
    "top1": "accuracy",
    "lr": "learning rate",
    "train_feature_decay": "feature decay",
}
LOG = {
    *("nc1", "released_nc1", "nc1_quotient", "nc1_cdnv", "separation"),
    *("lr", "train_loss", "test_loss", "train_feature_decay"),
}
SHARES = ("iou", "jaccard", "accuracy", "top1", "top5")  # ends of the names of shares, at most 1
FLOORLESS = {
    *("cosine_margin_mean", "tag_wise_scale", "nuclear_over_frobenius", "margin_one_vs_rest", "class_mean_rank"),
    *("gnc2_w_mean", "gnc2_h_mean", "nc3_cosine", "feature_norm", "mean_norm"),
}


@dataclass(frozen=True)
class Panel:
    """One quantity against epoch.

    Args:
        metric: its name in `metrics.csv`, or a column of `history.csv`.
        title: its name in the figure.
        labels: the multiplicity of a tag-wise metric, or the samples per pair of `imbalance_ratio`.
    """

    metric: str
    title: str
    labels: int | None = None

    @property
    def name(self) -> str:
        """`nc1`, `tag_wise_ratio_2`: what tables that people read call it."""
        return self.metric if self.labels is None else f"{self.metric}_{self.labels}"

    @property
    def log(self) -> bool:
        """Whether it is drawn on a logarithmic axis."""
        return self.metric in LOG

    @property
    def floor(self) -> float | None:
        """Its smallest possible value, where the axis begins; None leaves that to the data."""
        return None if self.log or self.ceiling or self.metric in FLOORLESS else 0.0

    @property
    def ceiling(self) -> float | None:
        """Its largest possible value; None leaves that to the data."""
        return 1.0 if self.metric.endswith(SHARES) else None

    @property
    def may_be_log(self) -> bool:
        """Whether it falls towards 0, so that a logarithmic axis shows more of its end."""
        return self.log or self.floor == 0.0


def panel(metric: str, *, labels: int | None = None) -> Panel:
    """The panel of a metric.

    >>> panel("tag_wise_ratio", labels=2).title
    'tag-wise ratio, 2 labels'
    """
    words = metric.replace("tag_wise", "tag-wise").replace("soft_iou", "IoU").replace("train_", "training_")
    words = words.replace("_", " ") + ("" if labels is None else ", {labels} labels")
    return Panel(metric, TITLES.get(metric, words).replace("{labels}", str(labels)), labels)
