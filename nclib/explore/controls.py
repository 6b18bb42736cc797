"""The explorer's widgets and their layout, and nothing of what they do."""

import html
from collections.abc import Sequence

import ipywidgets as widgets

from nclib.explore.canvas import WIDTH
from nclib.explore.pairs import PairsView, cells_box

CLICKABLE_CLASSES = 20  # more make the cells of a map too small to click
STYLE = f"""<style>
.nc-explorer {{ max-width: {WIDTH}px; }}
.nc-explorer .widget-html-content {{ line-height: 1.5; }}
.nc-explorer .widget-checkbox input {{ align-self: center; margin-top: 0; }}
.nc-bar {{ column-gap: 14px; row-gap: 4px; flex-wrap: wrap; align-items: center; }}
.nc-head {{ border-top: 1px solid #d0d0d0; margin-top: 6px; padding-top: 5px; column-gap: 14px; flex-wrap: wrap;
  align-items: center; }}
.nc-head .nc-switch {{ width: auto; padding: 0 10px 0 6px; background: none; border: 0; box-shadow: none;
  text-align: left; font-weight: 600; font-size: 14px; }}
.nc-picture {{ width: 100%; height: auto; margin: 0; }}
.nc-caption .widget-html-content {{ color: var(--jp-ui-font-color2, #616161); font-size: 12px; }}
.nc-message .widget-html-content > div {{ border-left: 3px solid #d55e00; padding: 2px 10px; margin: 4px 0; }}
.nc-pairs {{ flex-wrap: wrap; column-gap: 18px; align-items: flex-start; }}
.nc-layers {{ position: relative; overflow: visible; }}
.nc-overlay {{ position: absolute; left: 0; top: 0; width: 100%; height: 100%; margin: 0; pointer-events: none; }}
.nc-overlay .widget-html-content {{ position: absolute; inset: 0; }}
.nc-overlay svg {{ display: block; width: 100%; height: 100%; }}
.nc-overlay svg svg {{ display: inline; }}
.nc-stack {{ overflow: visible; flex: 0 1 {PairsView.width}px; min-width: 480px; }}
.nc-card {{ flex: 1 1 330px; min-width: 300px; }}
.nc-cells {{ position: absolute; margin: 0; overflow: visible; }}
.nc-cells > .widget-label {{ display: none; }}
.nc-cells > div {{ display: grid; width: 100%; height: 100%; }}
.nc-cells button.widget-toggle-button {{ width: auto; min-width: 0; height: auto; margin: 0; padding: 0; border: 0;
  background: white; color: transparent; font-size: 0; box-shadow: none; opacity: 0; cursor: pointer; }}
.nc-cells button.widget-toggle-button:hover {{ opacity: 0.35; }}
.nc-cells button.widget-toggle-button:focus-visible {{ opacity: 0.5; }}
.nc-samples {{ width: auto; max-width: 100%; height: auto; image-rendering: pixelated; margin: 0; }}
table.nc-numbers {{ border-collapse: collapse; font-size: 12px; margin: 0 0 4px 0; }}
table.nc-numbers th, table.nc-numbers td {{ text-align: right; padding: 1px 0 1px 14px; white-space: nowrap; }}
table.nc-numbers th:first-child, table.nc-numbers td:first-child {{
  text-align: left; padding-left: 0; white-space: normal; }}
table.nc-numbers thead th {{ border-bottom: 1px solid #b0b0b0; font-weight: 600; }}
</style>"""


def _dropdown(description: str, width: int, css: str) -> widgets.Dropdown:
    """A list to choose from, as wide as its text needs; `css` is the hook for styles and tests."""
    box = widgets.Dropdown(
        description=description,
        style={"description_width": "initial"},
        layout=widgets.Layout(width=f"{width}px", margin="0"),
    )
    box.add_class(css)
    return box


def _checkbox(description: str, css: str, *, value: bool) -> widgets.Checkbox:
    layout = widgets.Layout(width="auto", margin="0")
    box = widgets.Checkbox(value=value, description=description, indent=False, layout=layout)
    box.add_class(css)
    return box


def _html(css: str) -> widgets.HTML:
    box = widgets.HTML(layout=widgets.Layout(margin="0"))
    box.add_class(css)
    return box


def _box(kind: type[widgets.Box], children: Sequence[widgets.Widget], css: str) -> widgets.Box:
    box = kind(children, layout=widgets.Layout(overflow="visible"))
    box.add_class(css)
    return box


