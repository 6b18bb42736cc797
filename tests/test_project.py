"""The project's own files agree with each other."""

import ast
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
import yaml

from nclib.study.study import Study, assigned_names
from tests.small_project import wait_for

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


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_notebook_given_a_study_file_runs_that_study(path):
    """`papermill -f` replaces only what the file holds; the rest of the notebook's cell is of the default study."""
    given, namespace = yaml.safe_load(path.read_text()), {}
    for statement in ast.parse(parameters_cell(STAGES[0])).body:
        namespace[statement.targets[0].id] = ast.literal_eval(statement.value)
    injected = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in given.items())
    found, wanted = Study.from_notebook({**namespace, **given, "In": ["", injected]}), Study.from_file(path)
    assert found == wanted
    assert [found.resolve(run) for run in found.runs] == [wanted.resolve(run) for run in wanted.runs]


@pytest.mark.slow
def test_make_lab_serves_this_machine_alone_and_asks_for_a_token(tmp_path):
    dry = subprocess.run(["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True)
    line = next(line for line in dry.stdout.splitlines() if "jupyter lab" in line).split()
    command = [sys.executable, "-m", "jupyter", *line[1:], "--no-browser", "--allow-root", "--ServerApp.port=0"]
    home = {"JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **home}, stdout=log, stderr=log)
    try:
        wait_for(lambda: list(tmp_path.glob("jpserver-*.json")), 100)
        facts = json.loads(next(tmp_path.glob("jpserver-*.json")).read_text())
        assert facts["hostname"] == "127.0.0.1"
        assert len(facts["token"]) >= 32
        contents = f"{facts['url']}api/contents"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(contents)
        with urllib.request.urlopen(f"{contents}?token={facts['token']}") as answer:
            assert answer.status == 200
    finally:
        server.terminate()
        server.wait()


@pytest.mark.timing
def test_a_hundred_runs_make_a_graph_in_seconds(tmp_path):
    sweep = {"training.lr": [0.01 * i for i in range(1, 11)], "model.width": [2 * i for i in range(1, 11)]}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump({"study": "many", "runs": {"a": {}}, "sweep": sweep}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path]
    command += ["--dry-run", "--quiet", "rules", "--cores", "2", "--config", f"study={tmp_path / 'many.yaml'}"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"train +100\b", done.stdout + done.stderr)
    assert time.monotonic() - start < 15


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


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("*/*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_importing_nclib_is_light():
    loaded = (
        "import sys, nclib; print([m for m in ('torch', 'matplotlib', 'ipywidgets', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_launcher_starts_without_torch():
    code = "import sys, nclib.study.launcher, nclib.study.study; print({'torch', 'nbformat'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_kernels_need_neither_plots_nor_widgets():
    code = (
        "import sys, nclib.losses, nclib.heads, nclib.metrics, nclib.features\n"
        "import nclib.theory, nclib.models, nclib.decode\n"
        "heavy = ('matplotlib', 'seaborn', 'ipywidgets', 'pandas', 'papermill', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
