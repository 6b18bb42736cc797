"""A real JupyterLab and a real headless Chromium, for tests of notebooks with widgets.

    with JupyterServer(folder) as server, chromium_page() as page:
        notebook = LabNotebook(page, server, "x.ipynb")
        notebook.run_all()

Nothing leaves the machine: the server listens on 127.0.0.1 with a token and settings of its own, and the page refuses
(and lists) requests to other hosts. Chromium is the system's; set CHROMIUM to its path if it is elsewhere.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

HOST = "127.0.0.1"
CANDIDATES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SETTINGS = {
    "config/labconfig/page_config.json": {
        "disabledExtensions": {
            "@jupyterlab/apputils-extension:announcements": True,  # asks for news, in a toast over the page
            "@jupyterlab/extensionmanager-extension": True,
        }
    },
    # Every cell stays in the page, in view or not.
    "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
}
FOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
    "MPLCONFIGDIR": "matplotlib",
}


def find_chromium() -> str:
    """The system's Chromium; without one (or without playwright) the test that asks for it is skipped."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("CHROMIUM")
    for candidate in (named,) if named else CANDIDATES:
        if found := shutil.which(candidate):
            return found
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium-headless-shell), or CHROMIUM is wrong")


def artifacts(fallback: Path) -> Path:
    """Where screenshots are kept: the folder named by NCLIB_ARTEFACTS, else `fallback`."""
    folder = Path(os.environ.get("NCLIB_ARTEFACTS") or fallback)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_copy(notebook: Path, folder: Path, parameters: Mapping[str, Any]) -> Path:
    """Copy a notebook with parameters put in as papermill does, without running it."""
    copy = parameterize_notebook(load_notebook_node(str(notebook)), dict(parameters))
    path = folder / notebook.name
    nbformat.write(copy, path)
    return path


class JupyterServer:
    """`jupyter lab` on a free port, with settings of its own; leaving the context ends it and its kernels.

    Args:
        folder: served as the root of the file browser.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(16)

    def __enter__(self) -> Self:
        self._home = Path(tempfile.mkdtemp(prefix="nclib-lab-"))
        for name, value in SETTINGS.items():
            (self._home / name).parent.mkdir(parents=True, exist_ok=True)
            (self._home / name).write_text(json.dumps(value))
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        self.url = f"http://{HOST}:{port}"
        options = {
            "ServerApp.ip": HOST,
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": self.folder,
            "ServerApp.terminals_enabled": False,
            "IdentityProvider.token": self.token,
            "LabApp.expose_app_in_browser": True,
            "LabApp.extension_manager": "readonly",
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--{name}={value}" for name, value in options.items()]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
        environment |= {name: str(self._home / folder) for name, folder in FOLDERS.items()}
        environment |= {"JUPYTER_PREFER_ENV_PATH": "1"}
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            self._wait_until_up(limit=60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it is ended below in any case
            self._ask("/api/shutdown", "POST")
        self._end()

    def _ask(self, path: str, method: str = "GET") -> None:
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        urllib.request.urlopen(request, timeout=5).close()

    def _wait_until_up(self, *, limit: float) -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"JupyterLab ended at once:\n{(self._home / 'log').read_text()[-3000:]}")
            try:
                return self._ask("/api/status")
            except urllib.error.HTTPError:
                raise
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(f"JupyterLab did not answer within {limit:g} s")

    def _end(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session, kernels included
            self._process.wait(10)
        shutil.rmtree(self._home, ignore_errors=True)


@contextmanager
def chromium_page(*, width: int = 1280, height: int = 1500) -> Iterator[Any]:
    """A page in a fresh profile; `page.refused` lists the requests to other hosts, none of which got through."""
    executable = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--disable-gpu", "--disable-quic"])
        context = browser.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        page.refused = []

        def refuse(route: Any) -> None:
            page.refused.append(route.request.url)
            route.abort()

        context.route(lambda url: urlsplit(url).hostname not in (HOST, None), refuse)
        try:
            yield page
        finally:
            context.close()
            browser.close()


class LabNotebook:
    """A notebook opened in JupyterLab, its kernel ready.

    Args:
        page: of `chromium_page`.
        server: whose folder holds the notebook.
        path: of the notebook, in that folder.
    """

    PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"

    def __init__(self, page: Any, server: JupyterServer, path: str) -> None:
        self.page = page
        page.goto(f"{server.url}/lab/tree/{path}?reset&token={server.token}", wait_until="domcontentloaded")
        page.wait_for_function("window.jupyterapp?.restored", timeout=60_000)
        page.evaluate("window.jupyterapp.restored.then(() => true)")
        page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=60_000)
        page.locator(f"{self.PANEL} .jp-Cell").first.wait_for(timeout=60_000)
        # "Run all" does nothing, and says nothing, before there is a kernel; Lab's own indicator reads idle even then.
        self._wait_for("panel.context.isReady && panel.sessionContext.isReady && kernel?.status === 'idle'")
        page.evaluate("window.jupyterapp.shell.collapseLeft()")  # room for the notebook, as in a user's narrow window

    def run_all(self) -> None:
        """Run every cell and wait for the last reply.

        Raises:
            RuntimeError: a cell failed; with its traceback.
        """
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        waiting = (
            "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(e => e.textContent.includes('*'))"
        )
        self._wait_for(f"kernel?.status === 'idle' && !{waiting}")
        kinds = ", ".join(
            f"{self.PANEL} [data-mime-type='application/vnd.jupyter.{kind}']" for kind in ("error", "stderr")
        )
        errors = [text for text in self.page.locator(kinds).all_inner_texts() if "Traceback" in text]
        if errors:
            raise RuntimeError(errors[0])

    def hidden_errors(self) -> list[str]:
        """Errors of widget callbacks, which JupyterLab shows in its log console only."""
        badges = self.page.locator(".jp-LogConsoleStatusItem:not(.lm-mod-hidden) [title]").all()
        return [badge.get_attribute("title") for badge in badges]

    def _wait_for(self, condition: str) -> None:
        script = (
            "() => { const panel = window.jupyterapp.shell.currentWidget;"
            f" const kernel = panel?.sessionContext?.session?.kernel; return panel?.context && {condition} }}"
        )
        self.page.wait_for_function(script, timeout=120_000)


def machine_noise() -> float:
    """How many times longer than alone this process takes now, with others on the machine: wall time over CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < 0.2:
        pass
    return (time.perf_counter() - wall) / (time.process_time() - cpu)


def frame_times(page: Any, root: str, keys: list[str]) -> list[float]:
    """Milliseconds from each key press to the frame it changes, measured inside the page.

    Args:
        page: a page.
        root: CSS selector of an element that takes keys and counts its frames in `data-frames`.
        keys: one after the other.
    """
    return page.evaluate(
        """async ([root, keys]) => {
            const element = document.querySelector(root);
            const times = [];
            element.focus();
            for (const key of keys) {
                const before = element.dataset.frames;
                const start = performance.now();
                element.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
                await new Promise(done => {
                    const look = () => requestAnimationFrame(() => {
                        if (element.dataset.frames === before) return look();
                        const channel = new MessageChannel();  // its message comes once the frame is painted
                        channel.port1.onmessage = done;
                        channel.port2.postMessage(0);
                    });
                    look();
                });
                times.push(performance.now() - start);
                await new Promise(done => setTimeout(done, 20));
            }
            return times;
        }""",
        [root, keys],
    )
