"""The default study at its full size: what the README promises of it."""

import pandas as pd
import pytest

from nclib.study.study import Study
from tests.small_project import ROOT, Project


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_collapse_is_visible_in_both_runs(tmp_path):
    project = Project(tmp_path)
    file = ROOT / "params" / "mlab_digits.yaml"
    done = project.run(study=file)
    assert done.returncode == 0, done.stdout + done.stderr
    for run in Study.from_file(file).runs:
        folder = tmp_path / "outputs/mlab_digits" / run / "seed0"
        metrics = pd.read_csv(folder / "metrics.csv")
        train = metrics[metrics["split"] == "train"]
        table = train.pivot_table(index="epoch", columns="metric", values="value").sort_index()
        first, last = table.iloc[0], table.iloc[-1]
        assert last["soft_iou"] >= 0.99, run
        assert last["nc1"] <= first["nc1"] / 30, run
        assert last["tag_wise_ratio"] < first["tag_wise_ratio"], run
        for name in ("nc2_h_centered", "nc3_centered"):
            assert last[name] < first[name], (run, name)
