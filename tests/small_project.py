"""A copy of the project with a study of one run that takes seconds."""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import yaml

ROOT = Path(__file__).parent.parent
SMALL = {
    "study": "small",
    "dataset": {
        "name": "digits",
        "source": "digits",
        "layout": "mnist",
        "train_counts": {1: 6, 2: 1},
        "test_counts": {1: 3, 2: 1},
    },
    "model": {"arch": "resnet18", "width": 2},
    "training": {"epochs": 2, "checkpoint_every": 1, "batch_size": 32, "feature_decay": 0.0},
    "runs": {"learned": {}},
}


class Project:
    """A copy of the project's Snakefile, notebooks and profiles, with a small study of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("notebooks", "profiles"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        shutil.copy(ROOT / "Snakefile", folder)
        self.outputs = folder / "outputs" / "small"

    def write(self, **changes) -> None:
        (self.folder / "small.yaml").write_text(yaml.safe_dump(SMALL | changes))

    def command(self, *options: str, study: str | Path = "small.yaml") -> list[str]:
        return [sys.executable, "-m", "nclib", "reproduce", str(study), "--cores", "2", *options]

    def run(self, *options: str, study: str | Path = "small.yaml") -> subprocess.CompletedProcess:
        return subprocess.run(self.command(*options, study=study), cwd=self.folder, capture_output=True, text=True)

    def manifests(self) -> dict[str, float]:
        found = self.outputs.rglob("*.manifest.json")
        return {str(path.relative_to(self.outputs)): path.stat().st_mtime_ns for path in found}

    def results(self) -> dict[str, str]:
        """What the study found, by file: checksums of all results, tables without the time they took."""
        kinds = (".safetensors", ".csv", ".md", ".png", ".pdf")
        files = [path for path in self.outputs.rglob("*") if path.suffix in kinds and "unfinished" not in path.parts]
        return {str(path.relative_to(self.outputs)): hashlib.sha256(_timeless(path)).hexdigest() for path in files}


def _timeless(path: Path) -> bytes:
    if path.suffix != ".csv":
        return path.read_bytes()
    table = pd.read_csv(path, dtype=str)
    return table.drop(columns="seconds", errors="ignore").to_csv(index=False).encode()


def run_cells(stage: str, parameters: dict) -> dict:
    """The names that a stage notebook's code cells leave behind in this process, without a kernel."""
    names: dict = {}
    for cell in nbformat.read(ROOT / f"notebooks/{stage}.ipynb", 4).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
            exec(compile("\n".join(lines), f"{stage} {cell.id}", "exec"), names)  # noqa: S102
            if "parameters" in cell.metadata.get("tags", ()):
                names |= parameters
    return names


def wait_for(condition, seconds: float = 200) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)
