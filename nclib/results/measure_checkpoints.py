"""Measuring the collapse at every checkpoint of a training (stage 03_validate).

Each checkpoint costs one forward pass over training and test images, in float32 whatever the training's precision;
all metrics and the geometry come from its features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nclib import decode, metrics
from nclib.data.batches import of_split
from nclib.data.dataset import Splits
from nclib.data.tensors import load_tensors
from nclib.features import extract
from nclib.metrics.tag_wise import _imbalance_ratio, _tag_wise_angles, _tag_wise_fit
from nclib.results.geometry import Geometry
from nclib.results.metrics_table import long, read_metrics
from nclib.study.files import StageError
from nclib.study.folders import checkpoint_epoch
from nclib.study.parameters import Dataset
from nclib.study.stage import Stage
from nclib.training.device import cudnn_flags, place


@dataclass(frozen=True)
class CheckpointMeasurements:
    """What `measure_checkpoints` found.

    The metrics are long, as `metrics_table` describes: the scalars of `nclib.metrics.measure` for both splits at each
    checkpoint; training rows of an imbalanced data set have `imbalance_ratio`, test rows of multi-label data the scores
    of the decoders, and all test rows `held_out_nc4` and `held_out_ncc_accuracy`: by the class means of training.
    """

    metrics: pd.DataFrame
    geometry: Geometry
    predicted: Int64[Tensor, " n"] | None  # class of each training image at the last checkpoint; None where read back


def checkpoints(step: Stage) -> dict[int, Path]:
    """The checkpoints of the run and seed of a stage, by epoch, ascending; each is checked and noted as an input."""
    trained = step.upstream[-1].require()
    names = [name for name in trained.manifest["outputs"] if name.startswith("checkpoints/")]
    return dict(sorted((checkpoint_epoch(name), step.input(name)) for name in names))


def measure_stage(
    step: Stage, model: nn.Module, checkpoints: Mapping[int, Path], splits: Splits, device: torch.device
) -> CheckpointMeasurements:
    """Stage 03_validate: `measure_checkpoints`, or what it found before if the stage is done (without `predicted`)."""
    if step.done:
        metrics = read_metrics(step.output("metrics.csv"))
        return CheckpointMeasurements(metrics, Geometry.load(step.output("geometry.safetensors")), None)
    options = step.settings.validation.model_dump(exclude={"device"})
    return measure_checkpoints(model, checkpoints, splits, dataset=step.settings.dataset, device=device, **options)


@cudnn_flags()
def measure_checkpoints(
    model: nn.Module,
    checkpoints: Mapping[int, Path],
    splits: Splits,
    *,
    dataset: Dataset,
    device: torch.device,
    batch_size: int,
    feature_sample: int,
) -> CheckpointMeasurements:
    """Load each checkpoint (by epoch, ascending) into `model` and measure it.

    The network ends with the weights of the last one. `pair_groups` of the data set asks for the imbalance ratios;
    `feature_sample` training features are kept at each checkpoint.

    Raises:
        StageError: there are no checkpoints, or one is damaged, of another network, or of one whose features are all
            equal.
    """
    if not checkpoints:
        raise StageError("There are no checkpoints: run stage 02_train first.")
    model = place(model, device)
    batches = {name: of_split(splits, name, device=device, batch_size=batch_size) for name in ("train", "test")}
    sample = spread_sample(splits.train.labels, feature_sample)
    rows: list[tuple[int, str, str, int | None, float]] = []
    pieces: list[dict[str, Tensor]] = []
    for epoch, path in checkpoints.items():
        load_weights(model, path)
        # copies: the next checkpoint is loaded into the same memory
        weight, bias = model.head.weight.detach().clone(), _bias(model.head)
        found = {name: extract(model, part.ordered(), device=device) for name, part in batches.items()}
        measured = {}
        for name, seen in found.items():
            try:
                measured[name] = metrics.take_measurement(seen.features, seen.labels, weight, bias, logits=seen.logits)
            except ValueError as error:
                raise StageError(
                    f"The {name} images at {path} cannot be measured: {error} If all features have become equal, or no "
                    "numbers, training has failed: lower training.feature_decay, training.weight_decay or training.lr."
                ) from error
        values = {name: measurement.rows() for name, measurement in measured.items()}
        features, logits = found["train"]
        statistics = measured["train"].statistics
        if dataset.pair_groups:
            ratios = _imbalance_ratio(statistics, counts=dataset.pair_groups)
            values["train"] += [("imbalance_ratio", count, ratio.float().item()) for count, ratio in ratios.items()]
        test_features, test_logits = found["test"]
        of_test = test_features, found["test"].labels
        known = {"class_means": statistics.class_means}
        values["test"] += [
            ("held_out_nc4", None, float(metrics.nc4(*of_test, weight, bias, **known))),
            ("held_out_ncc_accuracy", None, float(metrics.ncc_accuracy(*of_test, **known))),
        ]
        if splits.is_multi_label:
            threshold = decode.tune_threshold(logits, found["train"].labels)
            predicted = {
                "onn": decode.nearest_tag_average(test_features, decode.averages_of_sets(statistics)),
                "threshold": decode.threshold_softmax(test_logits, threshold),
            }
            values["test"] += _scores(predicted, found["test"].labels)
        rows += [(epoch, split, *value) for split, found_there in values.items() for value in found_there]
        pieces.append(_snapshot(measured["train"], weight, bias) | {"sample_features": features[sample.to(device)]})
    geometry = Geometry(
        class_names=splits.class_names,
        epochs=torch.tensor(list(checkpoints)),
        label_sets=statistics.sets.members.to("cpu", torch.uint8),
        counts=statistics.sets.counts.cpu(),
        sample_index=sample,
        sample_labels=splits.train.labels[sample],
        **{name: torch.stack([piece[name] for piece in pieces]).cpu() for name in pieces[0]},
    )
    return CheckpointMeasurements(long(rows), geometry, logits.argmax(dim=1).cpu())


def spread_sample(labels: Tensor, size: int) -> Int64[Tensor, " q"]:
    """Positions of up to `size` samples, as many from each label set (multi-hot) as there are, ascending."""
    _, group = torch.unique(labels, dim=0, return_inverse=True)
    order = torch.argsort(group, stable=True)
    starts = torch.searchsorted(group[order].contiguous(), torch.arange(int(group.max()) + 1))
    place_in_group = torch.arange(len(group)) - starts[group[order]]
    first = order[torch.argsort(place_in_group, stable=True)]  # one of each set, then the second of each, ...
    return first[:size].sort().values


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`."""
    weights, _ = load_tensors(path, stage="02_train")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise StageError(f"{path} holds another network ({error}): run stage 02_train again.") from error


