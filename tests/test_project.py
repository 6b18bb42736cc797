"""The project's own files agree with each other."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

from nclib.study.stage import PARAMETERS
from nclib.study.study import Study

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGES = [path for path in NOTEBOOKS if not path.name.startswith("00")]


def parameters_cell(path: Path) -> str:
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata.get("tags", ()), "the first code cell holds the parameters"
    return code[0].source


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_parameters_are_literals_with_their_meaning(path):
    """One a line, so that papermill can list them and a reader can change them."""
    source = parameters_cell(path)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}
    assert {"study", "outputs"} <= set(values) <= set(PARAMETERS)
    assert Study.from_file(ROOT / values["study"]).study == "mlab_digits"
    for line in source.splitlines():
        assert re.fullmatch(r"\w+ = [^=|]+  # [^=|]+", line), line


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


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        made = target.startswith("made/")  # by `make docs`: tests/test_docs.py knows them
        assert made or (path.parent / target).exists(), target


def test_contributing_names_files_and_functions_that_there_are():
    """Each name in backquotes is a file, or is defined or written in one of the files its paragraph names."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for paragraph in re.split(r"\n\n", text.split("## Where to find")[1].split("## Tests")[0]):
        quoted = re.findall(r"`([^`]+)`", paragraph)
        files = [ROOT / name for name in quoted if "/" in name]
        assert [file for file in files if not file.exists()] == []
        sources = "".join(file.read_text() for file in files if file.is_file())
        names = [re.match(r"[\w.]+", name)[0].split(".") for name in quoted if "/" not in name]
        assert [name for name in names if not all(re.search(rf"\b{part}\b", sources) for part in name)] == []
