"""One call, all of collapse: from a model and its data to every metric of `nclib.metrics`."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nclib import metrics
from nclib.features import Data, Extracted, feature_batches, last_layer, last_linear, mismatch
from nclib.metrics.norms import _nc5
from nclib.metrics.statistics import CollapseStatistics

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
            (k d), `bias` (k), and `cosine_margins` (n), ascending.
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
        panels = {"means": len(means) <= MAX_CLASSES_DRAWN, "margins": margins is not None, "layers": bool(self.layers)}
        drawn = [name for name, wanted in panels.items() if wanted]
        figure, axes = plt.subplots(1, len(drawn), figsize=(4 * len(drawn), 3.5), layout="constrained", squeeze=False)
        for name, ax in zip(drawn, axes[0], strict=True):
            if name == "means":
                image = ax.imshow(metrics.cosine_gram(means - means.mean(dim=0)), vmin=-1, vmax=1, cmap="RdBu_r")
                figure.colorbar(image, ax=ax)
                ax.set(title="cosines of the centered class means", xlabel="class", ylabel="class")
            elif name == "margins":
                ax.plot(margins)
                ax.set(title="cosine margins", xlabel="sample, by rising margin")
            else:
                for metric in ("nc1", "separation"):
                    ax.semilogy(
                        list(self.layers), [values[metric] for values in self.layers.values()], "o-", label=metric
                    )
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
    layers: Sequence[str] = (),
    head: str | None = None,
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
        nuclear_norm: Include `nuclear_over_frobenius`, which costs more than all the rest together.
        max_samples: Take only so many samples of each data set, the first that come.
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
    >>> measure_collapse(model, (images, torch.tensor([0, 0, 1, 1]))).scalars["nc1"]
    0.0625
    """
    name = head or last_linear(model)
    weight, bias = last_layer(model, name)
    options = {"device": device, "batch_size": batch_size, "transform": transform, "find_head": head is None}

    def one_pass(data: Data, split: str, layers: Sequence[str] = ()) -> "closing[Iterator[Extracted]]":
        def batches() -> Iterator[Extracted]:
            seen, title = 0, split if progress else None
            with feature_batches(model, data, head=name, layers=layers, progress=title, **options) as found:
                for batch in found:
                    if seen == 0 and (why := mismatch(model, name, batch)):
                        raise ValueError(why)
                    if batch.labels is None and split != "ood":
                        raise ValueError(f"Expected {split} data with labels, but a batch had none.")
                    yield batch if max_samples is None else batch.first(max_samples - seen)
                    seen += len(batch.features)
                    if max_samples is not None and seen >= max_samples:
                        return
            if seen == 0:
                raise ValueError(f"Expected {split} data, but got none: an iterator can be gone through only once.")

        return closing(batches())  # which puts the model back at once, also where a batch fails

    features = _Features(weight, bias, max_bytes=max_bytes)
    with one_pass(train, "train", layers) as batches:
        for batch in batches:
            features.add(batch)
    scalars, statistics, margins = features.measure(nuclear_norm=nuclear_norm)
    by_layer, means = features.measure_layers(layers)
    means[LAST] = statistics.class_means
    if features.streams:
        with one_pass(train, "train", layers) as batches:
            decided = _decisions(batches, weight, bias, means)
        scalars |= decided.pop(LAST)
        for layer, values in decided.items():
            by_layer[layer] |= values
    if ood is not None:
        with one_pass(ood, "ood") as batches:
            sums = [(len(batch.features), batch.features.double().sum(dim=0)) for batch in batches]
        counts, totals = zip(*sums, strict=True)
        scalars["nc5"] = float(_nc5(statistics, sum(totals) / sum(counts)))
    if test is not None:
        held_out = _Features(weight, bias, max_bytes=max_bytes)
        with one_pass(test, "test") as batches:
            decided = _decisions(map(held_out.add, batches), weight, bias, {LAST: means[LAST]})
        of_test = held_out.measure(nuclear_norm=nuclear_norm)[0] | decided[LAST]
        scalars |= {f"test_{metric}": value for metric, value in of_test.items()}
    arrays = {"class_means": means[LAST], "class_counts": statistics.class_counts, "weight": weight}
    arrays |= {} if bias is None else {"bias": bias}
    arrays |= {} if margins is None else {"cosine_margins": margins.sort().values}
    return Collapse(scalars, by_layer, {key: value.detach().cpu().clone() for key, value in arrays.items()})


