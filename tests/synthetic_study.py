"""Made-up results of a study in the true file formats, for tests of what reads them (figures, tables, explorer).

Nothing is trained: class means and classifier walk from random vectors to a simplex ETF, and the metrics follow from
them or fall along smooth curves. Runs and seeds differ a little, so that lines and bands can be told apart.

    study = Study.from_mapping(MULTI_LABEL)
    folder = write_study(tmp_path / "outputs", study)   # -> StudyFolder
"""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nclib.data import dataset
from nclib.data.compose import MultiLabelData
from nclib.data.dataset import Splits
from nclib.results.geometry import Geometry
from nclib.results.metrics_table import long
from nclib.study.folders import StudyFolder
from nclib.study.parameters import Run
from nclib.study.stage import Stage
from nclib.study.study import Study

MULTI_LABEL = {
    "study": "made_multi",
    "dataset": {
        "name": "digits",
        "source": "digits",
        "layout": "mnist",
        "train_counts": {1: 20, 2: 4},
        "test_counts": {1: 6, 2: 1},
    },
    "model": {"arch": "resnet18", "width": 16},
    "training": {"epochs": 60, "checkpoint_every": 5},
    "seeds": [0, 1],
    "runs": {"learned": {}, "etf": {"model": {"head": "etf", "feature_dim": 10}}},
}
IMBALANCED = {
    **MULTI_LABEL,
    "study": "made_imbalanced",
    "dataset": {**MULTI_LABEL["dataset"], "train_counts": {1: 20}, "pair_groups": [20, 8, 2]},
}
TRIPLES = {
    **MULTI_LABEL,
    "study": "made_triples",
    "dataset": {**MULTI_LABEL["dataset"], "train_counts": {1: 20, 2: 4, 3: 1}, "test_counts": {1: 6, 2: 1, 3: 1}},
    "seeds": [0],
}
SINGLE_LABEL = {
    "study": "made_single",
    "dataset": {"name": "cifar10", "source": "cifar10"},
    "model": {"arch": "resnet18"},
    "training": {"epochs": 40, "checkpoint_every": 4, "loss": "mse"},
    "seeds": [0, 1, 2],
    "runs": {
        "sgd": {},
        "adam": {"training": {"optimizer": "adam", "lr": 1e-3}},
        "lbfgs": {"training": {"optimizer": "lbfgs", "lr": 0.1}},
    },
}
MANY_RUNS = {
    **MULTI_LABEL,
    "study": "made_many",
    "dataset": {**MULTI_LABEL["dataset"], "name": "svhn", "source": "svhn", "layout": None, "train_counts": {}}
    | {"test_counts": {}},
    "seeds": [0],
    "runs": {
        f"{arch}_{head}": {"model": {"arch": arch, "width": None, "head": head} | dim}
        for arch in ("resnet18", "resnet50", "vgg16", "vgg19")
        for head, dim in (("learned", {}), ("etf", {"feature_dim": 9}))
    },
}

TRAINABLE = {
    "resnet18": (11_173_962, 8_859_762),
    "resnet50": (23_520_842, 22_473_330),
    "vgg16": (14_728_266, 12_408_424),
    "vgg19": (20_040_522, 17_720_680),
}
FEATURE_SAMPLE = 120
GEOMETRY = "geometry.safetensors"


def write_study(outputs: str | Path, study: Study) -> StudyFolder:
    """Write data sets, histories, metrics, geometries and manifests of every run and seed of `study`.

    Args:
        outputs: an absolute folder; the study gets a folder of its own in it.
        study: any checked study; sources other than the digits get made-up images.
    """
    splits = {}
    for name, settings in study.datasets().items():
        fields = settings.model_dump()
        splits[name] = dataset.build(**fields) if settings.source == "digits" else made_images(fields)
        run = next(run for run in study.runs if study.resolve(run).dataset.name == name)
        Stage("01_dataset", study, run=run, outputs=outputs).save({dataset.FILE: splits[name]})
    for run in study.runs:
        for seed in study.seeds:
            write_run(study, run, seed, splits[study.resolve(run).dataset.name], outputs)
    return StudyFolder(outputs, study.study)


