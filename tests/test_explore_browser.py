"""The explorer in a real headless Chromium: in a real JupyterLab, and as a page from disk."""

import json
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nclib.explore import Explorer
from nclib.results.geometry import Geometry
from nclib.study.files import describe_file, write_json
from nclib.study.study import Study
from tests import synthetic_study
from tests.lab_driver import (
    JupyterServer,
    LabNotebook,
    artifacts,
    chromium_page,
    find_chromium,
    frame_times,
    machine_noise,
    write_copy,
)

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "05_explore.ipynb"
ROOT = ".nc-explorer"
WIDTH = 1366  # pixels of a common small window, 768 high
# On a quiet machine. Both are multiplied by the noise that is measured beside them.
FRAME_LIMIT = 33  # milliseconds from key to frame, median of 50: two frames of a screen; 8 to 16 were measured
PICTURE_LIMIT = 1.5  # seconds from the cell to the picture, median of 3
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Results of the default study's size: 10 classes, 13 checkpoints, 600 features."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    find_chromium()
    folder = tmp_path_factory.mktemp("lab") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_study, "FEATURE_SAMPLE", 600)
        counts = {"train_counts": {1: 100, 2: 20}, "test_counts": {1: 30, 2: 6}}
        many = {**synthetic_study.MULTI_LABEL, "dataset": {**synthetic_study.MULTI_LABEL["dataset"], **counts}}
        synthetic_study.write_study(folder, Study.from_mapping({**many, "seeds": [0]}))
    return folder


@pytest.fixture(scope="module")
def page():
    with chromium_page(width=WIDTH, height=768) as page:
        page.set_default_timeout(60_000)
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        yield page


def shown(page, epoch: int) -> None:
    page.locator(f"{ROOT}[data-epoch='{epoch}']").wait_for()


def press(page, key: str) -> None:
    page.locator(ROOT).focus()
    page.keyboard.press(key)


def pixels(page) -> str:
    return page.locator(f"{ROOT} canvas.nc-canvas").evaluate("canvas => canvas.toDataURL()")


def seconds_to_picture(page) -> float:
    """Run the explorer's cell again, now that its modules are loaded, until all of it is drawn."""
    page.locator(".jp-CodeCell", has=page.locator(ROOT)).locator(".cm-content").first.click()
    page.locator(ROOT).evaluate("e => { e.dataset.epoch = 'old'; }")
    start = time.monotonic()
    page.keyboard.press("Control+Enter")
    shown(page, 60)
    return time.monotonic() - start


@pytest.mark.timing
def test_in_jupyterlab(page, outputs, tmp_path, record_property, capsys):
    folder = outputs.parent
    study = folder / "made_multi.yaml"
    study.write_text(json.dumps(synthetic_study.MULTI_LABEL))
    path = write_copy(NOTEBOOK, folder, {"study": str(study), "outputs": str(outputs)})
    with JupyterServer(folder) as server:
        opened = LabNotebook(page, server, path.name)
        opened.run_all()
        shown(page, 60)
        seconds = [seconds_to_picture(page) for _ in range(3)]
        noises = [machine_noise()]
        page.locator(ROOT).evaluate("e => e.scrollIntoView({block: 'start'})")

        page.mouse.move(5, 5)  # what the mouse points at is drawn, too
        page.wait_for_timeout(200)
        last = pixels(page)
        press(page, "Home")
        shown(page, 0)
        assert pixels(page) != last
        press(page, "ArrowRight")
        shown(page, 5)
        assert page.locator(f"{ROOT} .nc-readout").inner_text() == "epoch 5"
        press(page, "End")
        shown(page, 60)
        assert pixels(page) == last

        # another run: one frame shows one state
        page.locator(".nc-run1").select_option("")
        page.wait_for_function(f"document.querySelector('{ROOT}').dataset.runs === 'learned, seed 0'")
        # a window of 1366 x 768 shows all views of one run below the controls, and nothing overflows
        box, frame = page.locator(f"{ROOT} canvas.nc-canvas").bounding_box(), page.locator(ROOT).bounding_box()
        assert box["y"] + box["height"] <= frame["y"] + frame["height"] <= 768
        panel = page.locator(".jp-OutputArea-output", has=page.locator(ROOT))
        assert panel.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
        page.screenshot(path=artifacts(tmp_path) / "explore_lab.png")

        times = frame_times(page, ROOT, ["ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight", "Home"] * 10)
        noises.append(machine_noise())
        frame, picture, noise = statistics.median(times), statistics.median(seconds), max(noises)
        record_property("frame_ms", frame)
        with capsys.disabled():
            print(
                f"\n  frame: median {frame:.1f} ms of 50; first picture: median {picture:.2f} s of 3; noise {noise:.2f}"
            )
        assert opened.hidden_errors() == []
        assert page.failures == []
        assert page.refused == []
        assert frame <= FRAME_LIMIT * noise
        assert picture <= PICTURE_LIMIT * noise
        page.goto("about:blank")


