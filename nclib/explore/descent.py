"""A widget for the theory notebook: choose classes, decays and counts, see the predicted global minimum."""

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure

from nclib.figures.descent import draw_prediction
from nclib.figures.style import TEXT_WIDTH, style
from nclib.theory import Problem, global_minimum, minimize

LOSSES = {"cross-entropy": "cross_entropy", "squared error": "mse"}
MOST_SAMPLES = 2000  # of a descent that should end within seconds
DECAYS = np.logspace(-6, 0, 49).tolist()
LOOK = {"style": {"description_width": "105px"}, "layout": {"width": "330px"}}


class TheoryExplorer:
    """Controls over the settings of an unconstrained-feature problem, and a picture of its global minimum.

    An error is shown in `error`, since an exception in a widget's callback would otherwise be seen nowhere. "check"
    minimizes the full problem from a random start and reports how far from the prediction it ends.

    Args:
        num_classes: K at the start.
        counts: samples of each label set with one, two and three labels; 0 leaves a multiplicity out.
        weight_decay: λ_W at the start.
        feature_decay: λ_H at the start.
    """

    def __init__(
        self, *, num_classes: int, counts: tuple[int, int, int], weight_decay: float, feature_decay: float
    ) -> None:
        self.num_classes = widgets.IntSlider(num_classes, min=2, max=20, description="classes K", **LOOK)
        names = zip(counts, ("one label", "two labels", "three labels"), strict=True)
        self.counts = [widgets.IntSlider(n, min=0, max=50, description=name, **LOOK) for n, name in names]
        self.weight_decay, self.feature_decay = (
            # a slider of numbers would round the given one to its nearest step
            widgets.SelectionSlider(options=[(f"{x:.3g}", x) for x in sorted({value, *DECAYS})], value=value, **LOOK)
            for value in (weight_decay, feature_decay)
        )
        self.weight_decay.description, self.feature_decay.description = "weight decay", "feature decay"
        self.loss = widgets.Dropdown(options=LOSSES, description="loss", **LOOK)
        self.label_mean = widgets.Checkbox(description="mean over labels", indent=False)
        self.check = widgets.Button(description="check by a descent", tooltip="Minimize from a random start")
        self.status, self.error = widgets.HTML(), widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(width="100%", max_width="880px"))
        self._figure = Figure(figsize=(TEXT_WIDTH + 1, 3.0), layout="constrained", dpi=130)
        left = widgets.VBox([self.num_classes, self.weight_decay, self.feature_decay, self.loss])
        right = widgets.VBox([*self.counts, widgets.HBox([self.label_mean, self.check])])
        for control in (*left.children, *self.counts, self.label_mean):
            control.observe(lambda _: self._update(self._redraw), "value")
        self.check.on_click(lambda _: self._update(self._check))
        self.ui = widgets.VBox([widgets.HBox([left, right]), self.status, self.image, self.error])
        self._update(self._redraw)

    def settings(self) -> dict[str, Any]:
        """The controls as keyword arguments of `global_minimum`."""
        K = self.num_classes.value
        return {
            "num_classes": K,
            "counts": {m: slider.value for m, slider in enumerate(self.counts, start=1) if slider.value and m < K},
            "weight_decay": self.weight_decay.value,
            "feature_decay": self.feature_decay.value,
            "label_mean": self.label_mean.value,
            "loss": self.loss.value,
        }

    def _update(self, act: Callable[[], None]) -> None:
        """Do what a control asks for; an exception is shown instead of lost."""
        self.error.value = ""
        try:
            act()
        except Exception as error:
            self.error.value = f"<pre>{html.escape(f'{type(error).__name__}: {error}')}</pre>"
            self.status.value = ""

    def _redraw(self) -> None:
        for m, slider in enumerate(self.counts, start=1):
            slider.disabled = m >= self.num_classes.value  # a set of all classes says nothing
        settings, file = self.settings(), io.BytesIO()
        minimum = global_minimum(**settings)
        path = {decay: global_minimum(**{**settings, "feature_decay": decay}) for decay in DECAYS[::2]}
        with style():
            self._figure.clear()
            axes = self._figure.subplots(1, 2, width_ratios=(1, 1.2))
            draw_prediction(list(axes), minimum, path, settings["feature_decay"])
            self._figure.savefig(file, format="png")
        self.image.value = file.getvalue()
        scales = ", ".join(f"C<sub>{m}</sub> = {scale:.4f}" for m, scale in minimum.scales.items() if m > 1)
        what = "the optimum is zero" if minimum.is_zero else scales or "single labels"
        self.status.value = f"global minimum {minimum.value:.10f} (loss {minimum.data_loss:.6f}): {what}"

    def _check(self) -> None:
        settings = self.settings()
        samples = Problem(**settings).num_samples
        if samples > MOST_SAMPLES:
            raise ValueError(f"Expected at most {MOST_SAMPLES} samples, but got {samples}: lower a count.")
        self.status.value = f"descending over {samples} free features ..."
        result = minimize(**settings, generator=torch.Generator().manual_seed(0))
        self.status.value = (
            f"global minimum {result.minimum.value:.10f}; a random start ended at {result.value:.10f} after "
            f"{result.iterations[-1]} iterations, a relative gap of {result.gap:.0e}"
        )

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The live view where there is a kernel, the picture everywhere else."""
        picture = base64.b64encode(self.image.value).decode()
        return {**self.ui._repr_mimebundle_(**options), "image/png": picture}
