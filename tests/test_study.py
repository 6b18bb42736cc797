"""Study files: what is accepted, and that every fault is named."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.datasets import CIFAR10, MNIST

from nclib.data import sources, stand_ins
from nclib.models import ARCHITECTURES, build_model
from nclib.study.cluster import JOBS
from nclib.study.parameters import Dataset, Training
from nclib.study.registry import SOURCES
from nclib.study.source_files import absent
from nclib.study.study import ParameterError, Study, merge

ROOT = Path(__file__).parent.parent
DIGITS = yaml.safe_load((ROOT / "params/mlab_digits.yaml").read_text())


def study(**changes):
    return {**copy.deepcopy(DIGITS), **changes}


def test_overrides_are_merged_over_the_sections():
    plan = Study.from_mapping(study())
    assert plan.resolve("learned").model.head == "learned"
    etf = plan.resolve("etf")
    assert (etf.model.head, etf.model.feature_dim, etf.model.width) == ("etf", 10, DIGITS["model"]["width"])


def test_defaults_are_the_settings_of_paper_1():
    settings = Training()
    assert (settings.optimizer, settings.lr, settings.momentum, settings.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
    assert (settings.feature_decay, settings.batch_size, settings.epochs, settings.schedule) == (
        1e-3,
        128,
        200,
        "cosine",
    )
    assert settings.min_lr_ratio == 1e-3
    assert settings.checkpoint_every == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"traning": {}}, r"traning: no such parameter; there are study, dataset"),
        ({"training": {"lrr": 1.0}}, r"training\.lrr: no such parameter; there are loss, "),
        ({"training": {"lr": "fast"}}, r"training\.lr: should be a valid number.*'fast'"),
        ({"training": {"lr": True}}, r"training\.lr: should be a valid number.*True"),
        ({"training": {"lr": -0.1}}, r"training\.lr: should be greater than 0, but got -0\.1"),
        ({"training": {"lr": float("nan")}}, r"training\.lr: should be a finite number"),
        ({"training": {"epochs": 1.5}}, r"training\.epochs: should be a valid integer, but got 1\.5"),
        ({"training": {"epochs": 0}}, r"training\.epochs: should be greater than or equal to 1"),
        ({"training": []}, r"training: should be a mapping, such as \{name: value\}, but got \[\]"),
        ({"training": None}, r"training: should be a mapping"),
        ({"runs": ["a"]}, r"runs: should be a mapping"),
        ({"runs": {True: {}}}, r"^runs: a name should be text, but got True: put it in quotes$"),
        ({"seeds": 3}, r"^seeds: should be a list, such as \[0, 1\], but got 3$"),
        ({"sweep": {"training.lr": 0.1}}, r"sweep\.training\.lr: should be a list"),
        ({"model": {"arch": "alexnet"}}, r"model\.arch: should be 'resnet18', .*'alexnet'"),
        ({"dataset": {"source": "imagenet"}}, r"dataset\.source: should be 'digits', .*'imagenet'"),
        ({"dataset": {**DIGITS["dataset"], "train_counts": {2: 5}}}, r"dataset\.train_counts: .*one label \(key 1\)"),
        ({"dataset": {**DIGITS["dataset"], "test_counts": {2: 2}}}, r"dataset\.test_counts: .*one label \(key 1\)"),
        (
            {"dataset": {**DIGITS["dataset"], "test_counts": {1: 2, 4: 1}}},
            r"dataset\.test_counts: .*between 1 and 3 .* got 4",
        ),
        ({"dataset": {"train_counts": {1: 5}}}, r"dataset\.train_counts: it needs a layout"),
        ({"dataset": {**DIGITS["dataset"], "sample_size": 5}}, r"dataset\.sample_size: it is for single-label data"),
        ({"dataset": {"source": "svhn", "class_counts": [5]}}, r"dataset\.class_counts: it is for single-label data"),
        ({"dataset": {"class_counts": [5, 0]}}, r"dataset\.class_counts: numbers of at least 1, without sample_size"),
        ({"model": {"head": "etf", "feature_dim": 8}}, r"feature_dim >= num_classes - 1 = 9, but got 8"),
        ({"runs": {}}, r"runs: .*at least 1 item"),
        ({"runs": {"a/b": {}}}, r"runs\.a/b: should match pattern"),
        ({"runs": {"figures": {}}}, r"runs\.figures: this name is taken"),
        ({"runs": {JOBS: {}}}, r"runs\.slurm: this name is taken"),
        ({"study": "theory"}, r"study: the name 'theory' is taken"),
        ({"study": "reference"}, r"study: the name 'reference' is taken"),
        ({"training": {"lr": 10**400}}, r"training\.lr: should be a valid number"),
        ({"runs": {"a": {"seeds": [1]}}}, r"runs\.a\.seeds: a run overrides dataset, .*, and has a label"),
        ({"runs": {"a": {"label": ""}}}, r"runs\.a\.label: should match pattern"),
        ({"runs": {"a": {}, "b": {"label": "a"}}}, r"runs\.b\.label: run 'a' is called 'a', too"),
        ({"runs": {"a": {"training": {"lr": 0}}}}, r"runs\.a\.training\.lr: should be greater than 0"),
        ({"seeds": []}, r"seeds: .*at least 1 item"),
        ({"seeds": [0, 1, 0]}, r"seeds: .*expected different seeds, but got \[0, 1, 0\]"),
        ({"sweep": {"seeds": [0, 1]}}, r"sweep\.seeds: expected a field such as training\.lr"),
        ({"seeds": [0.5]}, r"seeds\.0: should be a valid integer"),
        ({"study": "../up"}, r"study: should match pattern"),
        ({"sweep": {"lr": [1]}}, r"sweep\.lr: expected a field such as training\.lr"),
        ({"sweep": {"training.lr": []}}, r"sweep\.training\.lr: .*at least 1 item"),
        (
            {"runs": {"a": {}, "b": {"dataset": {"seed": 1}}}},
            r"runs\.b\.dataset\.name: runs 'a' and 'b' call their data set 'digits', but differ in dataset\.seed",
        ),
    ],
)
def test_faults_are_named(changes, message):
    with pytest.raises(ParameterError, match=message):
        Study.from_mapping(study(**changes))


SINGLE = {"source": "digits"}
PAIRS = {"source": "digits", "layout": "mnist", "train_counts": {1: 9}, "test_counts": {1: 3}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"dataset": PAIRS | {"pair_groups": [3, 0, 1]}},
            r"dataset\.pair_groups: .* at least 1, but got \[3, 0, 1\]",
        ),
        (
            {"dataset": PAIRS | {"pair_groups": [3, 1, 3]}},
            r"dataset\.pair_groups: .* different .*, but got \[3, 1, 3\]",
        ),
        (
            {"dataset": PAIRS | {"pair_groups": [3, 1]}},
            r"dataset\.pair_groups: .* 45 pairs .* equal groups, but got 2",
        ),
        (
            {"dataset": PAIRS | {"pair_groups": [3, 2, 1], "train_counts": {1: 9, 2: 4}}},
            r"dataset\.pair_groups: .*take key 2 out of train_counts",
        ),
        ({"dataset": SINGLE | {"pair_groups": [3, 2, 1]}}, r"dataset\.pair_groups: it needs a layout"),
        ({"dataset": PAIRS | {"source": "svhn"}}, r"dataset\.layout: the images of svhn have several labels already"),
        ({"dataset": {"source": "svhn", "random_labels": True}}, r"dataset\.random_labels: .*single-label data"),
        ({"dataset": SINGLE | {"normalization": "imagenet"}}, r"dataset\.normalization: 'imagenet' is for 3 channels"),
        ({"dataset": {"source": "svhn", "normalization": "mnist"}}, r"'mnist' is for 1 channels, but 'svhn' has 3"),
        ({"model": {"arch": "vgg16"}}, r"model\.arch: .* 32 x 32 pixels for arch 'vgg16', but got 8 x 8"),
        ({"dataset": PAIRS, "model": {"arch": "vgg19"}}, r"model\.arch: .* for arch 'vgg19', but got 16 x 16"),
        ({"model": {"depth": 4}}, r"model\.depth: Expected no depth for arch 'resnet18', .*, but got 4"),
        (
            {"model": {"arch": "wide_resnet", "depth": 27}},
            r"model\.depth: .* one of 8, 14, 20, 26, .*, but got 27",
        ),
        (
            {"model": {"arch": "wide_resnet", "depth": 2}},
            r"model\.depth: .* one of 8, 14, 20, 26, .*, but got 2\.",
        ),
        (
            {"model": {"arch": "mlp", "stem": "imagenet"}},
            r"model\.stem: .* arch 'mlp' to be 'small', but got 'imagenet'",
        ),
        ({"model": {"head": "etf", "width": 1}}, r"model\.feature_dim: .*num_classes - 1 = 9, but got 8"),
        ({"training": {"mse_k": 5.0}}, r"training\.mse_k: it is for loss 'rescaled_mse', but .*'cross_entropy'"),
        ({"training": {"loss": "mse", "mse_M": 5}}, r"training\.mse_M: it is for loss 'rescaled_mse', but .*'mse'"),
        ({"training": {"gamma": 1}}, r"training\.gamma: it is for loss 'focal'"),
        ({"training": {"loss": "focal", "smoothing": 0}}, r"training\.smoothing: it is for loss 'label_smoothing'"),
        (
            {"training": {"loss": "rescaled_mse", "label_mean": False}},
            r"training\.label_mean: loss 'rescaled_mse' has multi-hot targets",
        ),
        ({"training": {"schedule": "multistep"}}, r"training\.milestones: .* increasing epochs, but got \[\]"),
        (
            {"training": {"schedule": "multistep", "milestones": [3, 2]}},
            r"training\.milestones: .* increasing epochs, but got \[3, 2\]",
        ),
    ],
)
def test_what_cannot_go_together_is_refused_with_its_place(sections, message):
    with pytest.raises(ParameterError, match=message):
        Study.from_mapping({"study": "s", **sections, "runs": {"a": {}}})
    with pytest.raises(ParameterError, match=r"^runs\.a\.|\(run 'a'\)$"):
        Study.from_mapping({"study": "s", "runs": {"a": sections}})


@pytest.mark.parametrize(
    "sections",
    [
        {"dataset": PAIRS | {"pair_groups": [3, 2, 1]}},
        {"dataset": {"source": "svhn", "sample_size": 2, "normalization": "imagenet"}, "model": {"arch": "vgg16"}},
        {"dataset": SINGLE | {"image_size": 32}, "model": {"arch": "vgg16"}},
        {"dataset": PAIRS | {"image_size": 16}, "model": {"arch": "vgg16"}},
        {"dataset": {"source": "image_folder"}, "model": {"arch": "vgg16", "head": "etf", "feature_dim": 1}},
        {"model": {"arch": "wide_resnet", "depth": 14, "stem": "imagenet"}},
        {"model": {"arch": "mlp", "depth": 14}},
        {"training": {"loss": "rescaled_mse", "mse_k": 5, "mse_M": 2}},
        {"training": {"schedule": "multistep", "milestones": [3, 7]}},
    ],
)
def test_what_goes_together_is_accepted(sections):
    Study.from_mapping({"study": "s", **sections, "runs": {"a": {}}})


def test_the_tables_of_sources_and_networks_are_true(tmp_path, monkeypatch):
    monkeypatch.setenv("NCLIB_CACHE_ROOT", str(tmp_path / "cache"))
    stand_ins.write_mnist(tmp_path, per_class=2)
    stand_ins.write_cifar10(tmp_path, per_class=2)
    stand_ins.write_svhn(tmp_path, per_set=1)
    for name, known in SOURCES.items():
        if name != "image_folder":
            read = sources.load(name, root=tmp_path, train=False)
            assert (known.classes, known.channels, known.side) == (read.num_classes, *read.images.shape[1:3])
            assert known.is_multi_label == read.is_multi_label
            assert not absent(Dataset(source=name, root=str(tmp_path)))
            assert set(absent(Dataset(source=name, root="/nowhere"))) == {
                Path("/nowhere", archive) for archive, _ in known.archives.values()
            }
    assert SOURCES["mnist"].url in MNIST.mirrors
    assert [SOURCES["cifar10"].url + archive for archive, _ in SOURCES["cifar10"].archives.values()] == [CIFAR10.url]
    with torch.device("meta"):
        for arch, known in ARCHITECTURES.items():
            for width in (None, 16):
                model = build_model(arch, in_channels=1, num_classes=2, width=width, image_size=32)
                assert model.backbone.feature_dim == known.features(width)


def test_what_is_missing_is_named():
    with pytest.raises(ParameterError, match=r"^runs: it is missing$"):
        Study.from_mapping({"study": "x"})
    with pytest.raises(ParameterError, match="smoke: study 'x' does not say how to make it small; add"):
        Study.from_mapping({"study": "x", "dataset": SINGLE, "runs": {"a": {}}}, smoke=True)


def test_unknown_run_and_seed_are_named():
    plan = Study.from_mapping(study())
    with pytest.raises(ParameterError, match=r"run: study 'mlab_digits' has no run 'eft'; it has learned, etf"):
        plan.resolve("eft")
    with pytest.raises(ParameterError, match=r"seed: study 'mlab_digits' has no seed 7; it has 0"):
        plan.check_seed(7)
    with pytest.raises(ParameterError, match=r"seed: study 'mlab_digits' has no seed '0'; it has 0"):
        plan.check_seed("0")


@pytest.mark.parametrize("text", ["5e-4", "1E+2", "-3e0"])
def test_numbers_that_yaml_reads_as_text_are_numbers(text):
    assert isinstance(yaml.safe_load(text), str), "PyYAML has learned to read it: the conversion can go"
    plan = Study.from_mapping(study(training={"loss": "rescaled_mse", "mse_M": text.removeprefix("-")}))
    assert plan.resolve("etf").training.mse_M == abs(float(text))


def test_counts_may_have_text_keys():
    """papermill and JSON write {1: 10} as {"1": 10}."""
    changed = {**DIGITS["dataset"], "train_counts": {"1": 10}, "test_counts": {"1": 5}}
    assert Study.from_mapping(study(dataset=changed)).resolve("etf").dataset.train_counts == {1: 10}


def test_counts_are_replaced_not_merged():
    assert merge({"train_counts": {1: 5, 2: 3}}, {"train_counts": {1: 7}}) == {"train_counts": {1: 7}}


def test_sweep_multiplies_runs():
    plan = Study.from_mapping(study(sweep={"training.lr": [0.1, "1e-3"], "model.width": [4, 8]}))
    assert len(plan.runs) == 8
    chosen = plan.resolve("etf-lr=0.001-width=8")
    assert (chosen.training.lr, chosen.model.width, chosen.model.head) == (0.001, 8, "etf")


def test_a_run_is_called_by_its_label():
    runs = {"a": {}, "b": {"label": "MSE, learned", "training": {"loss": "mse"}}}
    plan = Study.from_mapping(study(runs=runs))
    assert [plan.resolve(run).label for run in runs] == ["a", "MSE, learned"]
    swept = Study.from_mapping(study(runs=runs, sweep={"model.width": [4]}))
    assert [swept.resolve(run).label for run in swept.runs] == ["a, width=4", "MSE, learned, width=4"]


def test_runs_of_a_sweep_have_names_that_tell_its_values_apart():
    plan = Study.from_mapping(study(runs={"a": {}}, sweep={"training.lr": [0.1, 0.1000001, 5.0e-4, 1.0e-5, 2]}))
    assert list(plan.runs) == ["a-lr=0.1", "a-lr=0.1000001", "a-lr=0.0005", "a-lr=1e-05", "a-lr=2"]
    assert [plan.resolve(run).training.lr for run in plan.runs] == [0.1, 0.1000001, 5e-4, 1e-5, 2]


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.1], [1, 1.0], ["1e-3", 0.001]])
def test_a_sweep_that_would_drop_a_run_is_refused(values):
    with pytest.raises(ParameterError, match=r"sweep: two runs would get the name 'etf-lr=\S+'"):
        Study.from_mapping(study(runs={"etf": {}}, sweep={"training.lr": values}))


def test_sweep_over_the_data_makes_data_sets_of_their_own():
    plan = Study.from_mapping(study(sweep={"dataset.seed": [0, 1]}))
    assert set(plan.datasets()) == {"digits-seed=0", "digits-seed=1"}


def test_smoke_has_a_name_of_its_own_and_may_keep_some_runs_only():
    small = {"training": {"epochs": 2}, "runs": ["etf"]}
    plan = Study.from_mapping(study(smoke=small), smoke=True)
    assert plan.study == "mlab_digits_smoke"
    assert list(plan.runs) == ["etf"]
    assert plan.resolve("etf").training.epochs == 2
    assert Study.from_mapping(study(smoke=small)).resolve("etf").training.epochs == DIGITS["training"]["epochs"]
    with pytest.raises(ParameterError, match=r"run: study 'mlab_digits' has no run 'x'"):
        Study.from_mapping(study(smoke={"runs": ["x"]}), smoke=True)
    with pytest.raises(ParameterError, match=r"smoke\.traning: no such parameter"):
        Study.from_mapping(study(smoke={"traning": {}}))


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("smoke", [False, True])
def test_every_study_that_comes_with_nclib_is_valid(path, smoke):
    plan = Study.from_file(path, smoke=smoke)
    assert plan.study == path.stem + ("_smoke" if smoke else "")
    assert plan.smoke.model_fields_set or not smoke, "a study needs smoke overrides"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [", r"not valid YAML"),
        ("just words", r"expected the sections of a study"),
        ("study: a\nstudy: b\n", r"not valid YAML .key 'study' is given twice"),
        ("study: !!python/object/apply:os.system ['true']", r"not valid YAML .*could not determine a constructor"),
        ("study: \x00", r"not valid YAML"),
        ("", r"expected the sections of a study .* but got NoneType"),
    ],
)
def test_files_that_are_no_study_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=rf"x\.yaml: {message}"):
        Study.from_file(path)


def test_missing_file_and_folder_are_refused_by_name(tmp_path):
    with pytest.raises(ParameterError, match=r"none\.yaml: there is no such study file"):
        Study.from_file(tmp_path / "none.yaml")
    with pytest.raises(ParameterError, match="cannot be read"):
        Study.from_file(tmp_path)


def test_a_study_comes_back_from_its_snapshot(tmp_path):
    for smoke in (False, True):
        study = Study.from_file(ROOT / "params/mlab_imbalanced.yaml", smoke=smoke)
        study.to_file(tmp_path / "study.yaml")
        again = Study.from_file(tmp_path / "study.yaml")
        assert [again.resolve(run) for run in again.runs] == [study.resolve(run) for run in study.runs]


def test_only_some_runs():
    study = Study.from_mapping(DIGITS | {"runs": {"a": {}, "b": {}, "c": {}}})
    assert list(study.only(["c", "a"]).runs) == ["c", "a"]
    assert study.only([]) == study
    with pytest.raises(ParameterError, match="has no run 'd'; it has a, b, c"):
        study.only(["d"])


def test_other_seeds_than_those_of_the_study():
    study = Study.from_mapping(DIGITS)
    run = next(iter(study.runs))
    assert study.seeded("2 0").seeds == study.seeded("2 0").resolve(run).seeds == (2, 0)
    assert study.seeded("") == study
    for seeds in ("1 1", "-1", "0,1", "one"):
        with pytest.raises(ParameterError, match=f"^seeds: .* but got '{seeds}'"):
            study.seeded(seeds)
