"""Fixtures that several test modules use."""

import signal
import subprocess
from pathlib import Path

import pytest

LONGEST = (
    *("test_faults", "test_slurm", "test_default_study", "test_studies", "test_reproduce", "test_train"),
    *("test_lease", "test_figures", "test_explore_browser", "test_notebook_theory"),
)


# ignored in the background jobs of a shell, and then by every command that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that parallel workers end together."""

    def place(item: pytest.Item) -> int:
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 1 MiB (a tmpfs; only root can mount one)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture(scope="session")
def load(tmp_path_factory):
    """Made-up results of a study (`tests.synthetic_study`), written once."""
    from nclib.results.study_results import StudyResults
    from nclib.study.study import Study
    from tests.synthetic_study import write_study

    known = {}

    def made(mapping):
        if (key := repr(mapping)) not in known:
            study, outputs = Study.from_mapping(mapping), tmp_path_factory.mktemp("outputs")
            write_study(outputs, study)
            known[key] = StudyResults.load(study, outputs)
        return known[key]

    return made
