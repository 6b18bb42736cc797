"""Logarithmic axes on which zero can be seen, with labeled ticks on short ranges, too."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

ROUNDING = 1e-10  # metrics are float64: those that vanish for an exact ETF come out at about 4e-16
NO_VALUES = (1e-4, 1.0)  # range of an axis on which everything is zero
MOST_TICKS = 6


@dataclass(frozen=True)
class LogRange:
    """Range of a logarithmic axis.

    Values up to `ROUNDING` do not stretch it: they are drawn at `zero`, near its lower edge, where the tick says 0.

    Attributes:
        bottom, top: limits of the axis.
        low: the smallest value that is drawn in its true place.
        zero: where zeros are drawn; None if there are none.
    """

    bottom: float
    top: float
    low: float
    zero: float | None = None

    @classmethod
    def from_values(cls, values: Float[np.ndarray, " n"]) -> "LogRange":
        """The range for all that a panel shows."""
        values = values[np.isfinite(values)]
        above = values[values > ROUNDING]
        low, high = (above.min(), above.max()) if above.size else NO_VALUES
        decades = np.log10(high / low)
        margin, gap = 10 ** (0.04 * decades or 0.05), 10 ** max(0.15 * decades, 0.1)
        if above.size == values.size:
            return cls(low / margin, high * margin, low)
        return cls(low / gap / margin, high * margin, low, low / gap)

    def shown(self, values: pd.Series) -> pd.Series:
        """The values with zeros moved to where they are drawn."""
        return values if self.zero is None else values.where(values > ROUNDING, self.zero)

    def apply(self, ax: Axes) -> None:
        """Give the y-axis of `ax` this range and its ticks."""
        ax.set_yscale("log")
        ax.set_ylim(self.bottom, self.top)
        low = self.bottom if self.zero is None else self.low
        ticks = log_ticks(low, self.top)
        labels = [_label(tick) for tick in ticks]
        if self.zero is not None:
            ticks, labels = [self.zero, *ticks], ["0", *labels]
        ax.set_yticks(ticks, labels)
        ax.set_yticks(_multiples(low, self.top, range(2, 10)), minor=True)
        ax.yaxis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """At least three round numbers in a range: powers of ten if there are enough of them.

    >>> log_ticks(0.002, 50.0), log_ticks(0.08, 4.0), log_ticks(0.3, 0.9)
    ([0.01, 0.1, 1.0, 10.0], [0.1, 0.3, 1.0, 3.0], [0.4, 0.6, 0.8])
    """
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = _multiples(low, high, steps)
        if len(ticks) > 2:
            return ticks[:: -(-len(ticks) // MOST_TICKS)]
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(f"{tick:.6g}") for tick in ticks if low < tick < high]


def _multiples(low: float, high: float, steps: range | tuple[int, ...]) -> list[float]:
    """The powers of ten in a range, times each of `steps`."""
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [tick for e in exponents for step in steps if low <= (tick := float(f"{step}e{e}")) <= high]


def _label(tick: float) -> str:
    if 1e-3 <= tick < 1e4:
        return f"{tick:g}"
    mantissa, exponent = f"{tick:.3e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if float(mantissa) == 1 else rf"${float(mantissa):g}\times{power}$"
