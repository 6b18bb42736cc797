"""What 03_validate keeps of the last layer at each checkpoint: means, classifier, angles, margins and a feature sample.

Everything that figures and the explorer show comes from this file and `metrics.csv`; no network is evaluated again.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import StageError


@dataclass(frozen=True)
class Geometry:
    """The last layer of one training run, stacked over its checkpoints; no mean is centered."""

    class_names: tuple[str, ...]
    epochs: Int64[Tensor, " e"]  # finished epochs of each checkpoint, ascending
    label_sets: UInt8[Tensor, "s k"]  # of the training data, by multiplicity, then in lexicographic order
    counts: Int64[Tensor, " s"]  # training samples of each label set
    class_means: Float[Tensor, "e k d"]  # of the features with one label
    global_mean: Float[Tensor, "e d"]  # unweighted mean of the class means
    set_means: Float[Tensor, "e s d"]
    weight: Float[Tensor, "e k d"]
    bias: Float[Tensor, "e k"]
    gram_features: Float[Tensor, "e k k"]  # cosines between the centered class means
    gram_weight: Float[Tensor, "e k k"]  # cosines between the centered rows of the weight
    angles: Float[Tensor, "e s"]  # of each set's mean to the sum of its labels' class means [degrees]
    scales: Float[Tensor, "e m"]  # C_m of the tag-wise average, m = 1, 2, ...; NaN where no set has m labels
    margins: Float[Tensor, "e n"]  # cosine margins of the samples with one label, ascending at each epoch
    sample_index: Int64[Tensor, " q"]  # training samples whose features are kept, spread over the label sets
    sample_labels: UInt8[Tensor, "q k"]
    sample_features: Float[Tensor, "e q d"]

    def label_set_counts(self) -> dict[tuple[int, ...], int]:
        """Training samples of each label set."""
        sets = [tuple(row.nonzero().flatten().tolist()) for row in self.label_sets]
        return dict(zip(sets, self.counts.tolist(), strict=True))

    def save(self, path: str | Path) -> None:
        """Write all arrays as one safetensors file, whole or not at all."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "class_names"}
        save_tensors(path, tensors, {"class_names": list(self.class_names)})

    @classmethod
    def load(cls, path: str | Path) -> "Geometry":
        """Read a file of `save`; an error names the stage to run."""
        tensors, metadata = load_tensors(path, stage="03_validate")
        try:
            return cls(class_names=tuple(metadata["class_names"]), **tensors)
        except (KeyError, TypeError) as error:
            raise StageError(f"{path} is no geometry file ({error}): run stage 03_validate again.") from error
