"""What all displays have."""

from dataclasses import dataclass, field
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from nclib.figures.style import RunStyles


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
        raise NotImplementedError

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
