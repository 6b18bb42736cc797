"""Where a study's results lie, and the manifest that says what made them.

    outputs/STUDY/datasets/NAME/   data.safetensors, 01_dataset.ipynb, 01_dataset.manifest.json
    outputs/STUDY/RUN/seedS/       history.csv, checkpoints/epoch_0020.safetensors, resume.safetensors, metrics.csv,
                                   geometry.safetensors; 02_train.* and 03_validate.* (executed notebook, manifest, log)
    outputs/STUDY/figures/         *.pdf, *.png
    outputs/STUDY/                 table.csv, table.md, 04_figures.*

Stages share nothing but these files. Relative paths are taken from the project's root (the nearest parent folder with
a `Snakefile` and `notebooks/`), so that a notebook finds the same files from JupyterLab, papermill and Snakemake.
"""

import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nclib.storage import StageError, atomic_path, sha256, write_json

__all__ = ["Manifest", "StageError", "StudyFolder", "atomic_path", "checkpoint_epoch", "project_root"]

PACKAGES = (
    "nclib",
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scikit-learn",
    "safetensors",
    "papermill",
    "snakemake",
)


def project_root(start: str | Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: the working folder) that holds `Snakefile` and `notebooks/`.

    Outside a project it is `start` itself.
    """
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "Snakefile").is_file() and (folder / "notebooks").is_dir():
            return folder
    return start


@dataclass(frozen=True)
class StudyFolder:
    """The paths of one study's results.

    Args:
        outputs: folder of all studies; relative to the project's root.
        study: the study's name.
    """

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

    def checkpoint(self, run: str, seed: int, epoch: int) -> Path:
        """The weights after `epoch` finished epochs (0: as initialised)."""
        return self.run(run, seed) / "checkpoints" / f"epoch_{epoch:04d}.safetensors"

    def checkpoints(self, run: str, seed: int) -> dict[int, Path]:
        """All checkpoints of a run, by epoch, ascending."""
        found = (self.run(run, seed) / "checkpoints").glob("epoch_*.safetensors")
        return dict(sorted((checkpoint_epoch(path), path) for path in found))

    @property
    def figures(self) -> Path:
        return self.root / "figures"


def checkpoint_epoch(path: Path) -> int:
    """The number of finished epochs in a checkpoint's file name.

    Raises:
        StageError: the name is not of the form `epoch_0020.safetensors`.
    """
    found = re.fullmatch(r"epoch_(\d{4,})\.safetensors", path.name)
    if found is None:
        raise StageError(f"{path} is no checkpoint of stage 02_train (expected a name like epoch_0020.safetensors).")
    return int(found.group(1))


def _git_commit() -> str | None:
    """The commit the code stands at, with `+` where tracked files differ from it; None outside a git checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass
class Manifest:
    """What one stage was given and what it made; written beside its results when it ends well.

    Args:
        stage: the notebook's name, e.g. `02_train`.
        parameters: the resolved parameters of the stage, as JSON values.
        seed: the training seed, if the stage has one.
    """

    stage: str
    parameters: Mapping[str, Any]
    seed: int | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.monotonic)  # the wall clock may be set while a stage runs

    def write(
        self, folder: Path, *, inputs: Iterable[Path], outputs: Iterable[Path], device: str, **facts: Any
    ) -> Path:
        """Write `STAGE.manifest.json` into `folder`.

        Args:
            folder: where the stage's results are.
            inputs: files the stage read; their SHA-256 is noted.
            outputs: files it wrote; likewise.
            device: where the tensors were, e.g. `cpu` or `NVIDIA H100`.
            facts: further JSON values worth keeping (threads, precision, samples a second).

        Returns:
            The manifest's path.
        """
        from torch import get_num_threads

        path = folder / f"{self.stage}.manifest.json"

        def hashes(files: Iterable[Path]) -> dict[str, str]:
            return {os.path.relpath(file, folder): sha256(file) for file in files}

        write_json(
            path,
            {
                "stage": self.stage,
                "seed": self.seed,
                "parameters": dict(self.parameters),
                "inputs": hashes(inputs),
                "outputs": hashes(outputs),
                "git_commit": _git_commit(),
                "packages": {name: metadata.version(name) for name in PACKAGES},
                "python": platform.python_version(),
                "platform": platform.platform(),
                "device": device,
                "threads": get_num_threads(),
                "started": self.started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - self._clock, 3),
                **facts,
            },
        )
        return path
