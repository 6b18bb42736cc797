"""`python -m nclib predict`: labels from a study or a file, tables for a terminal, and the picture."""

from pathlib import Path

import pytest
import torch

from nclib.__main__ import main
from nclib.data import dataset
from nclib.figures.counts import CountGeometry, threshold
from nclib.figures.predicted import PredictedGeometry
from nclib.results import expected
from nclib.study.folders import StudyFolder
from nclib.study.study import ParameterError, Study
from nclib.theory import certified_minimum

ROOT = Path(__file__).parents[1]
OWN = "labels,count\ncat,400\ndog,40\ncat;dog,30\nemu,2\nfox,2\ndog; cat,3\n"


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.csv").write_text(OWN)
    return tmp_path / "own.csv"


def test_labels_of_a_file(own):
    sets, names = expected.read_labels(own)
    assert names == ("cat", "dog", "emu", "fox")
    assert sets == {(0,): 400, (1,): 40, (0, 1): 33, (2,): 2, (3,): 2}
    own.write_text("labels\nemu\nfox\nemu\n")  # a line is a sample
    assert expected.read_labels(own)[0] == {(0,): 2, (1,): 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels,count\ncat,0\n", r"line 2: expected columns 'labels' .*'0'"),
        ("classes\ncat\n", r"line 2: expected columns 'labels'"),
        ("labels,count\ncat,7\n", r"at least 2 different labels, but got 1"),
    ],
)
def test_bad_files_are_refused(own, text, message, capsys):
    own.write_text(text)
    with pytest.raises(ParameterError, match=message):
        expected.read_labels(own)
    assert main(["predict", str(ROOT / "params/mlab_digits.yaml"), "--labels", str(own)]) == 2
    assert "own.csv" in capsys.readouterr().err


def test_own_labels_have_a_table_and_a_picture(own, tmp_path, capsys):
    study = str(ROOT / "params/mlab_mnist.yaml")
    assert main(["predict", study, "resnet18_learned", "--labels", str(own), "--outputs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-2])) <= 80
    assert "477 samples, 5 label sets, 4 classes" in printed
    assert next(line.split()[:2] for line in printed.splitlines() if "°" in line) == ["cat", "433"]
    assert (tmp_path / "mlab_mnist/predicted/resnet18_learned.png").is_file()


def test_built_data_decide_where_parameters_do_not(tmp_path, capsys):
    built, run = StudyFolder(tmp_path, "svhn"), Study.from_file(ROOT / "params/mlab_svhn.yaml").resolve("resnet18_etf")
    assert expected.labels_of(run, built) is None
    splits = dataset.build(source="digits", class_counts=[9, 8, 7, 6, 5, 4, 3, 2, 2, 1])
    splits.save(built.dataset(run.dataset.name) / dataset.FILE)
    assert expected.labels_of(run, built) == (splits.train.label_set_counts(), splits.class_names)
    assert 0 < expected.ceiling(run, built) < 1
    assert main(["predict", str(ROOT / "params/mse_digits.yaml"), "--outputs", str(tmp_path)]) == 1
    assert "no prediction" in capsys.readouterr().err


def test_the_picture_shows_the_minimum():
    sets, counts = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]), torch.tensor([90, 20, 5, 9])
    minimum = certified_minimum(sets, counts, weight_decay=1e-3, feature_decay=1e-3)
    display = PredictedGeometry(minimum, ["a", "b", "c"]).plot()
    shown = torch.as_tensor(display.axes_[1].images[0].get_array())
    torch.testing.assert_close(shown, minimum.angles_of_classifier().deg2rad().cos())
    assert [*display.axes_[2].lines[0].get_xdata()] == [99, 29, 5]
    assert display.axes_[3].lines[0].get_ydata() == pytest.approx([minimum.scales[2]])


def test_rare_classes_coincide_at_the_dotted_line():
    sets = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]])
    settings = {"weight_decay": 1e-2, "feature_decay": 1e-3}
    rare = threshold(1e-5, 2, 2 * 200)
    assert 6 < rare < 7
    collapse = {(1e-5, n): certified_minimum(sets[:4], torch.tensor([200, 200, n, n]), **settings) for n in (200, 7, 6)}
    several = certified_minimum(sets, torch.tensor([9, 8, 7, 6, 5, 4]), weight_decay=1e-3, feature_decay=1e-4)
    display = CountGeometry(collapse, {(2, 0): several}, {"CE": several}).plot()
    angles, dotted = display.axes_[0].lines
    assert angles.get_ydata()[1] > 5 and angles.get_ydata()[2] < 1e-3
    assert dotted.get_xdata()[0] == pytest.approx(200 / rare)
    assert display.axes_[1].lines[0].get_ydata() == [several.tag_wise()[1][4:].max()]
    assert f"{display.gap:.0e}" in display.caption("made")