def test_from_disk_without_a_kernel(page, outputs, tmp_path):
    file = Explorer(outputs / "made_multi").save_html(tmp_path / "x.html")
    assert file.stat().st_size < 5e6
    page.goto(file.as_uri())
    shown(page, 60)
    box = page.locator(".nc-view-plane").first.bounding_box()
    left, top = box["x"], box["y"]
    middle = (left + box["width"] / 2, top + 20 + (box["height"] - 20) / 2)

    # pointing at a feature shows its image and labels; a chosen class its numbers and images
    press(page, "Home")
    shown(page, 0)
    for step in range(200):
        page.mouse.move(left + 20 + (37 * step) % (box["width"] - 40), top + 40 + (91 * step) % (box["height"] - 60))
        if page.locator(".nc-tip .nc-image").count():
            break
    told = page.locator(".nc-tip").inner_text()
    assert re.search(r"labels: \d.*\npredicted: \d.*\n(cosine margin -?\d|several labels)", told), told
    press(page, "n")
    assert page.locator(".nc-details th").all_inner_texts() == ["0", "learned, seed 0", "etf, seed 0"]
    assert page.locator(".nc-details .nc-image").count() > 5

    # dragging turns the view, wherever it is let go; 0 puts it back
    def drag(dx: int, dy: int, key: str = "") -> str:
        page.mouse.move(*middle)
        if key:
            page.keyboard.down(key)
        if dx or dy:
            page.mouse.down()
            page.mouse.move(middle[0] + dx, middle[1] + dy, steps=3)
            page.mouse.up()
        if key:
            page.keyboard.up(key)
        page.mouse.move(5, 5)
        page.wait_for_timeout(100)
        return pixels(page)

    press(page, "Escape")
    before = drag(0, 0)
    assert drag(90, 60) != before
    press(page, "0")
    page.wait_for_timeout(100)
    assert pixels(page) == before
    assert drag(40, 0, "Alt") != before
    press(page, "0")

    # Shift and dragging selects what lies in the box
    drag(150, 150, "Shift")
    some = int(page.locator(".nc-details p").inner_text().split()[0])
    drag(400, 400, "Shift")
    assert 0 < some < int(page.locator(".nc-details p").inner_text().split()[0]) < 600
    press(page, "Escape")
    assert page.locator(".nc-details p").count() == 0

    # it plays from the first checkpoint, between checkpoints too, and stops
    press(page, "Home")
    press(page, " ")
    page.wait_for_function(f"Number(document.querySelector('{ROOT}').dataset.epoch) % 5 > 0")
    press(page, " ")
    page.wait_for_function(f"Number(document.querySelector('{ROOT}').dataset.epoch) % 5 === 0")

    # a metric is searched by words
    page.locator("input.nc-metric").fill("jaccard threshold")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('input.nc-metric').value === 'Jaccard index, threshold'")

    for button, start in ((".nc-svg", b"<svg"), (".nc-png", b"\x89PNG")):
        with page.expect_download() as download:
            page.locator(button).click()
        assert Path(download.value.path()).read_bytes().startswith(start)
    page.locator(".nc-theory").check()
    page.screenshot(path=artifacts(tmp_path) / "explore_page.png")
    page.locator(".nc-run0").select_option("etf/0")
    page.wait_for_function(f"document.querySelector('{ROOT}').dataset.runs === 'etf, seed 0 | etf, seed 0'")
    assert page.failures == []
    assert page.refused == []


def test_names_are_text(page, outputs, tmp_path):
    """Names of classes, runs and studies that would run as HTML."""
    hostile = "<img src=x onerror=hacked=1>"
    folder = tmp_path / hostile / hostile / "seed0"
    geometry = Geometry.load(outputs / "made_multi" / "learned" / "seed0" / "geometry.safetensors")
    file = folder / "geometry.safetensors"
    replace(geometry, class_names=tuple(f"{hostile}{k}" for k in range(10))).save(file)
    write_json(folder / "03_validate.manifest.json", {"outputs": {file.name: describe_file(file)}})
    page.goto(Explorer(tmp_path / hostile).save_html(tmp_path / "y.html").as_uri())
    shown(page, 60)
    press(page, "n")
    box = page.locator(".nc-view-plane").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    assert hostile in page.locator(".nc-details").inner_text()
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("window.hacked") is None
