"""README.md, docs/collapse.md and the scripts of docs/examples, these on small stand-ins of their data."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from nclib.data import stand_ins

EXAMPLES = Path(__file__).parent.parent / "docs/examples"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    stand_ins.write_mnist(tmp_path / "data", per_class=4)
    torch.manual_seed(0)


def test_an_mnist_network_is_measured_end_to_end():
    found = runpy.run_path(EXAMPLES / "mnist_network.py")["found"]
    assert {"nc1", "test_nc4", "nc5"} <= set(found.scalars)
    lines = (EXAMPLES / "mnist_network.py").read_text().split("\n\n", 1)[1].splitlines()
    training = ("optimizer", "for", " ")
    assert len([line for line in lines if line and not line.startswith(training)]) <= 10


def test_a_resnet_is_measured_layer_by_layer(tmp_path):
    found = runpy.run_path(EXAMPLES / "resnet_layers.py")["found"]
    assert list(found.layers) == ["layer1", "layer2", "layer3", "layer4"]
    assert (tmp_path / "layers.png").stat().st_size > 10_000


def test_the_snippets_of_the_page():
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "collapse.md").read_text(), re.DOTALL):
        exec(snippet, names)  # noqa: S102
    assert names["values"]["nc1"] == pytest.approx(names["found"].scalars["nc1"], rel=1e-4)
    assert [row["epoch"] for row in names["monitor"].history] == [1, 2]


def test_the_snippet_of_the_readme():
    (snippet,) = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent.parent / "README.md").read_text(), re.DOTALL)
    assert len(snippet.splitlines()) <= 12
    exec(snippet, {})  # noqa: S102
