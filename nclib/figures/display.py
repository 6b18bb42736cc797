"""What all displays have."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Shaped
from matplotlib.figure import Figure

from nclib.figures.style import RunStyles, style


@dataclass(kw_only=True)
class Display:
    """A figure of some data: `plot` draws it.

    Args:
        styles: of the study's runs; None: chosen for those shown.

    Attributes:
        figure_: the figure drawn on.
        axes_: its axes, in reading order.
    """

    SEEN: ClassVar[str] = ""  # the caption's first sentence, with a place for {study}
    styles: RunStyles | None = None
    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)

    def plot(self) -> "Display":
        """Draw; the result is the display itself."""
        with style():
            self._draw()
        return self

    def _draw(self) -> None:
        """Make the figure, such as with `_subplots`, and draw on it."""
        raise NotImplementedError

    def _subplots(
        self, rows: int, columns: int, size: tuple[float, float], **options: Any
    ) -> Shaped[np.ndarray, "rows columns"]:
        """A figure of this size [inches] with a grid of axes; the options are those of `plt.subplots`."""
        self.figure_, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
        self.axes_ = grid.ravel()
        return grid

    def caption(self, study: str) -> str:
        """What is drawn, of which study, and what to see."""
        return self.SEEN.format(study=study)

    def show(self, study: str) -> "Display":
        """Draw, and show figure and caption in a notebook; the result is the display itself."""
        from IPython.display import Markdown, display

        self.plot()
        display(self.figure_, Markdown(self.caption(study)))
        plt.close(self.figure_)  # or the notebook would show it twice
        return self
