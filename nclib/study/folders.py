"""Where a study's results lie.

    outputs/STUDY/datasets/NAME/   data.safetensors, samples.*, label_sets.*; 01_dataset.*
    outputs/STUDY/RUN/seedS/       history.csv, checkpoints/epoch_0020.safetensors, metrics.csv, geometry.safetensors
                                   and, for one label per image, misclassified.*; 02_train.* and 03_validate.*;
                                   unfinished/ while it trains
    outputs/STUDY/figures/         *.pdf, *.png, and a caption for each (*.txt)
    outputs/STUDY/                 table.csv, table.md, table.txt, study.yaml (as it was run); 04_figures.*

Of each stage there are the executed notebook (`.ipynb`), its manifest (`.manifest.json`) and log. Relative paths are
taken from the project's root, so that a notebook finds the same files from JupyterLab, papermill and Snakemake.
"""

import os
from dataclasses import dataclass
from pathlib import Path


def project_root(start: str | Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: the working folder) that holds `Snakefile` and `notebooks/`.

    Outside a project it is `start` itself.
    """
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "Snakefile").is_file() and (folder / "notebooks").is_dir():
            return folder
    return start


def data_root(root: str | Path | None = None) -> Path:
    """The folder of the data, `$NCLIB_DATA_ROOT` or else `data` in the project's root; `root`: a folder in it.

    An absolute `root` is itself.
    """
    data = project_root() / Path(os.environ.get("NCLIB_DATA_ROOT") or "data").expanduser()
    return data / Path(root or "").expanduser()


@dataclass(frozen=True)
class StudyFolder:
    """The folders of one study's results, in the folder of all studies (relative to the project's root)."""

    outputs: str | Path
    study: str

    @property
    def root(self) -> Path:
        return project_root() / self.outputs / self.study

    def dataset(self, name: str) -> Path:
        """Folder of one composed data set."""
        return self.root / "datasets" / name

    def run(self, run: str, seed: int) -> Path:
        """Folder of one training run."""
        return self.root / run / f"seed{seed}"


def checkpoint_name(epoch: int) -> str:
    """The file of the weights after `epoch` finished epochs (0: as initialized), from the run's folder."""
    return f"checkpoints/epoch_{epoch:04d}.safetensors"


def checkpoint_epoch(name: str) -> int:
    """The number of finished epochs in the name of a checkpoint."""
    return int(Path(name).stem.removeprefix("epoch_"))
