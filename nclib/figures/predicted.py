"""The geometry to expect from label counts and decays alone, with no training.

python -m nclib predict params/mlab_digits.yaml
python -m nclib predict params/mlab_digits.yaml learned --labels my_labels.csv
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from nclib.figures.display import Display
from nclib.figures.gram import NAMED, draw_cosines
from nclib.figures.layout import SHORT, add_legend, drawable
from nclib.figures.save import save
from nclib.figures.style import COLORS, MARKERS, TEXT_WIDTH
from nclib.results.expected import expected_minimum, labels_of, read_labels
from nclib.study.folders import StudyFolder
from nclib.study.study import ParameterError, Study
from nclib.theory import CertifiedMinimum

DEFAULT = "params/mlab_digits.yaml"
TOGETHER = 0.1  # degrees: rows of the classifier that are no farther apart


@dataclass
class PredictedGeometry(Display):
    """Cosines and lengths of class means and classifier rows at a certified minimum, and the scales of its label sets.

    Args:
        minimum: of a study's run or of any label counts (`nclib.theory.certified_minimum`).
        class_names: of all its classes.
    """

    SEEN = (
        "{study}, predicted without training: cosines between centered class means and between centered rows of the "
        "classifier; their lengths, over the mean length, against the samples that have the label"
    )
    minimum: CertifiedMinimum
    class_names: Sequence[str]

    def caption(self, study: str) -> str:
        """What is drawn, and how exact it is."""
        scales = "; the scale of each label set's tag-wise average against its samples" if self._has_sets else ""
        return f"{self.SEEN.format(study=study)}{scales}. Proved to a relative gap of {max(self.minimum.gap, 0):.0e}."

    def _draw(self) -> None:
        minimum = self.minimum
        of_means, of_rows, lengths, *scales = self._subplots(1, 3 + self._has_sets, (TEXT_WIDTH, 2.3)).flat
        counts, entries = samples_of_classes(minimum), {}
        shown = (
            (of_means, "class means", minimum.angles_of_means(), minimum.class_means),
            (of_rows, "classifier", minimum.angles_of_classifier(), minimum.weight),
        )
        for place, (axes, name, angles, rows) in enumerate(shown):
            cosines = angles.deg2rad().cos()
            off = (cosines + 1 / (len(cosines) - 1)).fill_diagonal_(0).abs().max()
            draw_cosines(axes, cosines, note=f"off the ETF by {off:.2g}")
            axes.set_title(name)
            norms = (rows - rows.mean(0)).norm(dim=1)
            norms = norms / norms.mean()
            (entries[name],) = lengths.plot(counts, norms, MARKERS[place], color=COLORS[place], alpha=0.7)
        if len(self.class_names) <= NAMED:
            of_means.set_yticks(range(len(self.class_names)), drawable(self.class_names, longest=SHORT), fontsize=6)
        scale_counts(lengths, counts)
        lengths.set(title="length / mean length", xlabel="samples with the label")
        add_legend(self.figure_, entries)
        for axes in scales:
            self._draw_scales(axes)

    @property
    def _has_sets(self) -> bool:
        return max(self.minimum.scales, default=1) > 1

    def _draw_scales(self, axes: Axes) -> None:
        sizes, (scales, _) = self.minimum.label_sets.sum(1), self.minimum.tag_wise()
        for m, color, marker in zip((m for m in self.minimum.scales if m > 1), COLORS[2:], MARKERS[2:], strict=False):
            axes.plot(self.minimum.counts[sizes == m], scales[sizes == m], marker, color=color, alpha=0.7, label=f"{m}")
        scale_counts(axes, self.minimum.counts)
        axes.set(title="tag-wise scale $C_S$", xlabel="samples of the set")
        axes.legend(title="labels")


def scale_counts(axes: Axes, counts: Tensor) -> None:
    """A logarithmic axis with the smallest number, the largest, and one between."""
    low, high = counts.min().item(), counts.max().item()
    ticks = sorted({low, round((low * high) ** 0.5), high})
    axes.set_xscale("log")
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.margins(y=0.1)


def samples_of_classes(minimum: CertifiedMinimum) -> Tensor:
    """Samples with each label."""
    return minimum.counts @ minimum.label_sets.long()


def terminal_text(name: str, minimum: CertifiedMinimum, class_names: Sequence[str]) -> str:
    """The prediction in lines of at most 80 letters: the whole, each class, each number of labels."""
    counts, angles = samples_of_classes(minimum), minimum.angles_of_classifier().fill_diagonal_(torch.inf)
    lines = [
        f"{name[:40]}: {minimum.counts.sum():,} samples, {len(minimum.counts):,} label sets, {len(counts)} classes",
        f"minimum {minimum.value:.8f}, proved to {max(minimum.gap, 0):.0e}; of it data loss {minimum.data_loss:.4f}",
        f"training IoU {minimum.soft_iou:.4f}, label sets that can be told apart {minimum.set_accuracy:.2%}",
        "",
        f"{'class':24}{'samples':>10}{'|w|':>9}{'|mu|':>9}{'nearest other row of W':>26}",
    ]
    for k in counts.argsort(descending=True, stable=True).tolist():
        norms = [f"{rows[k].norm():9.3f}" for rows in (minimum.weight, minimum.class_means)]
        lines.append(f"{class_names[k][:23]:24}{counts[k]:10,}{''.join(norms)}{angles[k].min():25.1f}°")
    scales, sizes, (_, residuals) = minimum.scales, minimum.label_sets.sum(1), minimum.tag_wise()
    if max(scales, default=1) > 1:
        lines += ["", f"{'labels':>6}{'sets':>8}{'samples':>10}{'C_m':>9}{'off the tag-wise average (largest)':>38}"]
    for m in (m for m in scales if m > 1):
        rows, worst = sizes == m, np.nanmax(residuals[sizes == m])
        lines.append(f"{m:6}{rows.sum():8,}{minimum.counts[rows].sum():10,}{scales[m]:9.4f}{worst:38.2%}")
    if (angles.min() < TOGETHER).item():
        lines += ["", "Rows of the classifier that coincide (nearest at 0.0°): minority collapse."]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """`python -m nclib predict [STUDY.yaml] [RUN ...] [--labels FILE.csv]`: print tables, write pictures.

    Returns:
        The exit status: 1 where theory predicts nothing for any run.

    Raises:
        ParameterError: a file is not valid, or its labels do not fit the settings.
    """
    parser = argparse.ArgumentParser(prog="python -m nclib predict", description="The geometry to expect, untrained.")
    parser.add_argument("study", nargs="?", default=DEFAULT, help=f"study file (default: {DEFAULT})")
    parser.add_argument("runs", nargs="*", help="of its runs; otherwise all")
    parser.add_argument(
        "--labels", help="CSV with columns 'labels' (names joined by ;) and 'count': instead of its data"
    )
    parser.add_argument("--outputs", default="outputs", help="folder of all results")
    asked = parser.parse_args(arguments)
    status = 1
    try:
        study = Study.from_file(asked.study).only(asked.runs)
        folder, own = StudyFolder(asked.outputs, study.study), asked.labels and read_labels(asked.labels)
        for name in study.runs:
            run = study.resolve(name)
            labels = own or labels_of(run, folder)
            minimum = labels and expected_minimum(run, labels)
            if minimum:
                title = f"{study.study}, {run.label}"
                display = PredictedGeometry(minimum, labels[1]).plot()
                files = save(display.figure_, folder.root / "predicted", name)
                print(f"{terminal_text(title, minimum, labels[1])}\n{os.path.relpath(files[-1])}\n")
                status = 0
            else:
                why = (
                    "its settings are not the theory's" if labels else "its data set is not there: run stage 01_dataset"
                )
                print(f"{name}: no prediction, since {why} (docs/theory.md)", file=sys.stderr)
    except ValueError as error:
        raise ParameterError(str(error)) from error
    return status
