"""One call, all of collapse: from a model and its data to every metric of `nclib.metrics`."""

import json
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from nclib import metrics
from nclib.features.extraction import last_layer, last_linear, mismatch
from nclib.features.passes import Data, Extracted, feature_batches
from nclib.metrics.deviations import project
from nclib.metrics.norms import _nc5
from nclib.metrics.statistics import CollapseStatistics, working_dtype

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LAST = ""  # the last-layer features, among those of the layers
OF_LAYERS = ("nc1", "separation", "ncc_accuracy", "class_mean_rank")
MAX_CLASSES_DRAWN = 200


@dataclass(frozen=True)
class Collapse:
    """What `measure_collapse` found.

    Args:
        scalars: Metrics by name; those of the test data begin with `test_`.
        layers: Layer to its `nc1`, `separation`, `ncc_accuracy` and `class_mean_rank` on the training data.
        arrays: On the CPU: `class_means` (k d) and `class_counts` (k) of the training samples with one label, `weight`
            (k d), `bias` (k), and `cosine_margins` (n), ascending; `classes`, where some are left out, are those of the
            means.
    """

    scalars: dict[str, float]
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def table(self) -> "pd.DataFrame":
        """A row for each metric; columns `train`, `test` where there are test data, and the layers. Needs pandas."""
        import pandas as pd

        columns: dict[str, dict[str, float]] = {"train": {}}
        for name, value in self.scalars.items():
            split, metric = ("test", name[5:]) if name.startswith("test_") else ("train", name)
            columns.setdefault(split, {})[metric] = value
        return pd.DataFrame(columns | self.layers).rename_axis("metric")

    def plot(self) -> "np.ndarray":
        """Cosines between the class means, the margins of the samples, the layers: axes. Needs matplotlib."""
        import matplotlib.pyplot as plt

        means, margins = self.arrays["class_means"], self.arrays.get("cosine_margins")
        shown = [len(means) <= MAX_CLASSES_DRAWN, margins is not None, bool(self.layers)]
        if not any(shown):
            raise ValueError(f"Nothing to draw: more than {MAX_CLASSES_DRAWN} classes, no layers, features not kept.")
        figure, axes = plt.subplots(1, sum(shown), figsize=(4 * sum(shown), 3.5), layout="constrained", squeeze=False)
        free = iter(axes[0])
        if len(means) <= MAX_CLASSES_DRAWN:
            ax, cosines = next(free), metrics.cosine_gram(means - means.mean(dim=0))
            figure.colorbar(ax.imshow(cosines.numpy(), vmin=-1, vmax=1, cmap="RdBu_r"), ax=ax)
            ax.set(title="cosines of the centered class means", xlabel="class", ylabel="class")
        if margins is not None:
            ax = next(free)
            ax.plot(margins.numpy())
            ax.set(title="cosine margins", xlabel="sample, by rising margin")
        if self.layers:
            ax = next(free)
            for metric in ("nc1", "separation"):
                ax.semilogy(list(self.layers), [values[metric] for values in self.layers.values()], "o-", label=metric)
            ax.set(title="layer by layer")
            ax.legend()
        return axes[0]

    def save(self, path: str | Path) -> None:
        """Into `.csv`, the table (needs pandas), or `.safetensors`, everything (needs safetensors)."""
        if Path(path).suffix == ".csv":
            self.table().to_csv(path)
        elif Path(path).suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(self.arrays, path, {"scalars": json.dumps(self.scalars), "layers": json.dumps(self.layers)})
        else:
            raise ValueError(f"Expected a path that ends in .csv or .safetensors, but got {path}.")

    @classmethod
    def load(cls, path: str | Path) -> "Collapse":
        """Read what `save` has written into `.safetensors`."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            found = {name: json.loads(text) for name, text in file.metadata().items()}
            return cls(**found, arrays={name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def measure_collapse(
    model: nn.Module,
    train: Data,
    *,
    test: Data | None = None,
    ood: Data | None = None,
    layers: Sequence[str] | None = None,
    head: str | None = None,
    classes: str = "all",
    nuclear_norm: bool = False,
    max_samples: int | None = None,
    max_bytes: int = 2 << 30,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    transform: Callable[[Tensor], Tensor] | None = None,
    progress: bool = True,
) -> Collapse:
    """Every metric of collapse of a model, in one pass over each of its data sets.

    The model runs in evaluation mode, in the precision of an enclosing `torch.autocast` if there is one, and is left as
    it was: modes, batch-norm statistics, random generators. Metrics are computed from the features on the model's
    device, in float32 with sums in float64.

    Features are kept while they fit into `max_bytes`. Beyond, they are folded into streaming statistics (d² numbers for
    each layer), and a second pass over the training data finds what needs the class means first, in any order of the
    samples: `nc4` and `ncc_accuracy`. `cosine_margin_mean` is left out then, and `nuclear_over_frobenius`.

    Args:
        model: Any network whose logits are `W f + b` of some layer.
        train: Training data: a DataLoader or other iterable of batches, (images, labels), or mappings with `labels` or
            `label` as of Hugging Face; a data set; or one pair of tensors. Labels are class ids or multi-hot.
        test: Held-out data, for all metrics again: of their own class means, but for `test_nc4` and
            `test_ncc_accuracy`, where the class means of the training data decide.
        ood: Out-of-distribution data, for `nc5`; labels are not looked at.
        layers: Dotted names of modules to measure layer by layer: a vector per sample is the mean of a feature map
            (b, c, h, w) over its positions, of a sequence (b, t, d) over its entries.
        head: Dotted name of the last layer; without it the last `nn.Linear` of the model.
        classes: As for `nclib.metrics.measure`: "present" leaves out those that have no sample.
        nuclear_norm: Include `nuclear_over_frobenius`, which costs more than all the rest together.
        max_samples: Of each data set, stop after the batch that makes so many samples.
        max_bytes: Memory for features.
        device, batch_size, transform: As for `nclib.features.extract`.
        progress: Show bars on a terminal or in a notebook, if tqdm is there.

    Returns:
        Scalars by the names of `nclib.metrics.measure`, layers and arrays.

    Raises:
        ValueError: If the last layer is not found or is not `W f + b` (such as a classifier by cosines), if batches
            have no labels, or as `nclib.metrics.measure` does.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images = torch.tensor([[1.0, 0, 0, 0], [3.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 3.0, 0, 0]])
    >>> round(measure_collapse(model, (images, torch.tensor([0, 0, 1, 1]))).scalars["nc1"], 6)
    0.125
    """
    name = head or last_linear(model)
    weight, bias = last_layer(model, name)
    layers = layers or ()
    options = {"device": device, "batch_size": batch_size, "transform": transform, "find_head": head is None}

    def one_pass(data: Data, split: str, layers: Sequence[str] = ()) -> Generator[Extracted, None, None]:
        seen, title = 0, split if progress else None
        with closing(feature_batches(model, data, head=name, layers=layers, progress=title, **options)) as found:
            for batch in found:
                if seen == 0 and (why := mismatch(model, name, batch)):
                    raise ValueError(why)
                if batch.labels is None and split != "ood":
                    raise ValueError(f"Expected {split} data with labels, but a batch had none.")
                yield batch
                seen += len(batch.features)
                if max_samples is not None and seen >= max_samples:
                    return
        if seen == 0:
            raise ValueError(f"Expected {split} data, but got none: an iterator can be gone through only once.")

    features = _Features(weight, bias, classes=classes, max_bytes=max_bytes)
    # closing puts the model back at once, also where a batch fails
    with closing(one_pass(train, "train", layers)) as batches:
        for batch in batches:
            features.add(batch)
    scalars, statistics, margins = features.measure(nuclear_norm=nuclear_norm)
    by_layer = features.measure_layers(layers)
    if features.streams:
        every = {layer: stream._statistics() for layer, stream in features.streams.items()}
        with closing(one_pass(train, "train", layers)) as batches:
            decided = _decisions(batches, weight, bias, every)
        scalars |= decided.pop(LAST)
        for layer, values in decided.items():
            by_layer[layer] |= values
    if ood is not None:
        with closing(one_pass(ood, "ood")) as batches:
            sums = [(len(batch.features), batch.features.double().sum(dim=0)) for batch in batches]
        counts, totals = zip(*sums, strict=True)
        scalars["nc5"] = float(_nc5(statistics, torch.stack(totals).sum(dim=0) / sum(counts)))
    if test is not None:
        held_out = _Features(weight, bias, classes=classes, max_bytes=max_bytes)
        with closing(one_pass(test, "test")) as batches:
            decided = _decisions(map(held_out.add, batches), weight, bias, {LAST: statistics})
        of_test = held_out.measure(nuclear_norm=nuclear_norm)[0] | decided[LAST]
        scalars |= {f"test_{metric}": value for metric, value in of_test.items()}
    arrays = {"class_means": statistics.class_means, "class_counts": statistics.class_counts, "weight": weight}
    arrays |= {"bias": bias, "classes": statistics.sets.kept}
    arrays |= {} if margins is None else {"cosine_margins": margins.sort().values}
    return Collapse(
        scalars, by_layer, {key: value.detach().cpu().clone() for key, value in arrays.items() if value is not None}
    )


class _Features:
    """Features of one pass, by layer: kept while they fit, then folded into streaming metrics."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, classes: str, max_bytes: int) -> None:
        self.weight, self.bias, self.classes, self.max_bytes = weight, bias, classes, max_bytes
        self.streams: dict[str, metrics.CollapseMetrics] = {}
        self._clear()

    def _clear(self) -> None:
        self.kept: dict[str, list[Tensor]] = defaultdict(list)
        self.labels: list[Tensor] = []
        self.bytes = 0

    def add(self, batch: Extracted) -> Extracted:
        self.labels.append(cast(Tensor, batch.labels))  # a batch without them was refused
        for layer, features in {LAST: batch.features, **batch.layers}.items():
            self.kept[layer].append(features)
            self.bytes += features.nbytes
        if self.bytes > self.max_bytes:
            self._fold()
        return batch

    def _fold(self) -> None:
        for layer, parts in self.kept.items():
            if layer not in self.streams:
                stream = metrics.CollapseMetrics(len(self.weight), parts[0].shape[1], classes=self.classes)
                self.streams[layer] = stream.to(parts[0].device)
            for features, labels in zip(parts, self.labels, strict=True):
                logits = _logits(features, self.weight, self.bias) if layer == LAST else None
                self.streams[layer].update(features, labels, logits)
        self._clear()

    def measure(self, *, nuclear_norm: bool) -> tuple[dict[str, float], CollapseStatistics, Tensor | None]:
        """Scalars, statistics and margins of the last layer."""
        if self.streams:
            self._fold()
            values = self.streams[LAST].compute(self.weight, self.bias)
            return {name: float(x) for name, x in values.items()}, self.streams[LAST]._statistics(), None
        features, labels = torch.cat(self.kept.pop(LAST)), torch.cat(self.labels)
        options = {"nuclear_norm": nuclear_norm, "classes": self.classes}
        found = metrics.take_measurement(features, labels, self.weight, self.bias, **options)
        return found.scalars(), found.statistics, found.samples.margins

    def measure_layers(self, layers: Sequence[str]) -> dict[str, dict[str, float]]:
        """Metrics of each layer; those of streams are without what needs another pass."""
        if self.streams:
            values = {layer: self.streams[layer].compute() for layer in layers}
            return {layer: {name: float(x[name]) for name in OF_LAYERS if name in x} for layer, x in values.items()}
        labels = torch.cat(self.labels)
        # without the classes that do not occur: `measure` has refused them, or left them out, too
        labels = labels.unique(return_inverse=True)[1] if labels.ndim == 1 else labels[:, labels.any(dim=0).bool()]
        whole = {layer: torch.cat(self.kept.pop(layer)) for layer in layers}
        return {
            layer: {name: float(getattr(metrics, name)(features, labels)) for name in OF_LAYERS}
            for layer, features in whole.items()
        }