def made_images(fields: dict, *, size: int = 32) -> Splits:
    """Images of colored bars, one bar a label; single-label for `cifar10`, up to three labels for `svhn`."""
    multi = fields["source"] == "svhn"
    K = 9 if multi else 10
    generator = torch.Generator().manual_seed(3)
    popularity = torch.linspace(1, 0.35, K)

    def split(n: int) -> MultiLabelData:
        labels = torch.zeros(n, K, dtype=torch.uint8)
        for row in range(n):
            m = 1 + row % 3 if multi else 1
            picked = torch.multinomial(popularity, m, generator=generator) if multi else torch.tensor([row % K])
            labels[row, picked] = 1
        images = torch.randint(30, 60, (n, 3, size, size), dtype=torch.uint8, generator=generator)
        for row, label in labels.nonzero().tolist():
            left = 2 + label * 3
            images[row, label % 3, 6 : size - 6, left : left + 3] = 220
        index = torch.full((n, 3 if multi else 1), -1)
        index[:, 0] = torch.arange(n)
        names = tuple(str(k + 1) for k in range(K)) if multi else tuple(f"class {k}" for k in range(K))
        return MultiLabelData(images, labels, index, names)

    train, test = split(600), split(200)
    channels = ((0.5,) * 3, (0.25,) * 3)
    return Splits(train, test, *channels, train.class_names, fields["name"])


def write_run(study: Study, name: str, seed: int, splits: Splits, outputs: str | Path) -> None:
    """Write what stages 02_train and 03_validate leave for one run and seed."""
    run = study.resolve(name)
    etf = run.model.head == "etf"
    d = run.model.feature_dim or 32
    rng = np.random.default_rng([zlib.crc32(run.run.encode()), seed])
    pace = rng.uniform(0.8, 1.4) * (1.2 if etf else 1.0)
    epochs = sorted({*range(0, run.training.epochs + 1, run.training.checkpoint_every), run.training.epochs})
    geometry = made_geometry(splits, epochs, d=d, etf=etf, pace=pace, rng=rng)
    metrics = made_metrics(run, geometry, pace=pace, rng=rng)
    history = made_history(run, metrics, pace=pace, rng=rng)
    save_run(study, name, seed, outputs, {"history.csv": history}, {"metrics.csv": metrics, GEOMETRY: geometry})


def save_run(study: Study, run: str, seed: int, outputs: str | Path, trained: dict, measured: dict) -> None:
    """Save some results of stages 02_train and 03_validate, with their manifests."""
    arch, head = study.resolve(run).model.arch, study.resolve(run).model.head
    trainable = TRAINABLE.get(arch, (701_000, 556_000))[head == "etf"]
    for name, files, facts in (
        ("02_train", trained, {"trainable_parameters": trainable}),
        ("03_validate", measured, {}),
    ):
        Stage(name, study, run=run, seed=seed, outputs=outputs).save(files, **facts)


def progress(epochs: np.ndarray, last: int, pace: float) -> np.ndarray:
    """How far the collapse has gone at each epoch, from 0 to nearly 1."""
    return 1 - np.exp(-5 * pace * np.asarray(epochs) / last)


def simplex(K: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """K x d, d >= K: unit rows of a simplex ETF in a random orientation."""
    basis = np.linalg.qr(rng.standard_normal((d, K)))[0].T
    return np.sqrt(K / (K - 1)) * (np.eye(K) - 1 / K) @ basis


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosines(rows: np.ndarray) -> np.ndarray:
    centered = unit(rows - rows.mean(0))
    return centered @ centered.T


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = unit(a), unit(b)
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))


