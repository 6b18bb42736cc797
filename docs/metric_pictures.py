"""The page with a section for each metric: the row of docs/metrics.md, its value and a picture on features it looks at.

Three classes in the plane: a simplex ETF is an equilateral triangle there, so what is drawn is what is measured.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from nclib import metrics
from nclib.figures.style import COLORS, NOTE, style

CORNERS = torch.tensor([[0.0, 1.0], [-(3**0.5) / 2, -0.5], [3**0.5 / 2, -0.5]])
EACH, PAIR_SCALE, LOGITS = 12, 0.75, 4.0
PAIRS = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
CLASS_COLORS = torch.tensor(COLORS[:3])
SEEN = {  # what disturbs the collapse: the keys that see it
    "The features of a class are spread": (
        "nc1",
        "nc1_quotient",
        "nc1_cdnv",
        "separation",
        "nuclear_over_frobenius",
        "released_nc1",
    ),
    "Features lie nearer to another class": (
        *("nc4", "ncc_accuracy", "cosine_margin_mean", "soft_iou", "jaccard", "subset_accuracy", "top1", "top5"),
    ),
    "One class mean is longer": ("equinorm_h", "nc2_h_centered", "unc3", "mean_norm", "feature_norm"),
    "One class mean is turned": ("equiangle_h", "gnc2_h", "gnc2_h_mean", "gnc2_h_distance", "unc3_cosine"),
    "One row of the classifier is longer": ("equinorm_w",),
    "One row of the classifier is turned": (
        *("nc2_w_centered", "equiangle_w", "gnc2_w", "gnc2_w_mean", "gnc2_w_distance", "margin_one_vs_rest"),
    ),
    "The classifier is turned as a whole": ("nc3", "nc3_centered", "nc3_cosine", "nc3_distance"),
    "All features are shifted": ("nc2_h", "bias_residual", "released_nc3"),
    "The classifier is shifted": ("nc2_w",),
    "The class means lie on a line": ("class_mean_rank",),
    "Pairs do not lie along the sum of their labels' means": (
        *("tag_wise_angle_mean_m", "tag_wise_angle_max_m", "tag_wise_ratio_m", "tag_wise_residual_m"),
    ),
    "Pairs are shorter": ("tag_wise_scale_m",),
}


def turned(points: torch.Tensor, degrees: float) -> torch.Tensor:
    """The points turned about the origin."""
    angle = torch.tensor(degrees).deg2rad()
    return points @ torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])


def features_of(what: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, multi-hot labels and classifier; at exact collapse where nothing that disturbs is asked for."""
    noise = torch.randn(6 * EACH, 2, generator=torch.Generator().manual_seed(0))
    means, weight = CORNERS.clone(), LOGITS * CORNERS
    one = torch.tensor([[1.0], [0.0], [0.0]])
    if what == "One class mean is longer":
        means += 0.8 * one * means
    elif what == "One class mean is turned":
        means = torch.cat([turned(means[:1], 50), means[1:]])
    elif what == "The class means lie on a line":
        means = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    elif what == "One row of the classifier is longer":
        weight += 0.8 * one * weight
    elif what == "One row of the classifier is turned":
        weight = torch.cat([turned(weight[:1], 50), weight[1:]])
    elif what == "The classifier is turned as a whole":
        weight = turned(weight, 40)
    elif what == "The classifier is shifted":
        weight = weight + LOGITS * torch.tensor([0.6, 0.3])
    pairs = PAIR_SCALE * PAIRS @ means
    if what == "Pairs are shorter":
        pairs = pairs / 2
    elif what.startswith("Pairs do not"):
        pairs = turned(pairs, 35) + torch.tensor([0.15, 0.0])
    features = torch.cat([means, pairs]).repeat_interleave(EACH, dim=0)
    features = features + noise * {
        "The features of a class are spread": 0.15,
        "Features lie nearer to another class": 0.55,
    }.get(what, 0)
    if what == "All features are shifted":
        features = features + torch.tensor([0.6, 0.3])
    return features, torch.cat([torch.eye(3, dtype=torch.long), PAIRS]).repeat_interleave(EACH, dim=0), weight