class Controls:
    """All widgets of the explorer.

    Args:
        views: name and heading of each view, from top to bottom.
    """

    def __init__(self, views: Sequence[tuple[str, str]]) -> None:
        self.study = _dropdown("study", 230, "nc-study")
        self.first, self.first_seed = _dropdown("run", 220, "nc-run"), _dropdown("seed", 95, "nc-seed")
        self.second, self.second_seed = _dropdown("beside", 235, "nc-beside"), _dropdown("seed", 95, "nc-beside-seed")
        self.reload = widgets.Button(
            icon="refresh", tooltip="Read the outputs again", layout=widgets.Layout(width="38px", margin="0")
        )
        self.play = widgets.Play(interval=400, show_repeat=True, layout=widgets.Layout(margin="0"))
        self.epoch = widgets.SelectionSlider(
            options=[0],
            description="epoch",
            style={"description_width": "initial"},
            layout=widgets.Layout(flex="1 1 300px", margin="0"),
        )
        self.epoch.add_class("nc-epoch")
        self.metric = _dropdown("last panel", 240, "nc-metric")
        self.log_values = _checkbox("log values", "nc-log-values", value=True)
        self.log_epochs = _checkbox("log epochs", "nc-log-epochs", value=False)
        self.plane = _dropdown("plane", 270, "nc-plane")
        self.corners = [_dropdown("", 76, f"nc-corner-{place}") for place in range(3)]
        self.labels = _dropdown("labels", 190, "nc-labels")
        self.cells = [self._make_cells(place) for place in range(2)]
        self.numbers, self.samples_caption = _html("nc-card-numbers"), _html("nc-caption")
        self.samples = widgets.Image(format="png", layout=widgets.Layout(height="auto"))
        self.samples.add_class("nc-samples")
        self.message, self.status, self._css = _html("nc-message"), _html("nc-status"), widgets.HTML(STYLE)
        self.switches = {name: self._make_switch(name, title) for name, title in views}
        self.pictures = {name: widgets.Image(format="png") for name, _ in views}
        self.overlays = {name: _html("nc-overlay") for name, _ in views}
        self.captions = {name: _html("nc-caption") for name, _ in views}
        self._sections = {}
        self._lay_out()

    def say(self, *sentences: str) -> None:
        """Show sentences above the views, each in a paragraph; none clears them."""
        text = "".join(f"<div role='status'>{html.escape(sentence)}</div>" for sentence in sentences)
        if self.message.value != text:
            self.message.value = text

    def tell(self, **facts: object) -> None:
        """Note what is shown, for tests and screen readers; written last, so that it means that all is drawn."""
        data = " ".join(f"data-{key}='{html.escape(str(value))}'" for key, value in facts.items())
        self.status.value = f"<span {data}></span>"

    def set_epochs(self, epochs: Sequence[int], epoch: int) -> None:
        """Offer these epochs on slider and play button, and go to one of them."""
        if list(self.epoch.options) != list(epochs):
            self.epoch.options = epochs
            self.play.max = len(epochs) - 1
        self.epoch.value = epoch
        self.play.value = self.epoch.index

    def set_maps(self, class_names: Sequence[Sequence[str]]) -> None:
        """Lay buttons over the cells of each map; runs without a map have no names."""
        names = [*class_names, ()][:2] if len(class_names) < 2 else class_names
        rules = []
        for place, (cells, own) in enumerate(zip(self.cells, names, strict=True)):
            K = len(own) if len(own) <= CLICKABLE_CLASSES else 0
            options = [(f"{own[i]} & {own[j]}" if i != j else str(own[i]), (i, j)) for i in range(K) for j in range(K)]
            if [label for label, _ in cells.options] != [label for label, _ in options]:
                cells.tooltips = [label for label, _ in options]
                cells.options, cells.value = options, None
            cells.layout.display = "" if K else "none"
            rules.append(f".nc-cells-{place} > div {{ grid-template: repeat({K or 1}, 1fr) / repeat({K or 1}, 1fr); }}")
        style = STYLE.replace("</style>", "\n".join(rules) + "</style>")
        if self._css.value != style:
            self._css.value = style

    def set_title(self, view: str, title: str) -> None:
        self.switches[view].description = title

    def show(self, view: str) -> None:
        """Show or hide a view's picture as its switch says."""
        on = self.switches[view].value
        self.switches[view].icon = "chevron-down" if on else "chevron-right"
        self._sections[view].layout.display = "" if on else "none"

    def show_samples(self, png: bytes, caption: str) -> None:
        self.samples.value, self.samples_caption.value = png, html.escape(caption)
        self.samples.layout.display = "" if png else "none"

    @staticmethod
    def _make_switch(name: str, title: str) -> widgets.ToggleButton:
        switch = widgets.ToggleButton(True, description=title, icon="chevron-down", tooltip="Show or hide")
        switch.add_class("nc-switch").add_class(f"nc-switch-{name}")
        return switch

    @staticmethod
    def _make_cells(place: int) -> widgets.ToggleButtons:
        left, top, width, height = (f"{100 * share:.3f}%" for share in cells_box(place))
        cells = widgets.ToggleButtons(options=[], layout=widgets.Layout(left=left, top=top, width=width, height=height))
        return cells.add_class("nc-cells").add_class(f"nc-cells-{place}")

    def _lay_out(self) -> None:
        own = {
            "metrics": [self.log_values, self.log_epochs, self.metric],
            "features": [self.plane, *self.corners],
            "pairs": [self.labels],
        }
        rows = []
        for name, picture in self.pictures.items():
            picture.add_class("nc-picture").add_class(f"nc-picture-{name}")
            layers = [picture, self.overlays[name]]
            shown = [_box(widgets.Box, layers, "nc-layers"), self.captions[name]]
            if name == "pairs":
                maps = _box(
                    widgets.VBox,
                    [_box(widgets.Box, [*layers, *self.cells], "nc-layers"), self.captions[name]],
                    "nc-stack",
                )
                card = _box(widgets.VBox, [self.numbers, self.samples_caption, self.samples], "nc-card")
                shown = [_box(widgets.HBox, [maps, card], "nc-pairs")]
            self._sections[name] = _box(widgets.VBox, shown, f"nc-section-{name}")
            rows += [_box(widgets.HBox, [self.switches[name], *own.get(name, ())], "nc-head"), self._sections[name]]
        chosen = [self.study, self.first, self.first_seed, self.second, self.second_seed, self.reload]
        bars = [_box(widgets.HBox, chosen, "nc-bar"), _box(widgets.HBox, [self.play, self.epoch], "nc-bar")]
        self.body = widgets.VBox([bars[1], *rows], layout=widgets.Layout(overflow="visible", margin="6px 0 0 0"))
        self.ui = _box(widgets.VBox, [self._css, bars[0], self.message, self.body, self.status], "nc-explorer")
