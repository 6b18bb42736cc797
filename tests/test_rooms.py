"""The rooms of the house: who imports whom, and that the library stands without the companion."""

import ast
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nclib
from nclib.__main__ import COMMANDS, main
from tests.isolation import COMPANION_MODULES, LIBRARY_PACKAGES, link_library_packages

PACKAGE = Path(nclib.__file__).parent
ROOMS = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__") and path.suffix != ".typed"}

LIBRARY = {"losses", "heads", "features", "decode", "metrics", "theory", "models", "optim", "collapse", "monitor"}
OPTIONAL = {  # room: the packages that some of its functions import, where they are installed
    "features": {"tqdm"},
    "collapse": {"matplotlib", "pandas", "safetensors"},
    "monitor": {"lightning", "pytorch_lightning", "transformers"},
}
COMPANION = {  # room: the rooms it may import besides the library
    "study": set(),
    "data": {"study"},
    "training": {"study", "data"},
    "results": {"study", "data", "training"},
    "figures": {"study", "data", "training", "results"},
    "explore": {"study", "data", "training", "results", "figures"},
    "compose": {"data"},  # the public name of data.compose
}


def modules(room: str) -> Iterator[Path]:
    place = PACKAGE / room
    yield from sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def imports(path: Path) -> set[str]:
    """Full names of all that a module imports, also inside functions; `from a import b` is both `a` and `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import, which this test does not follow"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """The rooms a module imports, its own included."""
    parts = [name.split(".") for name in imports(path)]
    return {name[1] for name in parts if name[0] == "nclib" and name[1:]} & ROOMS


def outside(path: Path) -> set[str]:
    """The packages besides Python's own that a module imports."""
    return {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"nclib"}


def test_every_room_has_its_place():
    assert LIBRARY | set(COMPANION) >= ROOMS
    assert len(ROOMS) <= 17


@pytest.mark.parametrize("room", sorted(LIBRARY & ROOMS))
def test_the_library_imports_only_itself_and_its_packages(room):
    for path in modules(room):
        assert rooms(path) <= LIBRARY, path
        assert outside(path) <= LIBRARY_PACKAGES | OPTIONAL.get(room, set()), path


@pytest.mark.parametrize("room", sorted(set(COMPANION) & ROOMS))
def test_the_companion_imports_only_what_stands_below(room):
    for path in modules(room):
        assert rooms(path) <= LIBRARY | COMPANION[room] | {room}, path


def test_rooms_import_each_other_in_no_circle():
    graph = {room: set().union(*map(rooms, modules(room))) - {room} for room in ROOMS}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_importing_nclib_loads_nothing_else():
    assert run("import sys, nclib; print([name for name in sys.modules if name.startswith('nclib')])") == "['nclib']"


def test_measuring_collapse_loads_little_beside_torch():
    """Which takes half a second; torchmetrics alone would take four."""
    slow = {"torchmetrics", *set().union(*OPTIONAL.values())}
    code = "import sys, torch; before = set(sys.modules); import nclib.collapse, nclib.monitor\n"
    assert run(code + f"print({slow} & (set(sys.modules) - before))") == "set()"


def test_study_loads_without_torch():
    names = [module.name for module in pkgutil.walk_packages([str(PACKAGE / "study")], "nclib.study.")]
    code = "import sys, nclib.study.launcher; from importlib import import_module\n"
    code += "assert 'nbformat' not in sys.modules  # every `make reproduce` begins with the launcher\n"
    code += f"for name in {names}:\n import_module(name)\n assert 'torch' not in sys.modules, name"
    run(code)


def test_the_library_and_its_examples_need_none_of_the_companions_packages(tmp_path):
    link_library_packages(tmp_path)
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for room in sorted(LIBRARY & ROOMS)
        for path in modules(room)
    ]
    code = f"""
import doctest
from importlib import import_module
from importlib.util import find_spec
assert not [name for name in {COMPANION_MODULES} if find_spec(name)]
results = [doctest.testmod(import_module(name)) for name in {names}]
assert not sum(result.failed for result in results)
print(sum(result.attempted for result in results))
"""
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{tmp_path}"}
    without_site_packages = [sys.executable, "-S", "-c", code]
    done = subprocess.run(without_site_packages, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 50


def test_a_command_without_the_companions_packages_says_what_to_install():
    code = "import sys; sys.modules['yaml'] = sys.modules['pydantic'] = None\n"
    code += "from nclib.__main__ import main; sys.exit(main(['reproduce', 'params/mlab_digits.yaml']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install '.[companion]'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_hand_their_arguments_to_their_module(name, monkeypatch):
    class Module:
        @staticmethod
        def main(arguments):
            seen.extend(arguments)
            return 7

    seen = []
    monkeypatch.setitem(sys.modules, COMMANDS[name][0], Module)
    assert main([name, "out.ipynb"]) == 7
    outputs = json.dumps({"outputs": str(Path.cwd().parent)})
    assert seen == (["notebooks/00_theory.ipynb", "out.ipynb", outputs] if name == "theory" else ["out.ipynb"])


def test_the_door_lists_its_commands(capsys):
    assert main([]) == 0
    usage = capsys.readouterr().out
    assert all(f"  {name} " in usage for name in COMMANDS)
    assert main(["no-such"]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "no command 'no-such'" in captured.err
    assert usage in captured.err + "\n"
