"""Every study that comes with nclib: its settings against the papers', and its smoke run through the real notebooks.

The notebooks' cells run in this process, without kernels (the tests of the chain have those), on small files in the
sources' own formats.
"""

import re
import shutil

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from nclib.data import stand_ins
from nclib.models import ARCHITECTURES
from nclib.results.metrics_table import of_metric, read_metrics
from nclib.study.parameters import Run
from nclib.study.study import Study
from tests.small_project import ROOT, run_cells

STUDIES = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))
SMALL = {name for name in STUDIES if re.search("digits|small", name)}  # of this project, for a laptop
WHOLE = (  # of each way from data to table one; settings and losses by themselves are tested where they are made
    "mlab_digits_imbalanced",  # composed; pairs of labels with other numbers
    "mlab_svhn",  # several labels as they are; as many runs per figure as groups
    "mse_optimizers",  # one label; first and second order
    "mse_rescaled_k",  # a folder of images
)

# What the two papers ran. Fields are unique to a section, so they stand without it; `d` is the width of the features.

COMMON = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "decay_on": "parameters",
    "batch_size": 128,
    "epochs": 200,
    "width": None,
    "arch": "resnet18",
    "head": "learned",
    "d": 512,
    "bias": True,
    "random_labels": False,
    "sample_size": None,
    "pair_groups": (),
    "seeds": (0,),
}
PAPER_1 = COMMON | {
    "loss": "cross_entropy",
    "label_mean": True,
    "lr": 0.1,
    "feature_decay": 1e-3,
    "feature_decay_mean": False,
    "schedule": "cosine",
    "min_lr_ratio": 1e-3,
    "checkpoint_every": 20,
    "stem": "small",
    "augment": False,
    "normalization": "unit",
}
MLAB = PAPER_1 | {"train_counts": {1: 3100, 2: 200}, "test_counts": {1: 800, 2: 50}}
MNIST, CIFAR10 = {"source": "mnist", "layout": "mnist"}, {"source": "cifar10", "layout": "cifar"}
PLAIN = COMMON | {  # paper 2 without its "SOTA" option
    "source": "cifar10",
    "layout": None,
    "normalization": "cifar10",
    "feature_decay": 0,
    "lr": 0.05,
    "schedule": "step",
    "step_size": 40,
    "lr_drop": 0.1,
    "checkpoint_every": 1,
    "stem": "imagenet",
    "augment": False,
}
SOTA = PLAIN | {"stem": "small", "augment": True}
MINI_IMAGENET = SOTA | {"loss": "rescaled_mse", "lr": 0.01, "source": "image_folder", "image_size": 84}
MINI_IMAGENET |= {"normalization": "imagenet", "test_fraction": pytest.approx(100 / 600, abs=1e-4), "split": "last"}


def networks(num_classes: int) -> dict:
    archs = {
        "resnet18": {},
        "resnet50": {"d": 2048, "feature_decay": 1e-4},
        "vgg16": {},
        "vgg19": {},
    }
    learned = {f"{arch}_learned": {"arch": arch} | more for arch, more in archs.items()}
    fixed = {f"{arch}_etf": {"arch": arch} | more | {"head": "etf", "d": num_classes} for arch, more in archs.items()}
    return learned | fixed


def two_sources(**more) -> dict:
    kinds = {"mnist": MNIST, "cifar10": CIFAR10}
    heads = {"learned": {}, "etf": {"head": "etf", "d": 10}}
    return with_small_decay({f"{k}_{h}": kind | head | more for k, kind in kinds.items() for h, head in heads.items()})


def with_small_decay(runs: dict[str, dict], *, of: str = "") -> dict[str, dict]:
    """Beside runs as released, this project's own at a feature decay that lets a fixed ETF reach an IoU near 1."""
    return runs | {f"{run}_small_decay": v | {"feature_decay": 2e-6} for run, v in runs.items() if run.startswith(of)}


OPTIMIZERS = {
    "sgd": {},
    "adam": {"optimizer": "adam", "lr": 1e-3},
    **{
        f"lbfgs_{size}": {"optimizer": "lbfgs", "lr": 0.1, "history_size": 10, "batch_size": size}
        for size in (512, 1024, 2048)
    },
}
LAST_LAYERS = {  # d = 512 without the released --fixdim, which the feature dimensions were all run with
    f"{head}_d{d}": {"head": head, "d": d, "feature_dim": fixdim}
    for head in ("learned", "etf")
    for d, fixdim in ((512, None), (10, 10))
}
DIMENSIONS = {f"d{d}": {"feature_dim": d, "d": d} for d in (5, 8, 9, 10, 512)}
MSE, CE = {"loss": "mse"}, {"loss": "cross_entropy"}
EXPERIMENTS: dict[str, tuple[dict, dict[str, dict]]] = {
    "mlab_mnist": (MLAB | MNIST, with_small_decay(networks(10), of="resnet18")),
    "mlab_cifar10": (MLAB | CIFAR10, with_small_decay(networks(10), of="resnet18")),
    "mlab_svhn": (
        PAPER_1 | {"source": "svhn", "layout": None, "normalization": "imagenet", "label_mean": False},
        networks(9),
    ),
    "mlab_imbalanced": (MLAB | {"train_counts": {1: 3100}}, two_sources(pair_groups=(500, 50, 5))),
    "mlab_triples": (MLAB | {"test_counts": {1: 800, 2: 50, 3: 5}}, two_sources(train_counts={1: 3100, 2: 200, 3: 20})),
    "mse_optimizers": (PLAIN | MSE, OPTIMIZERS),
    "mse_mnist": (
        PLAIN | MSE | {"source": "mnist", "normalization": "mnist", "image_size": 32},
        {
            "sgd": {"batch_size": 256},
            "adam": {"optimizer": "adam", "lr": 1e-3, "batch_size": 64},
            "lbfgs": {"optimizer": "lbfgs", "lr": 0.1, "history_size": 10, "batch_size": 2048},
        },
    ),
    "mse_etf": (SOTA | MSE, LAST_LAYERS),
    "mse_feature_dim": (SOTA | MSE, DIMENSIONS),
    "mse_rescaled_k": (MINI_IMAGENET | {"mse_M": 1}, {f"k{k}": {"mse_k": k} for k in (1, 5, 15, 20)}),
    "mse_rescaled_M": (MINI_IMAGENET | {"mse_k": 1}, {f"M{M}": {"mse_M": M} for M in (1, 3, 5, 7, 10)}),
    "ce_optimizers": (PLAIN | CE, OPTIMIZERS),
    "ce_etf": (SOTA | CE, LAST_LAYERS),
    "ce_feature_dim": (SOTA | CE, DIMENSIONS),
    "mse_random_labels": (  # depth and widths: not in the paper's page; ResNets of any width have the 3 x 3 stem
        PLAIN | MSE | {"random_labels": True, "lr": 0.01, "batch_size": 64, "weight_decay": 1e-4, "stem": "small"},
        {f"mlp_{w}": {"arch": "mlp", "depth": 4, "width": w, "d": w} for w in (256, 1024, 2048)}
        | {f"resnet18_{w}": {"width": w, "d": 8 * w} for w in (8, 32, 64)},
    ),
    "mse_feature_decay": (  # the features' decay: not in the paper's page
        PLAIN | MSE | {"batch_size": 64},
        {"on_parameters": {}, "on_features": {"decay_on": "features", "feature_decay": 1e-5}},
    ),
}