def draw(axes, features, labels, weight, title) -> None:
    """Features (small), class means (discs) and classifier rows (lines)."""
    colors = labels.float() @ CLASS_COLORS / labels.sum(1, keepdim=True)
    single = labels.sum(1) == 1
    for chosen, marker in ((single, "o"), (~single, "D")):
        axes.scatter(*features[chosen].T, s=9, c=colors[chosen].numpy(), marker=marker, linewidths=0, alpha=0.7)
    for k in range(3):
        axes.plot(*torch.stack([torch.zeros(2), weight[k] / LOGITS]).T, color="0.25", linewidth=1.1)
        mean = features[single & (labels[:, k] == 1)].mean(0)
        axes.scatter(*mean, s=46, color=COLORS[k], edgecolors="white", linewidths=0.9, zorder=5)
    axes.plot(0, 0, marker="+", color="0.3", markersize=6)
    axes.set(xlim=(-2.1, 2.1), ylim=(-1.6, 2.0), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, loc="center")
    axes.grid(False)


def rows(page: str) -> dict[str, tuple[str, str, str]]:
    """Key -> equation, value at collapse and source, from the table of docs/metrics.md."""
    table = re.findall(r"(?m)^\| (`[^|]+) \| ([^|]+) \| ([^|]*)\| ([^|]*)\|$", page.split("\n## Keys\n")[1])
    return {key: tuple(map(str.strip, rest)) for keys, *rest in table for key in re.findall(r"`(\w+)`", keys)}


def measured(what: str) -> dict[str, float]:
    """Every metric, with `_m` in the names of those of pairs."""
    features, labels, weight = features_of(what)
    return {re.sub(r"_2$", "_m", name): value for name, value in metrics.measure(features, labels, weight).items()}


def function_of(key: str) -> str:
    """The function that computes a key."""
    names = {
        "top1": "top_k_accuracy",
        "top5": "top_k_accuracy",
        "tag_wise_angle_mean_m": "tag_wise_angles",
        "tag_wise_angle_max_m": "tag_wise_angles",
    }
    return names.get(key, key.removesuffix("_m"))


def make(docs: Path, folder: Path) -> None:
    """Write the page and its pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    collapsed, table = measured(""), rows((docs / "metrics.md").read_text())
    parts = [
        "# Metrics, one by one",
        "Left exact collapse, right what the metric sees, with its value above each. Dots are features of three "
        "classes, diamonds those of their pairs, discs class means, lines the rows of the classifier (at a quarter of "
        "their length). "
        "[Symbols and choices](../metrics.md#keys).",
    ]
    for what, keys in SEEN.items():
        values = measured(what)
        parts.append(f"## {what}")
        for key in keys:
            equation, at_collapse, source = (
                cell.replace("](#", "](../metrics.md#").replace("](theory", "](../theory") for cell in table[key]
            )
            with style():
                figure, pair = plt.subplots(1, 2, figsize=(5.0, 2.2), layout="constrained")
                for axes, shown, found in zip(pair, ("", what), (collapsed, values), strict=True):
                    draw(axes, *features_of(shown), f"{found[key]:.3g}" if abs(found[key]) > 1e-5 else "0")
                pair[0].set_xlabel("exact collapse", **NOTE)
                pair[1].set_xlabel(what, **NOTE)
                figure.savefig(folder / f"{key}.svg")
                plt.close(figure)
            parts += [
                f"### `{key}`",
                equation,
                f"**At collapse:** {at_collapse}. **Source:** {source or 'common'}. "
                f"**Code:** {{py:func}}`nclib.metrics.{function_of(key)}`.",
                f"![{key}: {what}]({folder.name}/{key}.svg)",
            ]
    (folder.parent / "metrics_one_by_one.md").write_text("\n\n".join(parts) + "\n")
