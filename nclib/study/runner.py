"""Run one notebook with parameters, keeping the executed copy whatever happens.

It is papermill with the gaps closed that matter to a chain of notebooks: an unknown parameter is an error; the run dies
with the process that started it (`kill -9` of a scheduler leaves no kernel that goes on writing); a notebook with
`ipywidgets.Output` cannot hang it; kernels talk through private sockets. While it runs the executed copy is
`OUT.running.ipynb`, saved after every cell; it becomes `OUT.ipynb` at the end, or `OUT.failed.ipynb`.
"""

import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

# jsonschema would build a grammar of internationalised addresses, 1.3 s of every start; notebooks are valid without.
sys.modules.setdefault("rfc3987_syntax", None)

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from nclib.study.processes import die_with_parent
from nclib.study.study import assigned_names


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
        cls, nb_man: Any, kernel_name: str, *, config: Config, log_output: bool, **_: Any
    ) -> None:
        log = logging.getLogger("papermill")
        client = _Client(
            nb_man, kernel_name=kernel_name, config=config, log_output=log_output, log=log, startup_timeout=120
        )
        try:
            client.execute()
        except DeadKernelError as error:
            raise DeadKernelError(_cause_of_death(client.exit_status)) from error


papermill_engines.register("nclib", _Engine)


class NotebookError(RuntimeError):
    """A notebook did not run to its end; the message says which cell and where the executed copy is."""


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
        raise NotebookError(f"{notebook} has no parameter {', '.join(unknown)} (it has {has})")


def run_notebook(notebook: str | Path, out: str | Path, parameters: dict[str, Any]) -> None:
    """Execute `notebook` with `parameters` in a fresh kernel of this Python; cell outputs go to stdout as they come.

    Args:
        notebook: the source; it is not changed.
        out: the executed copy, `*.ipynb`.
        parameters: replace those of its `parameters` cell.

    Raises:
        NotebookError: a parameter is unknown, a cell raised, the kernel died, or the copy cannot be written.
    """
    out = Path(out)
    running, failed = out.with_suffix(".running.ipynb"), out.with_suffix(".failed.ipynb")
    check_parameters(notebook, parameters)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        failed.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="nclib-") as sockets:
            papermill.execute_notebook(
                str(notebook),
                str(running),
                parameters=parameters,
                engine_name="nclib",
                kernel_name="python3",
                progress_bar=False,
                log_output=True,
                config=Config({"ConnectionFileMixin": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
        _drop_widget_state(running)
        running.replace(out)
    except BaseException as error:
        if isinstance(error, OSError):
            running.unlink(missing_ok=True)  # written in part
        elif running.exists():
            running.replace(failed)
        raise _explained(error, notebook, failed) from error


def _explained(error: BaseException, notebook: str | Path, failed: Path) -> BaseException:
    kept = f"\n  executed  {failed}" if failed.exists() else ""
    if isinstance(error, PapermillExecutionError):
        return NotebookError(
            f"{notebook} failed\n  cell      In [{error.exec_count}]\n  error     {error.ename}: {error.evalue}{kept}"
        )
    if isinstance(error, DeadKernelError):
        return NotebookError(f"{notebook} failed\n  error     {error}{kept}")
    if isinstance(error, OSError):
        where = error.filename or failed.parent
        return NotebookError(f"{notebook} failed\n  error     cannot write {where}: {error.strerror or error}{kept}")
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


def main(notebook: str, out: str, parameters: str, parent: str | None = None) -> None:
    """Entry point of `python -m nclib.study.runner`.

    Args:
        notebook: the source.
        out: the executed copy.
        parameters: a JSON object.
        parent: the process to end with, where that is not whichever is the parent now.
    """
    die_with_parent(signal.SIGTERM, int(parent or os.getppid()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    os.environ["NCLIB_BATCH"] = "1"
    try:
        run_notebook(notebook, out, json.loads(parameters))
    except NotebookError as error:
        sys.exit(f"\nNOTEBOOK FAILED  {error}")


if __name__ == "__main__":
    main(*sys.argv[1:5])
