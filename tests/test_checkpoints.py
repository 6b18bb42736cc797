"""docs/checkpoints.md: its snippets, on small checkpoints in the released codes' formats."""

import argparse
import re
from pathlib import Path

import torch

from nclib.data import stand_ins
from nclib.models import build_model

PAGE = (Path(__file__).parent.parent / "docs/checkpoints.md").read_text()
SMALLER = {  # the page's networks and data sets are those of the papers
    'build_model("resnet18"': 'build_model("resnet18", width=2',
    "{1: 3100, 2: 200}": "{1: 6, 2: 1}",
    "{1: 800, 2: 50}": "{1: 1}",
    'source="cifar10"': 'source="cifar10", sample_size=6',
}


def released_state(**options):
    """A state dict with the released names, from a network with other weights than `build_model` gives by default."""
    generator = torch.Generator().manual_seed(5)
    model = build_model("resnet18", num_classes=10, width=2, generator=generator, **options)
    return {name.removeprefix("backbone.").replace("head.", "fc."): v for name, v in model.state_dict().items()}


def test_the_snippets_measure_checkpoints_of_both_papers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(tmp_path))
    stand_ins.write_cifar10(tmp_path, per_class=6)
    stand_ins.write_mnist(tmp_path, per_class=6)
    second = released_state(in_channels=3, feature_dim=512)
    assert "layer4.1.downsample.0.weight" in second
    torch.save(second, "epoch_200.pth")
    first = released_state(in_channels=1, head="etf", feature_dim=10)
    arguments = argparse.Namespace(arch="resnet18", etf=True, fix_dim=True, device=torch.device("cpu"))
    torch.save({"args": arguments, "epoch": 199, "state_dict": first, "test_acc": 0.5}, "model_last.pth")
    names = {}
    for snippet, state in zip(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), (second, first), strict=True):
        for paper, small in SMALLER.items():
            snippet = snippet.replace(paper, small)
        exec(snippet, names)  # noqa: S102
        assert torch.equal(names["model"].head.weight, state["fc.weight"])
        assert names["values"]["nc1"] > 0


def test_the_counts_of_the_page_are_those_of_the_networks():
    with torch.device("meta"):
        fixed, plain = (build_model("resnet18", in_channels=3, num_classes=10, feature_dim=d) for d in (512, None))
    counts = [f"{sum(p.numel() for p in model.parameters()):,}" for model in (fixed, plain)]
    assert f"{counts[0]}\ntrainable parameters with `--fixdim 512` and {counts[1]} without" in PAGE
