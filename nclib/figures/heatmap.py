"""How often labels occur alone and in pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import seaborn as sns
from jaxtyping import Int64
from matplotlib.colors import LogNorm
from seaborn.utils import relative_luminance
from torch import Tensor

from nclib.data.compose import MultiLabelData
from nclib.figures.display import Display
from nclib.figures.layout import SHORT, drawable

NUMBERS_UP_TO = 12  # classes; beyond, the cells are too small for their counts
DARK = 0.18  # the luminance at which white and black have the same contrast


@dataclass
class LabelHeatMap(Display):
    """K x K counts: on the diagonal the images with that label alone, elsewhere those with that pair of labels."""

    SEEN = "{study}: how many training images have a label alone (diagonal) and each pair of labels; gaps are 0."
    counts: Int64[Tensor, "k k"]
    class_names: Sequence[str]

    @classmethod
    def from_data(cls, data: MultiLabelData) -> "LabelHeatMap":
        """Count one split of a data set; images with three labels or more are left out."""
        labels = data.labels.long()
        pairs, singles = labels[data.multiplicity == 2], labels[data.multiplicity == 1]
        counts = pairs.T @ pairs
        counts.fill_diagonal_(0)
        return cls(counts + singles.sum(0).diag(), data.class_names)

    def _draw(self) -> None:
        K = len(self.class_names)
        counts, names = self.counts.numpy(), drawable(self.class_names, longest=SHORT)
        (axes,) = self._subplots(1, 1, (4.3, 3.6)).flat
        sns.heatmap(
            pd.DataFrame(counts, index=names, columns=names),
            mask=counts == 0,
            norm=LogNorm(1, max(2, counts.max())),
            cmap="crest",
            annot=K <= NUMBERS_UP_TO,
            fmt="d",
            annot_kws={"fontsize": 6.5},
            linewidths=0.6 if K <= NUMBERS_UP_TO else 0,
            square=True,
            cbar_kws={"label": "images", "shrink": 0.85, "format": "{x:g}"},
            ax=axes,
        )
        cells = axes.collections[0].get_facecolors()[(counts > 0).ravel()]
        for text, color in zip(axes.texts, cells, strict=K <= NUMBERS_UP_TO):
            text.set_color("white" if relative_luminance(color) < DARK else "black")
        axes.set(xlabel="label", ylabel="label", title="images with one label (diagonal) and with two")
        axes.grid(False)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
        axes.tick_params(axis="x", rotation=90 if max(map(len, names)) > 3 else 0)
