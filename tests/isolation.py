"""A folder with the packages that the library installs, and none of the companion's."""

import os
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

LIBRARY_PACKAGES = {"torch", "numpy", "scipy", "jaxtyping", "torchmetrics"}
COMPANION_MODULES = [
    "torchvision",
    "pandas",
    "seaborn",
    "matplotlib",
    "ipywidgets",
    "pydantic",
    "yaml",
    "papermill",
    "nbformat",
    "sklearn",
    "h5py",
    "PIL",
    "safetensors",
    "tqdm",
    "snakemake",
    "IPython",
    "pooch",
]


def link_library_packages(folder: Path) -> None:
    """Link the library's packages, and the packages they need themselves, from this environment into `folder`."""
    waiting, linked = set(LIBRARY_PACKAGES), set()
    while waiting:
        name = waiting.pop()
        linked.add(name)
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not os.path.lexists(folder / top):
                (folder / top).symlink_to(distribution.locate_file(top))
        needed = map(Requirement, distribution.requires or ())
        waiting |= {need.name for need in needed if not need.marker or need.marker.evaluate({"extra": ""})} - linked