def made_geometry(
    splits: Splits, epochs: list[int], *, d: int, etf: bool, pace: float, rng: np.random.Generator
) -> Geometry:
    """A last layer that falls onto a simplex ETF, with the features of a sample around their label sets' means."""
    labels = splits.train.labels.numpy()
    K = labels.shape[1]
    sets, counts = np.unique(labels, axis=0, return_counts=True)
    order = np.lexsort((*(-sets[:, ::-1].T.astype(int)), sets.sum(1)))  # by multiplicity, then by labels
    sets, counts = sets[order], counts[order]
    sizes = sets.sum(1)
    target, offset = simplex(K, d, rng), rng.standard_normal(d)
    noise = {name: rng.standard_normal((len(rows), d)) / np.sqrt(d) for name, rows in (("mu", target), ("W", target))}
    set_noise, pull = rng.standard_normal((len(sets), d)) / np.sqrt(d), 1 / np.sqrt(np.maximum(counts, 1))
    sample = np.sort(rng.choice(len(labels), min(FEATURE_SAMPLE, len(labels)), replace=False))
    sample_noise = rng.standard_normal((len(sample), d)) / np.sqrt(d)
    single = labels[labels.sum(1) == 1].argmax(1)
    single_noise = rng.standard_normal((len(single), d)) / np.sqrt(d)
    found = {tuple(row): place for place, row in enumerate(sets)}
    rows = {name: [] for name in ("mu", "W", "b", "sets", "angles", "scales", "margins", "features")}
    for t in progress(np.array(epochs), epochs[-1], pace):
        mu = 0.3 * (1 - t) * offset + t * 4 * target + (1 - t) * noise["mu"]
        W = target if etf else (0.2 + t) * target + 0.8 * (1 - t) * noise["W"]
        means = np.empty((len(sets), d))
        scales = np.full(sizes.max(), np.nan)
        angles = np.zeros(len(sets))
        for m in range(1, sizes.max() + 1):
            chosen = sizes == m
            scales[m - 1] = 1.0 if m == 1 else 0.62 * 1.1 ** (2 - m) * (0.5 + 0.5 * t)
            sums = sets[chosen] @ mu
            means[chosen] = scales[m - 1] * sums
            if m > 1:
                means[chosen] += (1.2 * (1 - t) + 0.6 * pull[chosen, None]) * set_noise[chosen]
                angles[chosen] = degrees(means[chosen], sums)
        spread = 1.0 * (1 - t) + 0.05
        h = mu[single] + spread * single_noise
        centered = h - mu.mean(0)
        c = centered @ unit(W - W.mean(0)).T / np.linalg.norm(centered, axis=1, keepdims=True)
        own = c[np.arange(len(h)), single]
        c[np.arange(len(h)), single] = -np.inf
        places = [found[tuple(row)] for row in labels[sample]]
        for name, value in (
            ("mu", mu),
            ("W", W),
            ("b", 0.1 * (1 - t) * rng.standard_normal(K)),
            ("sets", means),
            ("angles", angles),
            ("scales", scales),
            ("margins", np.sort(own - c.max(1))),
            ("features", means[places] + spread * sample_noise),
        ):
            rows[name].append(value)

    def stack(name: str) -> torch.Tensor:
        return torch.tensor(np.stack(rows[name]), dtype=torch.float32)

    return Geometry(
        class_names=splits.class_names,
        epochs=torch.tensor(epochs),
        label_sets=torch.tensor(sets),
        counts=torch.tensor(counts),
        class_means=stack("mu"),
        global_mean=stack("mu").mean(1),
        set_means=stack("sets"),
        weight=stack("W"),
        bias=stack("b"),
        gram_features=torch.tensor(np.stack([cosines(mu) for mu in rows["mu"]]), dtype=torch.float32),
        gram_weight=torch.tensor(np.stack([cosines(W) for W in rows["W"]]), dtype=torch.float32),
        angles=stack("angles"),
        scales=stack("scales"),
        margins=stack("margins"),
        sample_index=torch.tensor(sample),
        sample_labels=torch.tensor(labels[sample]),
        sample_features=stack("features"),
    )


def distance_to_etf(product: np.ndarray) -> float:
    """|A/|A|_F - T|_F with T the unit-norm Gram matrix of the simplex ETF."""
    K = len(product)
    return float(np.linalg.norm(product / np.linalg.norm(product) - (np.eye(K) - 1 / K) / np.sqrt(K - 1)))