def _decisions(
    batches: Iterable[Extracted], weight: Tensor, bias: Tensor | None, statistics: Mapping[str, CollapseStatistics]
) -> dict[str, dict[str, float]]:
    """Samples of one label against known class means: `ncc_accuracy` by layer, and `nc4` of the last."""
    sets = statistics[LAST].sets
    weight, bias = sets.rows_of_kept(weight, weight.new_zeros(len(weight)) if bias is None else bias)
    ids = torch.arange(len(weight), device=weight.device) if sets.kept is None else sets.kept
    right: dict[str, Tensor] = defaultdict(lambda: ids.new_zeros(()))
    disagreeing = total = ids.new_zeros(())
    for batch in batches:
        labels = cast(Tensor, batch.labels)
        single = labels.new_ones(len(labels), dtype=torch.bool) if labels.ndim == 1 else labels.sum(dim=1) == 1
        own = labels if labels.ndim == 1 else labels.int().argmax(dim=1)
        total = total + single.sum()
        for layer, known in statistics.items():
            features = batch.features if layer == LAST else batch.layers[layer]
            nearest = ids[metrics.nearest_class_mean(features, known.class_means)]
            right[layer] += ((nearest == own) & single).sum()
            if layer == LAST:
                chosen = ids[_logits(features, weight, bias).argmax(dim=1)]
                disagreeing = disagreeing + ((nearest != chosen) & single).sum()
    found = {layer: {"ncc_accuracy": float(count / total)} for layer, count in right.items()}
    found[LAST]["nc4"] = float(disagreeing / total)
    return found


def _logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`W f + b`, in float32 at least, also within autocast."""
    dtype = working_dtype(features)
    logits = project(features.to(dtype), weight.to(dtype))
    return logits if bias is None else logits + bias.to(dtype)
