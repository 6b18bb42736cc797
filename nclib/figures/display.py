"""What all displays have."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure


@dataclass
class Display:
    """A figure of some data: `plot` draws it.

    Attributes:
        figure_: the figure drawn on.
        axes_: its axes, in reading order.
    """

    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)
