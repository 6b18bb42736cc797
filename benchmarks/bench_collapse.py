"""`measure_collapse` against the accumulator way, and what `CollapseMonitor` costs a training.

    accumulators    what public code does: three passes, for the class means, for the d x d covariance within the
                    classes, for the decisions of the classifier and of the nearest class mean; then nc1 by a
                    pseudo-inverse, equal norms and angles, self-duality, nc4
    collapse        `nclib.collapse.measure_collapse`: one pass, and some thirty more numbers

Both get N features in batches from a model that is only its last layer: the time of a real one, which the accumulators
pay three times, is left out.

    python benchmarks/bench_collapse.py --threads 1
    python benchmarks/bench_collapse.py --threads 1 --monitor
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from nclib.collapse import measure_collapse
from nclib.monitor import CollapseMonitor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40_000, help="N")
    parser.add_argument("--dim", type=int, default=2048, help="feature dimension d")
    parser.add_argument("--classes", type=int, default=10, help="K")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each, in turns; the median is shown")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--monitor", action="store_true", help="the overhead of a monitor instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.monitor:
        compare(monitor_and_epoch(), arguments.repeats, unit="of an epoch")
        return
    data, model = draw_problem(arguments)
    found: dict[str, dict[str, float]] = {}
    ways = {
        "collapse": lambda: found.update(collapse=measure_collapse(model, data, progress=False).scalars),
        "accumulators": lambda: found.update(accumulators=accumulate(model, data, arguments.classes)),
    }
    compare(ways, arguments.repeats, unit="of the accumulators")
    for name, value in found["accumulators"].items():
        if abs(found["collapse"][name] - value) > 1e-3 * abs(value) + 1e-6:
            sys.exit(f"{name} is {found['collapse'][name]}, but the accumulators give {value}.")


def compare(ways: dict[str, Callable[[], object]], repeats: int, *, unit: str) -> None:
    """Seconds of processor time, which other work on the machine hardly moves, and by the clock."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, function in ways.items():
            start = time.process_time(), time.perf_counter()
            function()
            if repeat > 0:  # the first round warms up
                seconds[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in seconds.items()
    }
    for name, (processor, clock) in medians.items():
        print(f"{name:>14}: {processor:7.2f} s of processor time, {clock:7.2f} s by the clock")
    (first, _), (second, _) = medians.values()
    print(f"ratio: {second / first:.1f}, or {first / second:.2f} {unit}")


def draw_problem(arguments: argparse.Namespace) -> tuple[list[tuple[Tensor, Tensor]], nn.Module]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(arguments.classes, arguments.dim, generator=generator)
    labels = torch.randint(arguments.classes, (arguments.samples,), generator=generator)
    features = torch.randn(arguments.samples, arguments.dim, generator=generator) + means[labels]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(arguments.dim, arguments.classes))
    return list(zip(features.split(512), labels.split(512), strict=True)), model


@torch.no_grad()
def accumulate(model: nn.Module, data: list[tuple[Tensor, Tensor]], num_classes: int) -> dict[str, float]:
    """Three passes, each through the model, with the features taken by a hook."""
    seen: list[Tensor] = []
    handle = model[-1].register_forward_hook(lambda _, given, made: seen.append(given[0]))

    def one_pass() -> object:
        for images, labels in data:
            logits = model(images)
            yield seen.pop(), labels, logits

    weight, bias = model[-1].weight, model[-1].bias
    sums, counts = torch.zeros(num_classes, weight.shape[1]), torch.zeros(num_classes)
    for features, labels, _ in one_pass():
        for k in range(num_classes):
            rows = features[labels == k]
            sums[k] += rows.sum(dim=0)
            counts[k] += len(rows)
    means = sums / counts.unsqueeze(1)
    within = torch.zeros(weight.shape[1], weight.shape[1])
    for features, labels, _ in one_pass():
        for k in range(num_classes):
            deviations = features[labels == k] - means[k]
            within += deviations.T @ deviations
    agreeing = right = 0
    for features, labels, logits in one_pass():
        nearest = torch.cdist(features, means).argmin(dim=1)
        agreeing += int((nearest == logits.argmax(dim=1)).sum())
        right += int((nearest == labels).sum())
    handle.remove()
    n = int(counts.sum())
    deviations = means - means.mean(dim=0)
    between = deviations.T @ deviations / num_classes
    norms, unit = deviations.norm(dim=1), nn.functional.normalize(deviations)
    cosines = (unit @ unit.T)[~torch.eye(num_classes, dtype=torch.bool)]
    inverse = torch.linalg.pinv(between, hermitian=True, rtol=1e-5)
    return {
        "nc1": float((within / n * inverse).sum() / num_classes),
        "equinorm_h": float(norms.std(correction=0) / norms.mean()),
        "equiangle_h": float((cosines + 1 / (num_classes - 1)).abs().mean()),
        "nc3_distance": float((weight / weight.norm() - deviations / deviations.norm()).norm()),
        "bias_residual": float((weight @ means.mean(dim=0) + bias).norm()),
        "nc4": 1 - agreeing / n,
        "ncc_accuracy": right / n,
    }


def monitor_and_epoch() -> dict[str, Callable[[], object]]:
    """A ResNet-18 of torchvision on 512 images of 64 x 64: one measurement of all of them, and one epoch."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    images, labels = torch.rand(512, 3, 64, 64), torch.arange(512) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    monitor = CollapseMonitor(model, (images, labels), every_epochs=1, batch_size=64)

    def epoch() -> None:
        for rows in torch.randperm(512).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()

    return {"monitor": monitor.measure, "epoch": epoch}


if __name__ == "__main__":
    main()
