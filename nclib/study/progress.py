"""Progress bars, in notebooks and in logs."""

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

PROGRESS_FILE = "02_train.progress.json"  # a training's state, for `nclib.study.watch`
BATCH_SECONDS = 15.0  # between two refreshes of a bar that goes to a log (each is a line there)


def bar(items: Iterable | None = None, **options: object) -> tqdm:
    """A progress bar on the standard output; in a batch job each refresh is a line of the log."""
    interval = BATCH_SECONDS if "NCLIB_BATCH" in os.environ else 0.5
    return tqdm(items, file=sys.stdout, mininterval=interval, **options)
