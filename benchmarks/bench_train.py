"""How fast training is, beside a plain loop and beside the machine's limit: `make bench-train`.

For each run of a study: samples per second of `nclib.training.loop` and its share of the matrix-multiply ceiling,
measured in the same process; and, on the same model and data, those of a loop as the released code has it: a
DataLoader over a TensorDataset with default workers, float32, contiguous, `.item()` after every step. Medians of rounds
that alternate between the two.

    python benchmarks/bench_train.py                              the default study (CPU)
    python benchmarks/bench_train.py --study params/mlab_mnist.yaml --runs resnet18_learned vgg16_learned     (GPU)
    python benchmarks/bench_train.py --archs resnet50 vgg16 --samples 128 --study params/mlab_mnist.yaml \\
                                     --runs resnet18_learned       other networks, at full width
    python benchmarks/bench_train.py --at-once 1 2 4              does it pay to train several runs at once?
    python benchmarks/bench_train.py --profile                    where the time of an epoch goes
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from nclib import losses
from nclib.data import batches, dataset
from nclib.study.files import StageError
from nclib.study.parameters import Model, Run
from nclib.study.study import ParameterError, Study
from nclib.training import loop as train
from nclib.training.device import describe


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Wall time of `work`, with all that it queued on the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large square matrix product, the best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    torch.mm(a, a)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, a), device) for _ in range(10))


def operations(run: Run, splits: dataset.Splits) -> float:
    """Floating-point operations of a training step for one sample, counted on shapes alone."""
    with torch.device("meta"):
        model = train.build_network(run.model, splits, seed=0)
        images = torch.zeros(2, *splits.train.images.shape[1:])
    with FlopCounterMode(display=False) as counter:
        logits, features = model(images)
        (logits.sum() + features.sum()).backward()
    return counter.get_total_flops() / 2


class Ours:
    """An epoch of `nclib.training.loop` on the study's settings."""

    def __init__(self, run: Run, splits: dataset.Splits) -> None:
        self.trainer = train.Trainer(train.build_network(run.model, splits, seed=0), run.training, seed=0)
        self.batches, _ = batches.of_splits(splits, run.training, self.trainer.device)
        self.trainer.compile(run.training.epochs * len(self.batches))

    def __call__(self) -> None:
        self.trainer.train_epoch(self.batches, 0)


class Plain:
    """An epoch of a plain loop on the same network and data."""

    def __init__(self, run: Run, splits: dataset.Splits, device: torch.device) -> None:
        self.device, self.settings = device, run.training
        self.model = train.build_network(run.model, splits, seed=0).to(device)
        images = splits.train.images.float() / 255
        self.loader = DataLoader(
            TensorDataset(images, splits.train.labels.float()), batch_size=run.training.batch_size, shuffle=True
        )
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=run.training.lr, momentum=0.9, weight_decay=run.training.weight_decay
        )

    def __call__(self) -> None:
        total = 0.0
        torch.backends.cudnn.allow_tf32 = True  # torch's default, which `nclib.training.device` changes
        self.model.train()
        for images, labels in self.loader:
            logits, features = self.model(images.to(self.device))
            loss = losses.pick_all_label_cross_entropy(logits, labels.to(self.device), label_mean=True)
            loss = loss + losses.feature_decay(features, weight=self.settings.feature_decay)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()


def three_digits(number: float) -> float:
    """Timings know no more."""
    return float(f"{number:.3g}")


def compare(run: Run, splits: dataset.Splits, *, rounds: int, plain: bool) -> dict[str, float | str]:
    """Median samples a second of ours and, if asked for, of the plain loop, in alternating rounds."""
    ours = Ours(run, splits)
    device, count = ours.trainer.device, len(splits.train)
    loops: dict[str, Callable[[], None]] = {"ours": ours}
    if plain:
        loops["plain"] = Plain(run, splits, device)
    times: dict[str, list[float]] = {name: [] for name in loops}
    first = seconds(ours, device)
    for loop in loops.values():
        loop()
    for _ in range(rounds):
        for name, loop in loops.items():
            times[name].append(seconds(loop, device))
    rate = {name: count / statistics.median(values) for name, values in times.items()}
    limit = ceiling(device, ours.trainer.dtype)
    row: dict[str, float | str] = {
        "run": run.run,
        "arch": run.model.arch,
        "device": describe(device),
        "precision": str(ours.trainer.dtype).removeprefix("torch."),
        "batch": run.training.batch_size,
        "samples_per_second": three_digits(rate["ours"]),
        "share_of_ceiling": round(rate["ours"] * operations(run, splits) / limit, 3),
        "first_epoch_seconds": round(first, 2),
    }
    if plain:
        row |= {
            "plain_samples_per_second": three_digits(rate["plain"]),
            "speedup": round(rate["ours"] / rate["plain"], 2),
        }
    return row


