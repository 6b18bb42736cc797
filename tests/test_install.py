"""`pip install .`: the wheel, beside nothing but what it asks for."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.isolation import LIBRARY_PACKAGES, link_library_packages

ROOT = Path(__file__).parent.parent

MEASURE = """
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
import sys
import nclib, torch
from nclib.features import extract
from nclib.metrics import measure

assert Path(nclib.__file__).is_relative_to(sys.prefix)
assert metadata.version("neural-collapse-lab") == nclib.__version__
assert not [name for name in ("torchvision", "pandas", "pydantic") if find_spec(name)]
generator = torch.Generator().manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
features, logits = extract(model, torch.randn(30, 1, 4, 4, generator=generator), head="3")
print(measure(features, torch.arange(30) % 3, model[3].weight, model[3].bias, logits=logits)["nc1"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")  # setuptools writes beside what it builds
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "nclib", source / "nclib", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", source, source], check=True, capture_output=True)
    return next(source.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_has_every_file_and_asks_for_the_library_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if name.startswith("nclib/")}
        stated = next(name for name in archive.namelist() if name.endswith("METADATA"))
        needed = [line for line in archive.read(stated).decode().splitlines() if line.startswith("Requires-Dist")]
    package = [path for path in (ROOT / "nclib").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert files == {path.relative_to(ROOT).as_posix() for path in package}
    without_extras = {line.split()[1].split(">=")[0] for line in needed if "extra ==" not in line}
    assert without_extras == LIBRARY_PACKAGES


@pytest.mark.slow
def test_the_installed_library_measures_a_torch_model(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    link_library_packages(next(tmp_path.glob("venv/lib/python*/site-packages")))
    done = subprocess.run([python, "-I", "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
