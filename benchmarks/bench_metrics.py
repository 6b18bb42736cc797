"""How fast the metrics are against a dense implementation and against reading the features.

For each problem, in milliseconds (median of `--repeats`, all columns of a row from one run, taken in turns):

    reads     two plain reads of the features, `H.sum()` twice
    dense     nc1 by d x d covariances, accumulated class by class, and a pseudo-inverse
    nc1       `nclib.metrics.nc1`
    measure   `nclib.metrics.measure` with `nuclear_norm=False`: every scalar but one
    default   `nclib.metrics.measure` as it comes, the faster of two runs

`bandwidth` is the share of the copy bandwidth that `nc1` achieves: the two reads of the features that it must do, over
its time, against the bytes that `copy_` of the features moves (as many: a read and a write), over its time.

    python benchmarks/bench_metrics.py --threads 2 --csv outputs/bench_metrics.csv
"""

import argparse
import csv
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nclib import metrics

NUM_SAMPLES = 40_000
NUM_PAIRS = 45


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print(f"{describe(device)}; torch {torch.__version__}; float32, N = {NUM_SAMPLES:,}")
    print(
        f"{'d':>5} {'K':>5} {'pairs':>5} | {'reads':>8} {'dense':>9} {'nc1':>8} {'measure':>8} {'default':>9} |"
        " dense/nc1  bandwidth  nc1/reads  measure/reads  default/reads"
    )
    rows = []
    for dim, num_classes, num_pairs in itertools.product(arguments.dims, arguments.classes, (0, NUM_PAIRS)):
        row = {"d": dim, "K": num_classes, "pairs": num_pairs}
        row |= time_problem(draw_problem(dim, num_classes, num_pairs, device=device), arguments)
        rows.append(row)
        print_row(row)
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 2048], help="feature dimensions d")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000], help="numbers of classes K")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs, of which the median is shown")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-nuclear", action="store_true", help="leave out the column `default`")
    parser.add_argument("--csv", type=Path, help="file for the table")
    return parser.parse_args()


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def draw_problem(dim: int, num_classes: int, num_pairs: int, *, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Features around class means, labels (ids, or multi-hot with half of the samples in pairs), and a weight."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_classes, dim, generator=generator)
    labels = torch.arange(NUM_SAMPLES) % num_classes
    members = torch.nn.functional.one_hot(labels, num_classes).to(torch.uint8)
    if num_pairs:
        pairs = torch.tensor(list(itertools.islice(itertools.combinations(range(num_classes), 2), num_pairs)))
        chosen = pairs[torch.arange(NUM_SAMPLES // 2) % num_pairs]
        members[NUM_SAMPLES // 2 :] = 0
        members[NUM_SAMPLES // 2 :].scatter_(1, chosen, 1)
    order = torch.randperm(NUM_SAMPLES, generator=generator)
    features = torch.randn(NUM_SAMPLES, dim, generator=generator)
    for rows in torch.arange(NUM_SAMPLES).split(2000):
        features[rows] += members[order[rows]].float() @ means
    given = members[order] if num_pairs else labels[order]
    return features.to(device), given.to(device), means.to(device)


def time_problem(problem: tuple[Tensor, Tensor, Tensor], arguments: argparse.Namespace) -> dict[str, float]:
    features, labels, weight = problem
    copy = torch.empty_like(features)
    functions = {
        "copy": lambda: copy.copy_(features),
        "reads": lambda: (features.sum(), features.sum()),
        "nc1": lambda: metrics.nc1(features, labels),
        "measure": lambda: metrics.measure(features, labels, weight, nuclear_norm=False),
    }
    times = {name: [] for name in functions}
    for repeat in range(arguments.repeats + 1):
        for name, function in functions.items():
            seconds = time_once(function, features.device)
            if repeat > 0:  # the first round warms up
                times[name].append(seconds)
    result = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    # slow enough for few runs
    dense = [time_once(lambda: dense_nc1(features, labels, weight), features.device) for _ in range(3)]
    result["dense"] = 1e3 * statistics.median(dense)
    if not arguments.no_nuclear:
        default = [time_once(lambda: metrics.measure(features, labels, weight), features.device) for _ in range(2)]
        result["default"] = 1e3 * min(default)
    check(features, labels, weight)
    return result


def time_once(function: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def dense_nc1(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """The usual way: `Sigma_W` and `Sigma_B` as d x d matrices, then `torch.linalg.pinv` as it comes."""
    num_classes, dim = weight.shape
    if labels.ndim == 2:
        single = labels.sum(dim=1) == 1
        features, labels = features[single], labels[single].argmax(dim=1)
    within = features.new_zeros(dim, dim)
    means = features.new_zeros(num_classes, dim)
    for k in range(num_classes):
        rows = features[labels == k]
        means[k] = rows.mean(dim=0)
        deviations = rows - means[k]
        within += deviations.T @ deviations
    deviations = means - means.mean(dim=0)
    between = deviations.T @ deviations / num_classes
    inverse = torch.linalg.pinv(between, rtol=1e-5)
    return (within / len(features) * inverse).sum() / num_classes


def check(features: Tensor, labels: Tensor, weight: Tensor) -> None:
    """Fast numbers must be right ones."""
    ours, dense = float(metrics.nc1(features, labels)), float(dense_nc1(features, labels, weight))
    if abs(ours - dense) > 1e-3 * dense:
        sys.exit(f"nc1 is {ours}, but the dense way gives {dense}.")


def print_row(row: dict[str, float]) -> None:
    default = f"{row['default']:9.0f}" if "default" in row else f"{'-':>9}"
    ratio = f"{row['default'] / row['reads']:13.0f}" if "default" in row else f"{'-':>13}"
    print(
        f"{row['d']:5} {row['K']:5} {row['pairs']:5} | {row['reads']:8.1f} {row['dense']:9.1f} {row['nc1']:8.1f} "
        f"{row['measure']:8.1f} {default} | {row['dense'] / row['nc1']:9.1f}  {row['copy'] / row['nc1']:9.0%}  "
        f"{row['nc1'] / row['reads']:9.1f}  {row['measure'] / row['reads']:13.1f}  {ratio}",
        flush=True,
    )


if __name__ == "__main__":
    main()
