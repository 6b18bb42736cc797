"""A training under way, on disk: a killed run goes on from its last finished epoch, bit for bit.

    RUN/seedS/unfinished/KEY/   training.json, state_0031.safetensors, checkpoints/epoch_0020.safetensors

`training.json` is written last after each epoch; it names the state of model and optimizer to go on from, and size and
SHA-256 of every file. No random state needs saving: the order and augmentation of each epoch come from a generator that
is seeded with (seed, epoch). KEY stands for all that decides the result, the code included: a training of other
settings, on another device or by other code has a folder of its own, and is neither resumed nor lost.
One process at a time writes there: it holds the run's lease (`nclib.training.lease`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import StageError, describe_file, json_or_empty, write_json
from nclib.study.folders import checkpoint_name
from nclib.study.stage import KEEP_CODE
from nclib.training.lease import Lease

STAGE = "02_train"


class Unfinished:
    """The files of a training under way.

    Args:
        folder: of the run and seed.
        identity: JSON values that decide the result: parameters, seed, data, device, precision.
        code: fingerprints of the code (`nclib.study.code`). With the environment variable `NCLIB_KEEP_CODE`, a training
            that other code began is resumed; `sittings` then names both.

    Attributes:
        history: one row per finished epoch.
        sittings: when and by which code the training was begun and resumed.
        files: `describe_file` of each checkpoint, by its name from the run's folder.
        lease: held within the context (`with unfinished:`), in which alone something can be saved.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], code: Mapping[str, str] | None = None) -> None:
        self.run_folder = folder
        self.lease = Lease(folder)
        self.history: list[dict[str, Any]] = []
        self.sittings: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, Any]] = {}
        self._state = ""
        self._identity, self._code = _key(identity), dict(code or {})
        self.folder = folder / "unfinished" / f"{self._identity}-{_key(self._code)}"
        if os.environ.get(KEEP_CODE) and not self.folder.is_dir():
            begun = sorted(self.folder.parent.glob(f"{self._identity}-*"), key=lambda path: path.stat().st_mtime)
            self.folder = begun[-1] if begun else self.folder

    def __enter__(self) -> "Unfinished":
        self.lease.take()
        return self

    def __exit__(self, *error: object) -> None:
        self.lease.release()

    def resume(self, model: nn.Module, optimizer: Optimizer) -> bool:
        """Load the last state into `model` and `optimizer`, and what is known so far into the attributes.

        Returns:
            Whether there was a state; if not, model and optimizer are untouched.

        Raises:
            StageError: a file of the training is missing or damaged.
        """
        found = json_or_empty(self.folder / "training.json")
        if found:
            self._check(found)
            self.history, self.sittings, self.files = found["history"], found["sittings"], found["files"]
            self._state = found["state"]
            tensors, packed = load_tensors(self.folder / self._state, stage=STAGE)
            state = _unpack(packed, tensors)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        elif self.folder.parent.is_dir() and any(self.folder.parent.iterdir()):
            print(
                f"{self.folder.parent} holds a training of other settings, data, code, device or precision: this one "
                "starts from the beginning, and that one is kept until a training of this run is finished"
            )
        if not found:
            shutil.rmtree(self.folder, ignore_errors=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.sittings.append({"started": now, "after_epoch": len(self.history), "code": self._code})
        return bool(found)

    def add_checkpoint(self, model: nn.Module, epoch: int) -> None:
        """Keep the weights after `epoch` finished epochs."""
        self.lease.check()
        name = checkpoint_name(epoch)
        save_tensors(self.folder / name, model.state_dict(), {"epoch": epoch})
        self.files[name] = describe_file(self.folder / name)

    def save(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Save what training needs to go on after the last row of `history`."""
        self.lease.check()
        tensors: dict[str, Tensor] = {}
        packed = _pack({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tensors)
        earlier, self._state = self._state, f"state_{len(self.history):04d}.safetensors"
        path = self.folder / self._state
        save_tensors(path, tensors, packed)
        known = {"history": self.history, "sittings": self.sittings, "files": self.files}
        write_json(self.folder / "training.json", known | {"state": self._state, "state_file": describe_file(path)})
        if earlier and earlier != self._state:
            (self.folder / earlier).unlink(missing_ok=True)

    def publish(self) -> None:
        """Move the checkpoints into the run's folder; done already if a process was killed right after it."""
        made, place = self.folder / "checkpoints", self.run_folder / "checkpoints"
        if made.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            made.rename(place)

    def remove(self) -> None:
        """Remove this training and all others of the run that are under way."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _check(self, found: Mapping[str, Any]) -> None:
        """Compare the state with its checksum, and the checkpoints (perhaps published already) with their sizes."""
        home = self.folder if (self.folder / "checkpoints").is_dir() else self.run_folder
        try:
            state = self.folder / found["state"]
            wrong = [home / name for name, record in found["files"].items() if _size(home / name) != record["bytes"]]
            if not state.is_file() or describe_file(state) != found["state_file"]:
                wrong.append(state)
        except (KeyError, TypeError, AttributeError):
            wrong = [self.folder / "training.json"]
        if wrong:
            raise StageError(
                f"{wrong[0]} of an unfinished training is missing or damaged: delete {self.folder} and run stage "
                f"{STAGE} again."
            )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON, moving each tensor into `tensors`."""

    def named(tensor: Tensor) -> dict[str, str]:
        name = f"{len(tensors):06d}"
        tensors[name] = tensor
        return {"tensor": name}

    return json.loads(json.dumps(value, default=named))


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_pack`; tuples come back as lists. JSON turned the numbers of the parameters to text."""

    def restored(value: dict[str, Any]) -> Any:
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        return {int(key) if key.isdigit() else key: item for key, item in value.items()}

    return json.loads(json.dumps(packed), object_hook=restored)