class _Features:
    """Features of one pass, by layer: kept while they fit, then folded into streaming metrics."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, max_bytes: int) -> None:
        self.weight, self.bias, self.max_bytes = weight, bias, max_bytes
        self.streams: dict[str, metrics.CollapseMetrics] = {}
        self._clear()

    def _clear(self) -> None:
        self.kept: dict[str, list[Tensor]] = defaultdict(list)
        self.labels: list[Tensor] = []
        self.bytes = 0

    def add(self, batch: Extracted) -> Extracted:
        self.labels.append(batch.labels)
        for layer, features in {LAST: batch.features, **batch.layers}.items():
            self.kept[layer].append(features)
            self.bytes += features.nbytes
        if self.bytes > self.max_bytes:
            self._fold()
        return batch

    def _fold(self) -> None:
        for layer, parts in self.kept.items():
            if layer not in self.streams:
                stream = metrics.CollapseMetrics(len(self.weight), parts[0].shape[1])
                self.streams[layer] = stream.to(parts[0].device)
            for features, labels in zip(parts, self.labels, strict=True):
                logits = None
                if layer == LAST:  # in float64, which autocast leaves alone
                    bias = None if self.bias is None else self.bias.double()
                    logits = F.linear(features.double(), self.weight.double(), bias)
                self.streams[layer].update(features, labels, logits)
        self._clear()

    def measure(self, *, nuclear_norm: bool) -> tuple[dict[str, float], CollapseStatistics, Tensor | None]:
        """Scalars, statistics and margins of the last layer."""
        if self.streams:
            self._fold()
            stream = self.streams[LAST]
            values = stream.compute(self.weight, self.bias)
            return {name: float(value) for name, value in values.items()}, stream._statistics(), None
        features, labels = torch.cat(self.kept.pop(LAST)), torch.cat(self.labels)
        found = metrics.take_measurement(features, labels, self.weight, self.bias, nuclear_norm=nuclear_norm)
        return found.scalars(), found.statistics, found.samples.margins

    def measure_layers(self, layers: Sequence[str]) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
        """Metrics of each layer, of streams without what needs another pass, and its class means."""
        found, means = {}, {}
        for layer in layers:
            if self.streams:
                values = self.streams[layer].compute()
                found[layer] = {name: float(values[name]) for name in OF_LAYERS if name in values}
                means[layer] = self.streams[layer]._statistics().class_means
            else:
                features, labels = torch.cat(self.kept.pop(layer)), torch.cat(self.labels)
                found[layer] = {name: float(getattr(metrics, name)(features, labels)) for name in OF_LAYERS}
        return found, means


def _decisions(
    batches: Iterable[Extracted], weight: Tensor, bias: Tensor | None, means: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """By layer: the share of samples (of one label) nearest to their class mean, and `nc4` of the last."""
    sums: dict[str, dict[str, float]] = {layer: defaultdict(float) for layer in means}
    total = 0
    for batch in batches:
        labels = batch.labels
        if not (singles := len(labels) if labels.ndim == 1 else int((labels.sum(dim=1) == 1).sum())):
            continue
        total += singles
        for layer, of_layer in means.items():
            features = batch.features if layer == LAST else batch.layers[layer]
            sums[layer]["ncc_accuracy"] += singles * metrics.ncc_accuracy(features, labels, class_means=of_layer)
        nc4 = metrics.nc4(batch.features, labels, weight, bias, class_means=means[LAST])
        sums[LAST]["nc4"] += singles * nc4
    return {layer: {name: float(value) / total for name, value in found.items()} for layer, found in sums.items()}
