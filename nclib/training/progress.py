"""How far a training is: a bar in the notebook, and a small file that `make reproduce` reads."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nclib.study.progress import PROGRESS_FILE, bar


class TrainingProgress:
    """Callbacks for `nclib.training.loop.fit`: steps, loss, IoU and time left.

    About once a second a file gets the finished epochs and what `nclib.study.watch` shows.

    Args:
        folder: of the run and seed.
        label: what is trained, e.g. `etf seed 0`.
        epochs: epochs in all.
        score: the column of the history to show, `soft_iou`, or `accuracy` for one label per image.
    """

    def __init__(self, folder: Path, *, label: str, epochs: int, score: str) -> None:
        self.file, self.label, self.epochs, self.score = folder / PROGRESS_FILE, label, epochs, score
        self.finished, self.scores = 0, ""
        self._written = 0.0

    def start(self, steps_per_epoch: int, history: list[dict[str, Any]]) -> None:
        self.share = 1 / steps_per_epoch
        shown = "{desc}: {n:.0f}/{total} epochs |{bar}| {remaining} left{postfix}"
        self.bar = bar(total=self.epochs, initial=len(history), desc=self.label, bar_format=shown)
        if history:
            print(f"going on after epoch {len(history)}")
            self.epoch(history[-1])

    def step(self) -> None:
        self.bar.update(min(self.share, self.bar.total - self.bar.n))  # sums of shares are not exact
        if time.monotonic() - self._written > 1:
            self._write()

    def epoch(self, row: dict[str, Any]) -> None:
        name = {"soft_iou": "IoU"}.get(self.score, self.score)
        shown = {"loss": row["train_loss"] + row["train_feature_decay"]}
        shown |= {f"{split} {name}": row[f"{split}_{self.score}"] for split in ("train", "test")}
        shown = {name: f"{value:.4f}" for name, value in shown.items()}
        self.bar.set_postfix(shown, refresh=False)
        self.finished, self.scores = row["epoch"], f", loss {shown['loss']}, test {name} {shown[f'test {name}']}"
        self._write()

    def close(self) -> None:
        self.bar.close()
        with suppress(OSError):
            self.file.unlink()

    def _write(self) -> None:
        """Perhaps in part: nothing depends on it but what a watcher shows, and it must never stop a training."""
        self._written = time.monotonic()
        left = self.bar.format_meter(**self.bar.format_dict | {"bar_format": "{remaining} left"})
        text = f"epoch {self.finished}/{self.epochs}, {left}{self.scores}"
        with suppress(OSError):
            self.file.write_text(json.dumps({"epoch": self.finished, "text": text}))
