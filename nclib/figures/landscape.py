"""Paper 2's loss landscape: cross-entropy and squared error against length and angle of a feature."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.colors import LogNorm

from nclib import losses
from nclib.figures.display import Display
from nclib.figures.layout import add_legend
from nclib.figures.style import TEXT_WIDTH, RunStyles
from nclib.heads import simplex_etf
from nclib.theory import fixed_head_minimum

LOSSES = {"CE": "cross_entropy", "MSE": "mse"}
LENGTHS, ANGLES = np.linspace(0, 3, 121), np.linspace(0, 180, 121)  # in units of the optimal length; degrees
LEVELS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


@dataclass
class LossLandscape(Display):
    """What one sample loses by length and angle of its feature h, where the classifier is fixed to a simplex ETF.

    The feature turns from its own class's row of the classifier towards that of another class. Lengths are in units of
    the optimal one that the theory predicts, and values are `(f(h) - f*)/(f(0) - f*)` with `f(h) = loss + λ|h|²`: 0 at
    the predicted minimum, 1 without a feature.

    Source: paper 2, figure of the landscapes of different losses.

    Args:
        excess: loss -> values at `ANGLES` (rows) and `LENGTHS`.
        optimal: loss -> the optimal length.
    """

    excess: Mapping[str, Float[np.ndarray, "a s"]]
    optimal: Mapping[str, float]

    @classmethod
    def from_theory(cls, num_classes: int, *, feature_decay: float) -> "LossLandscape":
        """Both losses for `num_classes` >= 3 and the decay λ of a sample's feature; the bias is the optimal one."""
        rows = simplex_etf(num_classes, num_classes - 1).double()
        side = rows[1] - (rows[1] @ rows[0]) * rows[0]
        angle = torch.from_numpy(np.radians(ANGLES))[:, None, None]
        directions = angle.cos() * rows[0] + angle.sin() * side / side.norm()
        excess, optimal = {}, {}
        for name, loss in LOSSES.items():
            # one sample per class, whose decays the theory adds up beside the mean of their losses
            minimum = fixed_head_minimum(num_classes, {1: 1}, feature_decay=feature_decay / num_classes, loss=loss)
            optimal[name] = minimum.feature_norms[1]
            features = torch.from_numpy(LENGTHS)[:, None] * optimal[name] * directions
            logits = features @ rows.T + minimum.bias
            value = getattr(losses, loss)(logits.flatten(0, 1))[:, 0].view(logits.shape[:2])
            value = value + feature_decay * features.square().sum(-1) - minimum.value
            excess[name] = (value / value[0, 0]).numpy()
        return cls(excess, optimal)

    def _draw(self) -> None:
        styles = RunStyles.from_runs(list(self.excess))
        at = np.abs(LENGTHS - 1).argmin()
        *maps, at_zero, at_optimum = self._subplots(1, 4, (TEXT_WIDTH, 2.1)).flat
        for axes, (name, values) in zip(maps, self.excess.items(), strict=True):
            grid = LENGTHS[1:], ANGLES, values[:, 1:]  # at length 0 all values are 1, a level
            shades = LogNorm(LEVELS[0], 30 * LEVELS[-1])  # none so dark that its line cannot be read
            axes.contourf(*grid, LEVELS, cmap="YlGnBu", norm=shades, extend="both")
            axes.clabel(axes.contour(*grid, LEVELS, colors="0.2", linewidths=0.5), fmt="%g", fontsize=6)
            axes.plot(1, 0, marker="*", color="white", markeredgecolor="black", markersize=9, clip_on=False)
            axes.set(title=f"{name}, optimal length {self.optimal[name]:.2f}", xlabel="length / optimal length")
            axes.set(xlim=(0, LENGTHS[-1]), yticks=(0, 60, 120, 180))
        maps[0].set_ylabel("angle [degrees]")
        for name, values in self.excess.items():
            at_zero.plot(LENGTHS, values[0], **styles.look(name), markevery=20)
            at_optimum.plot(ANGLES, values[:, at], **styles.look(name), markevery=20)
        at_zero.set(title="at angle 0", xlabel="length / optimal length", xlim=(0, LENGTHS[-1]), ylim=(0, 2))
        at_optimum.set(title="at the optimal length", xlabel="angle [degrees]", xticks=(0, 60, 120, 180))
        add_legend(self.figure_, {name: styles.line(name) for name in self.excess})
