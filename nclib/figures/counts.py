"""What label counts do to the minimum: minority collapse, missing pairs, and two losses on the same counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from nclib.figures.display import Display
from nclib.figures.predicted import scale_counts
from nclib.figures.style import COLORS, MARKERS, REFERENCE, TEXT_WIDTH, RunStyles
from nclib.theory import CertifiedMinimum


@dataclass
class CountGeometry(Display):
    """Three panels of certified minima (`nclib.theory.certified_minimum`).

    Args:
        collapse: minima of single labels with cross-entropy, by λ_W λ_H and samples of each rare class; the last two
            classes are rare, the first is not.
        missing: minima for some of all pairs, by the number of pairs that occur and the draw.
        losses: minima of the same label sets and counts, by name of the loss.
    """

    SEEN = (
        "{study}. Left: angle between the classifier rows of two rare classes against the imbalance ratio; dotted: "
        "where they coincide, n = 4 λ_W λ_H N². Middle: how far pairs are off their tag-wise average (relative "
        "residual) where some do not occur. Right: scale of each pair's tag-wise average for two losses, same counts."
    )
    collapse: Mapping[tuple[float, int], CertifiedMinimum]
    missing: Mapping[tuple[int, int], CertifiedMinimum]
    losses: Mapping[str, CertifiedMinimum]

    @property
    def gap(self) -> float:
        """The largest relative gap of all minima that are shown."""
        shown = (*self.collapse.values(), *self.missing.values(), *self.losses.values())
        return max(minimum.gap for minimum in shown)

    def caption(self, study: str) -> str:
        """What is drawn, and how exact it is."""
        return f"{super().caption(study)} All are proved to a relative gap of {self.gap:.0e}."

    def _draw(self) -> None:
        collapse, missing, losses = self._subplots(1, 3, (TEXT_WIDTH, 2.4)).flat
        self._draw_collapse(collapse)
        self._draw_missing(missing)
        self._draw_losses(losses)

    def _draw_collapse(self, axes: Axes) -> None:
        products = sorted({product for product, _ in self.collapse})
        styles = RunStyles.from_order([f"{1e6 * product:.2g}" for product in products])
        for product, (name, color) in zip(products, styles.colors.items(), strict=True):
            minima = {n: minimum for (known, n), minimum in self.collapse.items() if known == product}
            counts = minima[min(minima)].counts
            ratios = [counts[0].item() / n for n in minima]
            angles = [minimum.angles_of_classifier()[-1, -2] for minimum in minima.values()]
            axes.plot(ratios, angles, color=color, marker=".", label=name)
            rare = (counts == counts[-1]).sum().item()
            axes.axvline(
                counts[0] / threshold(product, rare, (len(counts) - rare) * counts[0].item()),
                **REFERENCE,
                color="0.2",
                zorder=3,
            )
        axes.set(xscale="log", xlabel="imbalance ratio", title="angle of rare classes [°]", xlim=(1, max(ratios)))
        axes.legend(title="$10^6 \\lambda_W \\lambda_H$", loc="lower left", handlelength=0.8, fontsize=6.5)

    def _draw_missing(self, axes: Axes) -> None:
        present = [pairs for pairs, _ in self.missing]
        of_pairs = [minimum.tag_wise()[1][minimum.label_sets.sum(1) == 2] for minimum in self.missing.values()]
        for place, (name, value) in enumerate({"largest": np.max, "mean": np.mean}.items()):
            axes.plot(
                present, [value(r.numpy()) for r in of_pairs], MARKERS[place], color=COLORS[place], label=name, ms=3
            )
        axes.set(xlabel=f"pairs that occur, of {max(present)}", title="off the tag-wise average")
        axes.legend()

    def _draw_losses(self, axes: Axes) -> None:
        for place, (name, minimum) in enumerate(self.losses.items()):
            pairs, (scales, _) = minimum.label_sets.sum(1) == 2, minimum.tag_wise()
            points = minimum.counts[pairs], scales[pairs]
            axes.plot(*points, MARKERS[place], color=COLORS[place], label=name, ms=3, alpha=0.7)
        scale_counts(axes, minimum.counts[pairs])
        axes.set(xlabel="samples of the pair", title="tag-wise scale $C_S$")
        axes.legend()


def threshold(product: float, rare: int, others: int) -> float:
    """The n with `n = 4 λ_W λ_H N²`, where N is `rare` classes of n samples and all the others.

    >>> n = threshold(1e-7, 5, 5000)
    >>> round(n / (4e-7 * (5 * n + 5000) ** 2), 12)
    1.0
    """
    a = 4 * product
    return float(min(np.roots([a * rare**2, 2 * a * rare * others - 1, a * others**2]).real))
