"""Run one notebook with parameters, keeping the executed copy whatever happens.

It is papermill with the gaps closed that matter to a chain of notebooks: an unknown parameter is an error; the run dies
with the process that started it (`kill -9` of a scheduler leaves no kernel that goes on writing); a notebook with
`ipywidgets.Output` cannot hang it; kernels talk through private sockets. While it runs the executed copy is a hidden
file of this process beside `OUT.ipynb`, saved after every cell; it becomes `OUT.ipynb` at the end, or
`OUT.failed.ipynb`.
"""

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
    """A notebook did not run to its end: what went wrong, in a line, and its executed copy, if one was kept."""

    def __init__(self, notebook: str | Path, error: str, executed: str = "") -> None:
        self.facts = {"error": error, "executed": executed}
        super().__init__(f"{notebook} failed\n  {error}\n  {executed}".rstrip())


def run_notebook(notebook: str | Path, out: str | Path, parameters: dict[str, Any]) -> None:
    """Execute `notebook` with `parameters` in a fresh kernel of this Python; what cells print goes to stdout.

    The executed copy becomes `out`, `*.ipynb`.

    Raises:
        NotebookError: a parameter is unknown, a cell raised, the kernel died, or the copy cannot be written.
    """
    out = Path(out)
    running, failed = temporary_beside(out, "ipynb"), out.with_suffix(".failed.ipynb")
    known = papermill.inspect_notebook(str(notebook))
    if unknown := sorted(set(parameters) - set(known)):
        has = ", ".join(known) or "none: it lacks a cell tagged 'parameters'"
        raise NotebookError(notebook, f"no parameter {', '.join(unknown)} (it has {has})")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="nclib-") as sockets:
            executed = papermill.execute_notebook(
                str(notebook),
                str(running),
                parameters=parameters,
                engine_name="nclib",
                kernel_name="python3",
                progress_bar=False,
                stdout_file=sys.stdout,
                config=Config({"ConnectionFileMixin": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
        if executed.metadata.pop("widgets", None):  # half-usable, it keeps viewers from showing a widget's image
            nbformat.write(executed, running)
        running.replace(out)
        failed.unlink(missing_ok=True)
    except BaseException as error:
        if isinstance(error, OSError):
            running.unlink(missing_ok=True)  # written in part
        elif running.exists():
            running.replace(failed)
        if why := _explained(error):
            raise NotebookError(notebook, why, str(failed) if failed.exists() else "") from error
        raise


def _explained(error: BaseException) -> str | None:
    """An error of the notebook, its kernel or the disk in a line; None for others."""
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    if isinstance(error, OSError):
        return f"cannot write {error.filename or 'the executed copy'}: {error.strerror or error}"
    return str(error) if isinstance(error, DeadKernelError) else None


def _cause_of_death(status: int | None) -> str:
    """In words; a negative status is the number of the signal that ended the kernel."""
    if status is None or status == -signal.SIGKILL:
        return (
            "its kernel was killed, most often because memory ran out: use a smaller training.batch_size or "
            "validation.batch_size, or give the job more memory"
        )
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"its kernel ended {how}, which is no error of the notebook's own: run the same command again"


def main(arguments: list[str]) -> int:
    """`python -m nclib notebook IN OUT JSON [PARENT]`.

    IN is the notebook, OUT its executed copy, JSON an object of parameters, and PARENT the process to end with (without
    it the parent). What went wrong is also written as JSON to `OUT.failed.json` (without `.ipynb`).

    Returns:
        The exit status: 0, or 1 if the notebook did not run to its end.
    """
    notebook, out, parameters, *parent = arguments
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
