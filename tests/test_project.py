"""The project's own files agree with each other."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from nclib.study import assigned_names

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGES = [path for path in NOTEBOOKS if not path.name.startswith("00")]


def parameters_cell(path: Path) -> str:
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata.get("tags", ()), "the first code cell holds the parameters"
    return code[0].source


def requirements(lines) -> dict[str, str]:
    return dict(re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", line.strip()).groups() for line in lines)


def test_conda_and_pip_name_the_same_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = requirements(project["dependencies"] + project["optional-dependencies"]["dev"])
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    conda = requirements([entry for entry in listed if isinstance(entry, str)] + [p for p in from_pip if p != "-e ."])
    conda["torch"] = conda.pop("pytorch")
    assert conda.pop("python") == project["requires-python"]
    del conda["pip"]
    assert conda == pip


def test_pinned_versions_fit_the_dependencies():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[wanted.name]), text


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_parameters_cell_is_the_default_study(path):
    """Literals only, one a line with its meaning, so that papermill can list them and a reader can change them."""
    default = yaml.safe_load((ROOT / "params/mlab_digits.yaml").read_text())
    source = parameters_cell(path)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}
    for section, value in default.items():
        assert values[section] == value, section
    assert set(values) == set(assigned_names(source)) >= set(default) | {"run", "seed", "outputs", "sweep"}
    for line in source.splitlines()[1:]:
        assert re.fullmatch(r"\w+ = [^=|]+  # [^=|]+", line), line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_thin(path):
    notebook = nbformat.read(path, 4)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert not cell.outputs
            assert "parameters" in cell.metadata.get("tags", ()) or len(cell.source.splitlines()) <= 15, cell.source
            assert not re.search(r"^\s*(def|class|%pip)\b", cell.source, re.MULTILINE), cell.source


def test_importing_nclib_is_light():
    loaded = (
        "import sys, nclib; print([m for m in ('torch', 'matplotlib', 'ipywidgets', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_launcher_starts_without_torch():
    code = "import sys, nclib.reproduce, nclib.study, nclib.runs; print({'torch', 'nbformat'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_kernels_need_neither_plots_nor_widgets():
    code = (
        "import sys, nclib.losses, nclib.heads, nclib.metrics, nclib.features\n"
        "import nclib.theory, nclib.models, nclib.decode\n"
        "heavy = ('matplotlib', 'seaborn', 'ipywidgets', 'pandas', 'papermill', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