def profile(run: Run, splits: dataset.Splits) -> str:
    """Where the time of one epoch goes, operation by operation; nested ones are counted once."""
    ours = Ours(run, splits)
    ours()
    with torch.profiler.profile() as profiler:
        seconds(ours, ours.trainer.device)
    order = "self_device_time_total" if ours.trainer.device.type == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=16, max_name_column_width=48)


def several(run: Run, splits: dataset.Splits, number: int, *, rounds: int) -> dict[str, float | str]:
    """Samples a second of all of `number` trainings of a run that share the machine."""
    processes = multiprocessing.get_context("spawn")
    barrier, times = processes.Barrier(number), processes.SimpleQueue()
    threads = max(1, torch.get_num_threads() // number)
    started = [
        processes.Process(target=one_of_several, args=(run, splits, threads, rounds, barrier, times))
        for _ in range(number)
    ]
    for process in started:
        process.start()
    slowest = max(times.get() for _ in started)
    for process in started:
        process.join()
    total = number * rounds * len(splits.train) / slowest
    return {"run": run.run, "at_once": number, "samples_per_second": three_digits(total), "threads": threads}


def one_of_several(
    run: Run, splits: dataset.Splits, threads: int, rounds: int, barrier: Any, times: "multiprocessing.SimpleQueue"
) -> None:
    """Seconds of `rounds` epochs, begun when all the others are warm, too; goes into `times`."""
    torch.set_num_threads(threads)
    ours = Ours(run, splits)
    ours()
    barrier.wait()
    times.put(sum(seconds(ours, ours.trainer.device) for _ in range(rounds)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="params/mlab_digits.yaml")
    parser.add_argument("--runs", nargs="*", help="runs of the study (default: all)")
    parser.add_argument("--archs", nargs="*", default=(), help="in place of the run's, as wide as the papers have them")
    parser.add_argument("--samples", type=int, help="of the training images, only so many (evenly spread)")
    parser.add_argument("--batch-sizes", nargs="*", type=int, help="in place of the study's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-plain", action="store_true", help="leave the plain loop out")
    parser.add_argument("--at-once", nargs="*", type=int, help="instead: so many trainings of a run side by side")
    parser.add_argument("--profile", action="store_true", help="instead: the operations that take most of an epoch")
    asked = parser.parse_args()
    study = Study.from_file(asked.study)
    made: dict[str, dataset.Splits] = {}
    for name in asked.runs or study.runs:
        run = study.resolve(name)
        if run.dataset.name not in made:
            made[run.dataset.name] = cut(dataset.build(**run.dataset.model_dump()), asked.samples)
        splits = made[run.dataset.name]
        for arch in asked.archs or (None,):
            measure(run if arch is None else run.model_copy(update={"model": Model(arch=arch)}), splits, asked)


def cut(splits: dataset.Splits, samples: int | None) -> dataset.Splits:
    """The data set with `samples` of its training images; None keeps all."""
    if samples is None:
        return splits
    whole, chosen = splits.train, torch.linspace(0, len(splits.train) - 1, samples).long()
    fields = {name: getattr(whole, name)[chosen] for name in ("images", "labels", "source_index")}
    return replace(splits, train=replace(whole, **fields))


def measure(run: Run, splits: dataset.Splits, asked: argparse.Namespace) -> None:
    """What was asked for, of one run."""
    for number in asked.at_once or ():
        print(json.dumps(several(run, splits, number, rounds=asked.rounds)), flush=True)
    if asked.profile:
        print(profile(run, splits))
    if asked.at_once or asked.profile:
        return
    for size in asked.batch_sizes or [run.training.batch_size]:
        sized = run.model_copy(update={"training": run.training.model_copy(update={"batch_size": size})})
        print(json.dumps(compare(sized, splits, rounds=asked.rounds, plain=not asked.no_plain)), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ParameterError, StageError) as error:
        sys.exit(f"bench_train: {error}")