def _bias(head: nn.Module) -> Float[Tensor, " k"]:
    return head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias.detach().clone()


def _scores(predicted: Mapping[str, Tensor], labels: Tensor) -> list[tuple[str, None, float]]:
    """The scores of the label sets that each decoder predicted."""
    scores = {"jaccard": decode.set_jaccard, "subset_accuracy": decode.set_subset_accuracy}
    return [
        (f"{decoder}_{name}", None, float(score(sets, labels)))
        for decoder, sets in predicted.items()
        for name, score in scores.items()
    ]


def _snapshot(measurement: metrics.Measurement, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """What `Geometry` keeps of one checkpoint, in float32."""
    statistics = measurement.statistics
    class_means = statistics.class_means.float()
    global_mean = class_means.mean(dim=0)
    multiplicity = statistics.sets.multiplicity
    most = int(multiplicity.max())
    angles = torch.zeros(len(multiplicity), device=weight.device)
    scales = torch.full((most,), torch.nan, device=weight.device)
    scales[0] = 1
    for m in range(2, most + 1):
        if (multiplicity == m).any():
            angles[multiplicity == m] = _tag_wise_angles(statistics, m).float()
            scales[m - 1] = _tag_wise_fit(statistics, m)[0]
    return {
        "class_means": class_means,
        "global_mean": global_mean,
        "set_means": statistics.set_means.float(),
        "weight": weight,
        "bias": bias,
        "gram_features": metrics.cosine_gram(class_means - global_mean),
        "gram_weight": metrics.cosine_gram(weight - weight.mean(dim=0)),
        "angles": angles,
        "scales": scales,
        "margins": measurement.samples.margins.sort().values,
    }
