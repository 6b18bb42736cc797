"""The notebook runner: papermill with its gaps closed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nclib.study.runner import NotebookError, run_notebook

PARAMETERS = "number = 1  # a number"


def write(path: Path, *cells: str, kernel: str = "python3") -> Path:
    notebook = new_notebook(metadata={"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}})
    notebook.cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
    nbformat.write(notebook, path)
    return path


def texts(path: Path) -> str:
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def start(notebook: Path, out: Path, parameters: dict) -> subprocess.Popen:
    """A runner whose parent is a shell of its own, as under a scheduler."""
    command = [sys.executable, "-m", "nclib", "notebook", str(notebook), str(out), json.dumps(parameters)]
    parent = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", parent, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_parameters_arrive_and_the_source_stays(tmp_path):
    source = write(tmp_path / "a.ipynb", "print(number + 1)", kernel="no-such-kernel")
    before = source.read_bytes()
    run_notebook(source, tmp_path / "out" / "a.ipynb", {"number": 41})
    assert texts(tmp_path / "out" / "a.ipynb") == "42\n"
    assert source.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.ipynb"]


def test_unknown_parameter_is_an_error(tmp_path):
    source = write(tmp_path / "a.ipynb", "print(number)")
    with pytest.raises(NotebookError, match=r"(?s)a\.ipynb failed.*no parameter nubmer \(it has number\)"):
        run_notebook(source, tmp_path / "b.ipynb", {"nubmer": 2})
    untagged = new_notebook(cells=[new_code_cell(PARAMETERS)])
    nbformat.write(untagged, tmp_path / "c.ipynb")
    with pytest.raises(NotebookError, match=r"none: it lacks a cell tagged 'parameters'"):
        run_notebook(tmp_path / "c.ipynb", tmp_path / "b.ipynb", {"number": 2})
    assert not (tmp_path / "b.ipynb").exists()


def test_failure_keeps_the_executed_copy_and_the_earlier_result(tmp_path):
    source = write(tmp_path / "a.ipynb", "print('first')", "raise ValueError('on purpose')", "print('never')")
    out = tmp_path / "b.ipynb"
    out.write_text("earlier")
    with pytest.raises(NotebookError, match=r"(?s)a\.ipynb failed.*ValueError: on purpose.*b\.failed\.ipynb"):
        run_notebook(source, out, {})
    assert out.read_text() == "earlier"
    assert "first" in texts(tmp_path / "b.failed.ipynb")
    assert not list(tmp_path.glob(".b*"))
    run_notebook(write(source, "print('mended')"), out, {})
    assert not (tmp_path / "b.failed.ipynb").exists()


def test_dead_kernel_is_said_to_have_been_killed(tmp_path):
    source = write(tmp_path / "a.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(NotebookError, match=r"its kernel was killed, most often because memory ran out"):
        run_notebook(source, tmp_path / "b.ipynb", {})


def test_nothing_goes_on_writing_after_the_parent_is_killed(tmp_path):
    """papermill's command line leaves the kernel behind, which then goes on writing results."""
    beat = tmp_path / "beat"
    cell = f"import time\nwhile True:\n    open({str(beat)!r}, 'a').write('x')\n    time.sleep(0.01)"
    parent = start(write(tmp_path / "a.ipynb", cell), tmp_path / "b.ipynb", {})
    try:
        wait_for(beat.exists)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2, "runner and kernel"
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    size = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == size


def test_terminated_runner_keeps_what_it_had(tmp_path):
    parent = start(
        write(tmp_path / "a.ipynb", "print('be' 'gun')", "import time; time.sleep(600)"), tmp_path / "b.ipynb", {}
    )
    wait_for(lambda: any("begun" in running.read_text() for running in tmp_path.glob(".b.*.ipynb")))
    runner = psutil.Process(parent.pid).children()[0]
    runner.terminate()
    assert parent.wait(timeout=30) == 143
    assert "begun" in texts(tmp_path / "b.failed.ipynb")


@pytest.mark.slow
def test_output_widgets_do_not_hang_it(tmp_path):
    """nbclient loses the wake-up for a cell's reply in about one of 15 such cells (its issue 312)."""
    draw = "with out:\n    clear_output(wait=True)\n    print('x' * 200)"
    first = (
        "import ipywidgets\nfrom IPython.display import clear_output, display\nout = ipywidgets.Output()\ndisplay(out)"
    )
    source = write(tmp_path / "a.ipynb", first, *[draw] * 60, "print('end')")
    run_notebook(source, tmp_path / "b.ipynb", {})
    assert texts(tmp_path / "b.ipynb").endswith("end\n")
    assert "widgets" not in nbformat.read(tmp_path / "b.ipynb", 4).metadata


@pytest.mark.skipif(os.geteuid() != 0, reason="a small tmpfs can be mounted by root only")
def test_full_disk_is_one_clear_error(tmp_path, small_disk):
    source = write(tmp_path / "a.ipynb", "print('x' * 2_000_000)")
    with pytest.raises(NotebookError, match=r"cannot write .*No space left on device"):
        run_notebook(source, small_disk / "b.ipynb", {})
    assert not (small_disk / "b.ipynb").exists()
