"""Fingerprints of the code that made a result: a change that Python would execute makes its stage run again.

Comments, docstrings and layout do not count, in modules and in notebooks alike. Of the modules that a notebook has
loaded those count that decide its results (`COUNTED`): a curve drawn beside a training does not make it another.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
_DATA = ("nclib.data", "nclib.study.parameters", "nclib.study.registry")
_TRAINING = (*_DATA, "nclib.training", "nclib.losses", "nclib.heads", "nclib.models", "nclib.optim")
COUNTED = {  # rooms and modules by stage
    "01_dataset": _DATA,
    "02_train": (*_TRAINING, "nclib.metrics.prediction", "nclib.metrics.label_sets"),
    "03_validate": (*_TRAINING, "nclib.metrics", "nclib.features", "nclib.decode", "nclib.results"),
    "04_figures": ("nclib.results", "nclib.theory", "nclib.figures", "nclib.models.architectures"),
}


def loaded_code(stage: str) -> dict[str, str]:
    """The fingerprint of each loaded module of nclib that decides the results of `stage`."""
    counted = COUNTED[stage]
    modules = sorted(name for name in list(sys.modules) if any(f"{name}.".startswith(f"{room}.") for room in counted))
    found = {name: module_fingerprint(name) for name in modules}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint}


def changed_code(recorded: Mapping[str, str], notebooks: Path) -> list[str]:
    """The modules and notebooks (`02_train.ipynb`) whose fingerprint is no longer the one recorded."""

    def now(name: str) -> str | None:
        return notebook_fingerprint(notebooks / name) if name.endswith(".ipynb") else module_fingerprint(name)

    return [name for name, fingerprint in recorded.items() if fingerprint != now(name)]


def module_fingerprint(name: str) -> str | None:
    """The fingerprint of a module of nclib as its file is now; None if there is no such file."""
    base = PACKAGE.joinpath(*name.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return _of_file(path, path.stat().st_mtime_ns)
    return None


@cache
def _of_file(path: Path, _: int) -> str:
    return source_fingerprint(path.read_text(encoding="utf-8"))


def notebook_fingerprint(path: Path) -> str | None:
    """The fingerprint of a notebook's code cells without the parameters; None if it cannot be read."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return None
    counted = [c for c in cells if c["cell_type"] == "code" and "parameters" not in c["metadata"].get("tags", ())]
    return source_fingerprint("\n".join("".join(cell["source"]) for cell in counted))


def source_fingerprint(source: str) -> str:
    """A SHA-256 (its first 16 digits) of what Python would execute.

    >>> source_fingerprint("x = 1  # one") == source_fingerprint("x = (1)")
    True
    """
    source = "\n".join("" if line.startswith(("%", "!")) else line for line in source.splitlines())  # IPython's own
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return hashlib.sha256(source.encode()).hexdigest()[:16]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
