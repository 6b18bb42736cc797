"""The papers' optimizers and learning-rate schedules behind one step function."""

from nclib.optim.build import SECOND_ORDER, build_optimizer, decay_groups, step
from nclib.optim.schedule import build_schedule

__all__ = ["SECOND_ORDER", "build_optimizer", "build_schedule", "decay_groups", "step"]
