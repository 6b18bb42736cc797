"""Run one notebook with parameters, keeping the executed copy whatever happens.

It is papermill with the gaps closed that matter to a chain of notebooks: an unknown parameter is an error; the run dies
with the process that started it (`kill -9` of a scheduler leaves no kernel that goes on writing); a notebook with
`ipywidgets.Output` cannot hang it; kernels talk through private sockets. While it runs the executed copy is a hidden
file of this process beside `OUT.ipynb`, saved after every cell; it becomes `OUT.ipynb` at the end, or
`OUT.failed.ipynb`.
"""

import ast
import json
import logging
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

# jsonschema would build a grammar of internationalised addresses, 1.3 s of every start; notebooks are valid without.
sys.modules.setdefault("rfc3987_syntax", None)

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from nclib.study.files import StageError, temporary_beside, write_json
from nclib.study.processes import die_with_parent


class _Client(PapermillNotebookClient):
    """Without nbclient's stand-in for Output widgets, whose messages can swallow the wake-up for a cell's reply."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.widget_registry = {}
        self.exit_status: int | None = None  # of a kernel that ended by itself: -9 if it was killed

    async def _async_check_alive(self) -> None:
        provisioner = self.km.provisioner if self.km else None
        if provisioner is not None and self.exit_status is None:
            self.exit_status = await provisioner.poll()
        await super()._async_check_alive()


class _Engine(Engine):
    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, config: Config, stdout_file: TextIO, **_: Any
    ) -> None:
        options = {"config": config, "stdout_file": stdout_file, "stderr_file": stdout_file, "startup_timeout": 120}
        client = _Client(nb_man, kernel_name=kernel_name, log=logging.getLogger("papermill"), **options)
        try:
            client.execute()
        except DeadKernelError as error:
            raise DeadKernelError(_cause_of_death(client.exit_status)) from error


papermill_engines.register("nclib", _Engine)


class NotebookError(RuntimeError):
    """A notebook did not run to its end; the message says which cell and where the executed copy is.

    Args:
        notebook: the source.
        error: what went wrong, in a line.
        cell: number of the cell that raised.
        executed: the executed copy, if one was kept.
    """

    def __init__(
        self, notebook: str | Path, error: str, *, cell: int | None = None, executed: Path | None = None
    ) -> None:
        self.facts = {"notebook": str(notebook), "error": error, "cell": cell, "executed": str(executed or "")}
        where = "".join(f"\n  {name:9} {value}" for name, value in self.facts.items() if value and name != "notebook")
        super().__init__(f"{notebook} failed{where}")


def assigned_names(cell: str) -> list[str]:
    """Names that a cell of plain assignments gives values to."""
    assignments = [statement for statement in ast.parse(cell).body if isinstance(statement, ast.Assign)]
    targets = [target for assignment in assignments for target in assignment.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def check_parameters(notebook: str | Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that are not assigned in the notebook's cell tagged `parameters`.

    Raises:
        NotebookError: the message names the unknown parameters and those there are.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    known = [name for source in sources for name in assigned_names(source)]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        has = ", ".join(known) or "none: it lacks a cell tagged 'parameters'"
        raise NotebookError(notebook, f"no parameter {', '.join(unknown)} (it has {has})")


def run_notebook(notebook: str | Path, out: str | Path, parameters: dict[str, Any]) -> None:
    """Execute `notebook` with `parameters` in a fresh kernel of this Python; what cells print goes to stdout.

    Args:
        notebook: the source; it is not changed.
        out: the executed copy, `*.ipynb`.
        parameters: replace those of its `parameters` cell.

    Raises:
        NotebookError: a parameter is unknown, a cell raised, the kernel died, or the copy cannot be written.
    """
    out = Path(out)
    running, failed = temporary_beside(out, "ipynb"), out.with_suffix(".failed.ipynb")
    check_parameters(notebook, parameters)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="nclib-") as sockets:
            papermill.execute_notebook(
                str(notebook),
                str(running),
                parameters=parameters,
                engine_name="nclib",
                kernel_name="python3",
                progress_bar=False,
                stdout_file=sys.stdout,
                config=Config({"ConnectionFileMixin": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
        _drop_widget_state(running)
        running.replace(out)
        failed.unlink(missing_ok=True)
    except BaseException as error:
        if isinstance(error, OSError):
            running.unlink(missing_ok=True)  # written in part
        elif running.exists():
            running.replace(failed)
        raise _explained(error, notebook, failed) from error


def _explained(error: BaseException, notebook: str | Path, failed: Path) -> BaseException:
    kept = failed if failed.exists() else None
    if isinstance(error, PapermillExecutionError):
        return NotebookError(notebook, f"{error.ename}: {error.evalue}", cell=error.exec_count, executed=kept)
    if isinstance(error, DeadKernelError):
        return NotebookError(notebook, str(error), executed=kept)
    if isinstance(error, OSError):
        where = error.filename or failed.parent
        return NotebookError(notebook, f"cannot write {where}: {error.strerror or error}", executed=kept)
    return error


def _cause_of_death(status: int | None) -> str:
    """In words; a negative status is the number of the signal that ended the kernel."""
    if status is None or status == -signal.SIGKILL:
        return (
            "its kernel was killed, most often because memory ran out: use a smaller training.batch_size or "
            "validation.batch_size, or give the job more memory"
        )
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"its kernel ended {how}, which is no error of the notebook's own: run the same command again"


def _drop_widget_state(path: Path) -> None:
    """Viewers without a kernel show a widget's image only if the notebook holds no half-usable widget state."""
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.pop("widgets", None) is not None:
        nbformat.write(notebook, path)


def main(arguments: list[str] | None = None) -> int:
    """`python -m nclib notebook IN OUT JSON [PARENT]`.

    IN is the notebook, OUT its executed copy, JSON an object of parameters, and PARENT the process to end with (without
    it the parent). What went wrong is also written as JSON to `OUT.failed.json` (without `.ipynb`).

    Returns:
        The exit status: 0, or 1 if the notebook did not run to its end.
    """
    notebook, out, parameters, *parent = sys.argv[1:] if arguments is None else arguments
    die_with_parent(signal.SIGTERM, int(parent[0]) if parent else os.getppid())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["NCLIB_BATCH"] = "1"
    report = Path(out).with_suffix(".failed.json")
    try:
        report.unlink(missing_ok=True)
        run_notebook(notebook, out, json.loads(parameters))
    except NotebookError as error:
        print(f"\nNOTEBOOK FAILED  {error}", file=sys.stderr)
        with suppress(StageError, OSError):  # the disk may be full
            write_json(report, error.facts)
        return 1
    return 0
