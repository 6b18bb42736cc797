"""Streamed collapse metrics from ten classes to a vocabulary: time and memory of `CollapseMetrics`, and the dense way.

For each K, in a process of its own: features of `--dim` numbers come in batches, `update` sees each once, `compute`
gives all scalars with a classifier. `memory` is by how much the process grew at its highest, weight and batches
included, and `/ (K d + d²)` that over the bytes of so many float64 numbers. The dense way is what `CollapseMetrics`
need not do: one-hot labels, sums over classes by matrix products in two passes, and K x K matrices for all pairs of
classes, for nine numbers alone, which are checked. Times are of the processor, without drawing the features.

    python benchmarks/bench_vocabulary.py --threads 1
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from nclib.metrics import CollapseMetrics, simplex_gram

PROBLEMS = ((10, 100_000), (1_000, 100_000), (50_000, 1_000_000))
MAX_DENSE_CLASSES = 10_000


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(run(*arguments.one, arguments)))
        return
    print(f"{'way':>8} {'K':>6} {'N':>9} | update [s] compute [s] memory [MB] / (K d + d²)")
    for num_classes, num_samples in arguments.problems or PROBLEMS:
        found = {}
        for way in ("streamed", "dense") if num_classes <= MAX_DENSE_CLASSES else ("streamed",):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", way, str(num_classes), str(num_samples)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found[way] = result["values"]
            numbers = result["memory"] / (8 * (num_classes * arguments.dim + arguments.dim**2))
            print(
                f"{way:>8} {num_classes:6} {num_samples:9} | {result['update']:10.1f} {result['compute']:11.1f} "
                f"{result['memory'] / 1e6:11.0f} {numbers:14.1f}",
                flush=True,
            )
        for name, value in found.get("dense", {}).items():
            if abs(found["streamed"][name] - value) > 1e-4 * abs(value):
                sys.exit(f"{name} is {found['streamed'][name]}, but the dense way gives {value}.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=lambda text: tuple(map(int, text.split(","))), nargs="+", help="K,N")
    parser.add_argument("--dim", type=int, default=1024, help="feature dimension d")
    parser.add_argument("--batch", type=int, default=1024, help="samples per batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(way: str, num_classes: str, num_samples: str, arguments: argparse.Namespace) -> dict[str, object]:
    """One way on one problem, after a small one that loads what the libraries load on first use."""
    measure = {"streamed": streamed, "dense": dense}[way]
    measure(torch.randn(20, 16), 100, arguments.batch)
    before = resident_bytes()
    weight = torch.randn(int(num_classes), arguments.dim, generator=torch.Generator().manual_seed(0))
    values, times = measure(weight, int(num_samples), arguments.batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"values": values, "memory": peak - before, **times}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def batches(weight: Tensor, num_samples: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features around the rows of the weight, and class ids, every class as often as the others."""
    generator = torch.Generator().manual_seed(1)
    for labels in (torch.randperm(num_samples, generator=generator) % len(weight)).split(batch):
        yield weight[labels] + torch.randn(len(labels), weight.shape[1], generator=generator), labels


def streamed(weight: Tensor, num_samples: int, batch: int) -> tuple[dict[str, float], dict[str, float]]:
    metric = CollapseMetrics(*weight.shape)
    seconds = 0.0
    for features, labels in batches(weight, num_samples, batch):
        start = time.process_time()
        metric.update(features, labels)
        seconds += time.process_time() - start
    start = time.process_time()
    values = {name: float(value) for name, value in metric.compute(weight).items()}
    return values, {"update": seconds, "compute": time.process_time() - start}


def dense(weight: Tensor, num_samples: int, batch: int) -> tuple[dict[str, float], dict[str, float]]:
    """Two passes: means by one-hot products, then the covariance; then K x K matrices."""
    k, d = weight.shape
    weight = weight.double()
    counts, means, within = torch.zeros(k), torch.zeros(k, d).double(), torch.zeros(d, d).double()
    seconds, variances = 0.0, torch.zeros(k).double()
    for second in (False, True):
        for features, labels in batches(weight.float(), num_samples, batch):
            start = time.process_time()
            one_hot = torch.nn.functional.one_hot(labels, k).double()
            if second:
                deviations = features.double() - one_hot @ means
                within += deviations.T @ deviations / num_samples
                variances += one_hot.T @ deviations.square().sum(dim=1)
            else:
                counts += one_hot.sum(dim=0)
                means += one_hot.T @ features.double()
            seconds += time.process_time() - start
        means = means if second else means / counts.unsqueeze(1)
    start = time.process_time()
    h, w = means - means.mean(dim=0), weight - weight.mean(dim=0)
    simplex, pairs = simplex_gram(k, like=weight), ~torch.eye(k, dtype=torch.bool)
    variances, squares = variances / counts, torch.cdist(means, means).square()
    values = {
        "nc1": (within * torch.linalg.pinv(h.T @ h / k, rtol=1e-10)).sum() / k,
        "nc1_cdnv": ((variances.unsqueeze(1) + variances) / (2 * squares))[pairs].mean(),
        "nc3": torch.linalg.matrix_norm(weight @ h.T / torch.linalg.matrix_norm(weight @ h.T) - simplex),
    }
    for name, rows in (("h", h), ("w", w)):
        gram = rows @ rows.T
        cosines = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T
        values[f"nc2_{name}_centered"] = torch.linalg.matrix_norm(gram / torch.linalg.matrix_norm(gram) - simplex)
        values[f"equiangle_{name}"] = (cosines + 1 / (k - 1))[pairs].abs().mean()
        values[f"gnc2_{name}"] = (-(2 - 2 * cosines[pairs]).log() / 2).var(correction=0)
    values = {name: float(value) for name, value in values.items()}
    return values, {"update": seconds, "compute": time.process_time() - start}


if __name__ == "__main__":
    main()
