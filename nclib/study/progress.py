"""Progress bars on the standard output, in notebooks and in the logs of batch jobs."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

PROGRESS_FILE = "02_train.progress.json"  # a training's state, for `nclib.study.watch`
BATCH_SECONDS = 15.0  # between two refreshes of a bar that goes to a log (each is a line there)


def bar(items: Iterable | None = None, **options: Any) -> tqdm:
    """tqdm's bar, with its options; in a batch job it is refreshed every `BATCH_SECONDS` only."""
    batch = "NCLIB_BATCH" in os.environ
    interval = BATCH_SECONDS if batch else 0.5
    return tqdm(items, file=sys.stdout, mininterval=interval, dynamic_ncols=not batch, **options)
