"""Learning rate as a pure function of the epoch."""

import bisect
import math
from collections.abc import Callable, Sequence

SCHEDULES = ("cosine", "step", "multistep", "constant")
STEP_SIZE = 40  # epochs
DROP = 0.1
MIN_LR_RATIO = 1e-3


def check_milestones(milestones: Sequence[int]) -> None:
    """Refuse milestones that are not increasing epochs."""
    if not milestones or list(milestones) != sorted(set(milestones)):
        raise ValueError(
            f"Expected milestones of schedule 'multistep' to be increasing epochs, but got {list(milestones)}."
        )


def build_schedule(
    name: str,
    *,
    lr: float,
    epochs: int,
    milestones: Sequence[int] = (),
    step_size: int = STEP_SIZE,
    gamma: float = DROP,
    min_lr: float | None = None,
) -> Callable[[int], float]:
    """The learning rate of each epoch, as a function of the epoch alone, so that a resumed run cannot drift.

    With t the epoch, from 0, and T = `epochs`:

    - "constant": lr
    - "step": lr gamma^floor(t / step_size)
    - "multistep": lr gamma^(number of milestones <= t)
    - "cosine": min_lr + (lr - min_lr) (1 + cos(pi t / T)) / 2

    Source: released code; paper 1 uses "cosine" with min_lr = lr / 1000 (it would be reached at t = T, one past the
    last epoch), paper 2 "step" with a tenth every 40 epochs.

    Without `min_lr` "cosine" ends at lr / 1000.

    >>> schedule = build_schedule("step", lr=0.05, epochs=200)
    >>> [round(schedule(epoch), 6) for epoch in (0, 39, 40, 199)]
    [0.05, 0.05, 0.005, 5e-06]
    """
    if name not in SCHEDULES:
        raise ValueError(f"Expected schedule to be one of {', '.join(SCHEDULES)}, but got {name!r}.")
    if epochs < 1 or step_size < 1:
        raise ValueError(f"Expected epochs and step_size to be at least 1, but got {epochs} and {step_size}.")
    if lr <= 0 or gamma <= 0:
        raise ValueError(f"Expected lr and gamma to be positive, but got {lr} and {gamma}.")
    if name == "constant":
        return lambda epoch: lr
    if name == "step":
        return lambda epoch: lr * gamma ** (epoch // step_size)
    if name == "multistep":
        check_milestones(milestones)
        return lambda epoch: lr * gamma ** bisect.bisect_right(milestones, epoch)
    end = lr * MIN_LR_RATIO if min_lr is None else min_lr
    if not 0 <= end <= lr:
        raise ValueError(f"Expected min_lr of schedule 'cosine' between 0 and lr = {lr}, but got {end}.")
    return lambda epoch: end + (lr - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2