def settings_of(run: Run) -> dict:
    d = run.model.feature_dim or ARCHITECTURES[run.model.arch].features(run.model.width)
    return {**dict(run.dataset), **dict(run.model), **dict(run.training), "d": d, "seeds": run.seeds}


@pytest.mark.parametrize(("study", "run"), [(study, run) for study, (_, runs) in EXPERIMENTS.items() for run in runs])
def test_studies_have_the_settings_of_the_papers(study, run):
    common, runs = EXPERIMENTS[study]
    expected = common | runs[run]
    plan = Study.from_file(ROOT / f"params/{study}.yaml")
    assert set(plan.runs) == set(runs)
    found = settings_of(plan.resolve(run))
    assert {field: found[field] for field in expected} == expected


def test_every_study_is_of_a_paper_or_a_small_one():
    assert {*EXPERIMENTS, *SMALL} == set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_made_small(name):
    study = Study.from_file(ROOT / f"params/{name}.yaml", smoke=True)
    assert all(study.resolve(run).training.epochs <= 4 for run in study.runs)


def test_the_precision_study_is_the_default_one_but_for_its_precision():
    default, study = (
        Study.from_file(ROOT / "params/mlab_digits.yaml"),
        Study.from_file(ROOT / "benchmarks/precision.yaml"),
    )
    for run in study.runs:
        head, precision = run.split("_")
        expected, found = default.resolve(head), study.resolve(run)
        assert (found.dataset, found.model) == (expected.dataset, expected.model)
        same = {"checkpoint_every": expected.training.checkpoint_every, "precision": "auto"}
        assert found.training.precision == precision
        assert found.training.model_copy(update=same) == expected.training


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    stand_ins.write_cifar10(root)
    stand_ins.write_svhn(root, per_set=3)
    stand_ins.write_image_folder(root / "mini_imagenet", classes=5, per_class=12)
    return root


@pytest.fixture
def outputs(tmp_path, data_root, monkeypatch):
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(data_root))
    monkeypatch.setenv("NCLIB_CACHE_ROOT", str(tmp_path / "cache"))
    matplotlib.use("Agg")
    yield tmp_path / "outputs"
    plt.close("all")
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_study_runs_from_data_to_table(name, outputs, capsys):
    study = Study.from_file(ROOT / f"params/{name}.yaml", smoke=True)
    study = study.only([next(iter(study.runs)), next(reversed(study.runs))])
    study.to_file(outputs / "study.yaml")
    given = {"study": str(outputs / "study.yaml"), "outputs": str(outputs)}
    for dataset in study.datasets():
        run = next(run for run in study.runs if study.resolve(run).dataset.name == dataset)
        run_cells("01_dataset", given | {"run": run})
    for run in study.runs:
        for seed in study.seeds:
            run_cells("02_train", given | {"run": run, "seed": seed})
            run_cells("03_validate", given | {"run": run, "seed": seed})
    run_cells("04_figures", given)
    folder = outputs / study.study
    again, before = next(iter(study.runs)), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    run_cells("02_train", given | {"run": again, "seed": 0})
    assert f"{again}/seed0/02_train: already done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "by hand it costs no training"
    table = pd.read_csv(folder / "table.csv")
    assert list(table["run"]) == list(study.runs)
    metrics = read_metrics(folder / next(iter(study.runs)) / "seed0/metrics.csv")
    for split in ("train", "test"):
        nc1 = of_metric(metrics, "nc1", split=split)
        assert list(nc1["epoch"]) == list(metrics["epoch"].unique())
        assert nc1["value"].gt(0).all()
    made = {path.name for path in (folder / "figures").iterdir()}
    assert {"collapse.pdf", "collapse.png", "gram.pdf", "scores.pdf"} <= made
    assert ("imbalance.pdf" in made) == (name == "mlab_digits_imbalanced")
    assert ("collapse_released.pdf" in made) == name.startswith("mlab")
    assert ("margins.pdf" in made) == name.startswith(("mse", "ce"))
