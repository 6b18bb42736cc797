"""The moving artists of a view as SVG, to be laid over its still picture in the browser.

A step of the slider then sends some ten kilobytes of drawing in place of pictures of a million pixels, which the kernel
would have to compress and the browser to unpack: as PNG, all four views took 60 to 110 ms from the key press on a busy
machine, most of it outside Python. matplotlib's own SVG backend writes one element a marker, too many to parse in time.
"""

from base64 import b64encode
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.path import Path
from matplotlib.transforms import Transform

from nclib.explore.png import encode

LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
DRAWN_CELLS = 24  # larger maps are small pictures, which browsers show a moment later
POINTS_AFTER = {Path.CURVE3: 1, Path.CURVE4: 2}  # a curve's code stands at each of its points
Number = int | float


class OverlayRenderer(RendererBase):
    """Writes what artists draw as SVG elements; `svg` is all of them so far.

    Args:
        width, height: of the figure in pixels.
        dpi: of the figure.
    """

    def __init__(self, width: Number, height: Number, dpi: Number) -> None:
        super().__init__()
        self.width, self.height, self.dpi = width, height, dpi
        self._parts: list[str] = []

    @property
    def svg(self) -> str:
        box = f"viewBox='0 0 {self.width:g} {self.height:g}'"
        return f"<svg xmlns='http://www.w3.org/2000/svg' {box} aria-hidden='true'>{''.join(self._parts)}</svg>"

    def points_to_pixels(self, points: Any) -> Any:
        return points * self.dpi / 72

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self.width, self.height

    def draw_path(self, gc: GraphicsContextBase, path: Path, transform: Transform, rgbFace: Any = None) -> None:
        shape = _shape(self._down(transform.transform(path.vertices)), path.codes)
        self._add(gc, f"<path d='{shape}' {_fill(gc, rgbFace)} {self._stroke(gc)}/>")

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        rgbFace: Any = None,
    ) -> None:
        places = self._down(trans.transform(path.vertices))
        places = places[np.isfinite(places).all(1)]
        corners = marker_trans.transform(marker_path.vertices) * [1, -1]
        if marker_path.codes is not None and Path.CURVE4 in marker_path.codes:
            self._add(gc, self._dots(gc, float(np.ptp(corners[:, 0])), places, rgbFace))
            return
        outlines = ("M" + "L".join(["%.1f %.1f"] * len(corners)) + "Z") * len(places)
        shape = outlines % tuple((corners + places[:, None]).ravel().tolist())
        self._add(gc, f"<path d='{shape}' {_fill(gc, rgbFace)} {self._stroke(gc)}/>")

    def draw_cells(
        self, colors: UInt8[np.ndarray, "k k 4"], left: Number, top: Number, width: Number, height: Number
    ) -> None:
        """A K x K map; cells of one color are one element, without smoothing, which would leave seams."""
        K = len(colors)
        if K > DRAWN_CELLS:
            place = f"x='{left:g}' y='{top:g}' width='{width:g}' height='{height:g}' preserveAspectRatio='none'"
            source = f"data:image/png;base64,{b64encode(encode(colors)).decode()}"
            self._parts.append(f"<image {place} style='image-rendering:pixelated' href='{source}'/>")
            return
        shades = (colors[..., :3].astype(np.int64) @ np.array([65536, 256, 1])).ravel()
        drawn: dict[int, list[str]] = {}
        for shade, box in zip(shades.tolist(), _boxes(K, left, top, width / K, height / K), strict=True):
            drawn.setdefault(shade, []).append(box)
        self._parts += [
            f"<path d='{''.join(boxes)}' fill='#{shade:06x}' shape-rendering='crispEdges'/>"
            for shade, boxes in drawn.items()
        ]

    def _dots(self, gc: GraphicsContextBase, size: float, places: Float[np.ndarray, "n 2"], face: Any) -> str:
        """Discs as the round ends of lines without length: a few characters each."""
        shape = "M%.1f %.1fh0" * len(places) % tuple(places.ravel().tolist())
        edge = self.points_to_pixels(gc.get_linewidth())
        rings = [(gc.get_rgb(), size + edge), (face, size - edge)] if edge else [(face, size)]
        return "".join(
            f"<path d='{shape}' fill='none' stroke-linecap='round' stroke='{_hex(color)}' stroke-width='{width:.2f}'"
            f" stroke-opacity='{_alpha(gc, color):.3g}'/>"
            for color, width in rings
            if color is not None
        )

    def _stroke(self, gc: GraphicsContextBase) -> str:
        width = self.points_to_pixels(gc.get_linewidth())
        if not width:
            return "stroke='none'"
        color = gc.get_rgb()
        return f"stroke='{_hex(color)}' stroke-width='{width:.2f}' stroke-opacity='{_alpha(gc, color):.3g}'"

    def _down(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """SVG counts from the top."""
        return points * [1, -1] + [0, self.height]

    def _add(self, gc: GraphicsContextBase, element: str) -> None:
        clip = gc.get_clip_rectangle()
        if clip is not None:
            box = f"{clip.x0:.1f} {self.height - clip.y1:.1f} {clip.width:.1f} {clip.height:.1f}"
            x, y, w, h = box.split()
            element = f"<svg x='{x}' y='{y}' width='{w}' height='{h}' viewBox='{box}'>{element}</svg>"
        self._parts.append(element)


def _shape(vertices: Float[np.ndarray, "n 2"], codes: UInt8[np.ndarray, " n"] | None) -> str:
    """A path's `d` attribute; formatting all numbers at once is several times as fast as one by one."""
    if codes is None:
        good = np.isfinite(vertices).all(1)
        starts = good & ~np.concatenate([[False], good[:-1]])
        codes, vertices = np.where(starts[good], Path.MOVETO, Path.LINETO).astype(np.uint8), vertices[good]
    return _template(codes.tobytes()) % tuple(vertices[codes != Path.CLOSEPOLY].ravel().tolist())


@lru_cache(maxsize=64)
def _boxes(K: int, left: Number, top: Number, width: Number, height: Number) -> tuple[str, ...]:
    """Outlines of the cells of a K x K map, row by row."""
    side = f"h{width:.2f}v{height:.2f}h-{width:.2f}z"
    return tuple(f"M{left + j * width:.2f} {top + i * height:.2f}{side}" for i in range(K) for j in range(K))


@lru_cache(maxsize=64)
def _template(codes: bytes) -> str:
    """Letters of a path's `d` attribute with gaps for its numbers."""
    parts, due = [], 0  # the points that the last curve still needs
    for code in codes:
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        parts.append(" %.1f %.1f" if due else LETTERS[code] + "%.1f %.1f")
        due = due - 1 if due else POINTS_AFTER.get(code, 0)
    return "".join(parts)


def _fill(gc: GraphicsContextBase, face: Any) -> str:
    return "fill='none'" if face is None else f"fill='{_hex(face)}' fill-opacity='{_alpha(gc, face):.3g}'"


def _hex(color: Any) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in color[:3])


def _alpha(gc: GraphicsContextBase, color: Any) -> float:
    return float(gc.get_alpha() if gc.get_forced_alpha() or len(color) < 4 else color[3])
