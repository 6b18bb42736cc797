"""The default study at its full size: what the README promises of it."""

import pytest

from nclib.results.metrics_table import read_metrics, wide
from nclib.study.study import Study
from tests.small_project import ROOT, Project


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_collapse_is_visible_in_both_runs(tmp_path):
    project = Project(tmp_path)
    file = ROOT / "params" / "mlab_digits.yaml"
    done = project.run(study=file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "decays: learned 0.999, etf 0.997" in done.stderr
    for run in Study.from_file(file).runs:
        folder = tmp_path / "outputs/mlab_digits" / run / "seed0"
        metrics = read_metrics(folder / "metrics.csv")
        train = wide(metrics[metrics["split"] == "train"], ["epoch"])
        first, last = train.iloc[0], train.iloc[-1]
        assert last["soft_iou"] >= 0.99, run
        assert last["nc1"] <= first["nc1"] / 30, run
        assert last["tag_wise_ratio_2"] < first["tag_wise_ratio_2"], run
        for name in ("nc2_h_centered", "nc3_centered"):
            assert last[name] < first[name], (run, name)