def made_metrics(run: Run, geometry: Geometry, *, pace: float, rng: np.random.Generator) -> pd.DataFrame:
    """The long table of `metrics.csv`, with the metrics of `nclib.metrics.measure`."""
    sizes = geometry.label_sets.sum(1).numpy()
    multiplicities = range(2, sizes.max() + 1)
    groups = {int(n): geometry.counts.numpy() == n for n in run.dataset.pair_groups}
    table = []
    for place, epoch in enumerate(geometry.epochs.tolist()):
        t = float(progress(epoch, geometry.epochs[-1].item(), pace))
        mu, W = geometry.class_means[place].double().numpy(), geometry.weight[place].double().numpy()
        angles = geometry.angles[place].double().numpy()
        for split, gap in (("train", 0.0), ("test", 0.06)):
            wobble = 1 + 0.03 * rng.standard_normal()
            score = min(1.0, (0.3 + 0.7 * t) * (1 - gap))
            nc1 = (2.5 * np.exp(-6.5 * t) + gap * 0.8) * wobble
            row = {"nc1": nc1, "nc1_quotient": 0.9 * nc1, "nc1_cdnv": 0.05 * nc1}
            row |= {"nc2_w": distance_to_etf(W @ W.T), "nc2_h": distance_to_etf(mu @ mu.T)}
            W_c, mu_c = W - W.mean(0), mu - mu.mean(0)
            row |= {"nc2_w_centered": distance_to_etf(W_c @ W_c.T), "nc2_h_centered": distance_to_etf(mu_c @ mu_c.T)}
            row |= {"nc3": distance_to_etf(W @ mu_c.T), "nc3_centered": distance_to_etf(W_c @ mu_c.T)}
            row |= dict.fromkeys(("equinorm_w", "equinorm_h", "equiangle_w", "equiangle_h"), 0.2 * (1 - t) * wobble)
            row |= {"nc4": 0.3 * (1 - t), "bias_residual": 1.5 * (1 - t) * wobble + 1e-3}
            row |= {"nuclear_over_frobenius": 1 + 1.8 * (1 - t), "cosine_margin_mean": 1.11 * score}
            by_labels = {}
            for m in multiplicities:
                own = angles[sizes == m]
                base = 40 + 3 * rng.standard_normal()
                by_labels |= {("tag_wise_angle_mean", m): own.mean(), ("tag_wise_angle_max", m): own.max()}
                by_labels |= {("tag_wise_ratio", m): own.mean() / base, ("tag_wise_residual", m): 0.4 * (1 - t)}
                by_labels["tag_wise_scale", m] = geometry.scales[place, m - 1].item()
            for n, chosen in groups.items() if split == "train" else ():
                by_labels["imbalance_ratio", n] = angles[chosen & (sizes == 2)].mean() / 40
            row |= {"soft_iou": score, "jaccard": min(1.0, score * 1.01), "subset_accuracy": score * 0.98}
            row |= {"top1": score, "top5": min(1.0, 0.6 + 0.4 * score)}
            if split == "test" and len(multiplicities):
                row |= {"onn_jaccard": score * 0.985, "onn_subset_accuracy": score * 0.96}
                row |= {"threshold_jaccard": score * 0.95, "threshold_subset_accuracy": score * 0.9}
            row |= {"released_nc1": nc1 * 1.4, "released_nc3": row["nc3"] * 1.05}
            table += [(epoch, split, metric, None, value) for metric, value in row.items()]
            table += [(epoch, split, *key, value) for key, value in by_labels.items()]
    return long(table)


def made_history(run: Run, metrics: pd.DataFrame, *, pace: float, rng: np.random.Generator) -> pd.DataFrame:
    """One row an epoch."""
    last = run.training.epochs
    epochs = np.arange(1, last + 1)
    t = progress(epochs, last, pace)
    score = np.clip(0.3 + 0.7 * t + 0.01 * rng.standard_normal(last), 0, 1)
    lr = run.training.lr * (1e-3 + (1 - 1e-3) * (1 + np.cos(np.pi * (epochs - 1) / last)) / 2)
    return pd.DataFrame(
        {
            "epoch": epochs,
            "lr": lr,
            "train_loss": 0.2 + 2.1 * np.exp(-6 * t),
            "train_feature_decay": 0.4 * t + 0.05,
            "train_soft_iou": score,
            "train_accuracy": score,
            "test_loss": 0.35 + 2.0 * np.exp(-5 * t),
            "test_soft_iou": 0.94 * score,
            "test_accuracy": 0.94 * score,
            "seconds": 1.5 + 0.1 * rng.random(last),
        }
    )
