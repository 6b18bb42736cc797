"""The explorer without a browser: what is read and sent, pictures, pages, and the JavaScript's own tests."""

import base64
import gzip
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from PIL import Image
from safetensors.numpy import load

from nclib.explore import Explorer, load_run, runs, studies
from nclib.explore.arrays import FACTS, NO_LABEL, geometry_arrays
from nclib.explore.payload import pack, plain, run_payload, sprite
from nclib.explore.views import VIEWS
from nclib.figures.angles import collapse_angles
from nclib.figures.feature_plane import FeaturePlane, plane_axes
from nclib.figures.gram import simplex_cosines
from nclib.figures.panels import TITLES
from nclib.figures.style import RunStyles
from nclib.results.geometry import Geometry
from nclib.study.files import StageError, describe_file, write_json
from nclib.study.runner import run_notebook
from nclib.study.study import ParameterError, Study
from tests.synthetic_study import MULTI_LABEL, SINGLE_LABEL, write_study

HERE = Path(__file__).parent
NOTEBOOK = HERE.parent / "notebooks" / "05_explore.ipynb"
MODULE = HERE.parent / "nclib" / "explore" / "explorer.js"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explore") / "outputs"
    write_study(folder, Study.from_mapping(MULTI_LABEL))
    write_study(folder, Study.from_mapping({**SINGLE_LABEL, "seeds": [0]}))
    return folder


@pytest.fixture(scope="module")
def learned(outputs):
    return load_run(outputs / "made_multi", "learned", 0)


@pytest.fixture
def broken(outputs, tmp_path) -> Path:
    """A copy of the multi-label study, to take files away from."""
    return Path(shutil.copytree(outputs / "made_multi", tmp_path / "outputs" / "made_multi"))


def collapsed(K: int = 6, d: int = 8, *, names: tuple[str, ...] = ()) -> Geometry:
    """A run of two equal checkpoints at exact collapse, with all pairs at 0.6 of the sum of their class means."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d, K, generator=generator, dtype=torch.float64))[0].T
    means = (3 * (torch.eye(K, dtype=torch.float64) - 1 / K) @ basis).float()
    singles = torch.eye(K, dtype=torch.uint8)
    pairs = [singles[i] + singles[j] for i in range(K) for j in range(i + 1, K)]
    sets = torch.stack([*singles, *pairs])
    set_means = torch.cat([means, 0.6 * sets[K:].float() @ means])

    def twice(array: torch.Tensor) -> torch.Tensor:
        return torch.stack([array, array])

    return Geometry(
        class_names=names or tuple(f"c{k}" for k in range(K)),
        epochs=torch.tensor([7, 9]),
        label_sets=sets,
        counts=torch.full((len(sets),), 5),
        class_means=twice(means),
        global_mean=twice(means.mean(0)),
        set_means=twice(set_means),
        weight=twice(2 * means),
        bias=torch.zeros(2, K),
        gram_features=twice(simplex_cosines(K)),
        gram_weight=twice(simplex_cosines(K)),
        angles=torch.zeros(2, len(sets)),
        scales=torch.tensor([[1.0, 0.6]] * 2),
        margins=torch.full((2, 30), K / (K - 1)),
        sample_index=torch.arange(len(sets)),
        sample_labels=sets,
        sample_features=twice(set_means),
    )


def leave(geometry: Geometry, folder: Path) -> Path:
    """Write a geometry as 03_validate leaves it."""
    geometry.save(folder / "geometry.safetensors")
    record = describe_file(folder / "geometry.safetensors")
    write_json(folder / "03_validate.manifest.json", {"outputs": {"geometry.safetensors": record}})
    return folder


# What is read -------------------------------------------------------------------------------------------------------


def test_finds_studies_and_runs(outputs, broken):
    assert studies(outputs) == ["made_multi", "made_single"]
    assert runs(outputs / "made_multi") == {"learned": (0, 1), "etf": (0, 1)}
    assert studies(outputs / "nowhere") == [] and runs(outputs / "nowhere") == {}
    for seed in (0, 1):
        (broken / "learned" / f"seed{seed}" / "geometry.safetensors").unlink()
    assert list(runs(broken)) == ["etf", "learned"]  # what can be looked at comes first


def test_runs_come_in_the_order_of_the_study_and_look_as_in_its_figures(tmp_path):
    names = ["mse_learned", "ce_learned", "ce_etf"]
    study = tmp_path / "made_order"
    for name in ["added", *names]:
        (study / name / "seed0").mkdir(parents=True)
    assert list(runs(study)) == ["added", "ce_etf", "ce_learned", "mse_learned"]
    planned = {name: {"label": name.upper()} for name in names}
    Study.from_mapping({"study": "made_order", "runs": planned}).to_file(study / "study.yaml")
    assert list(runs(study)) == [*names, "added"]
    styles = RunStyles.from_runs([*(name.upper() for name in names), "added"])
    for name in names:
        header = read_header(run_payload(load_run(study, name, 0))[0])
        assert header["label"] == f"{name.upper()}, seed 0"
        assert header["color"] == to_hex(styles.colors[name.upper()])
        assert header["dash"] == list(styles.dashes[name.upper()] or ())
    assert len(header["marker"]) == 4  # the third run's is a triangle, and closed


def test_before_any_run_the_order_is_that_of_the_study_file(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "Snakefile").touch()
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "mine.yaml").write_text("study: mine\nruns: {second: {}, first: {}}\n")
    for name in ("first", "second"):
        (tmp_path / "outputs" / "mine" / name / "seed0").mkdir(parents=True)
    assert list(runs(tmp_path / "outputs" / "mine")) == ["second", "first"]


def test_what_is_missing_or_damaged_is_said(broken):
    folder = broken / "learned" / "seed0"
    (folder / "metrics.csv").write_text("nonsense")
    data = load_run(broken, "learned", 0)
    assert data.metrics is None and data.geometry is not None
    assert "metrics.csv is damaged" in data.problems[0]
    (folder / "geometry.safetensors").unlink()
    shutil.rmtree(broken / "datasets")
    explorer = Explorer(broken, run="learned")
    header = read_header(explorer.shown["runs"][0])
    assert "classes" not in header
    assert any("geometry.safetensors is missing: run stage 03_validate" in text for text in header["problems"])
    assert explorer.runs[1].sample_images is None
    assert explorer.picture("features")  # of the other run


def test_a_training_after_the_measurement_is_said(broken):
    folder = broken / "learned" / "seed0"
    for name, where in (("02_train", "outputs"), ("03_validate", "inputs")):
        manifest = json.loads((folder / f"{name}.manifest.json").read_text())
        manifest[where]["checkpoints/epoch_0060.safetensors"] = {"sha256": "new"} if where == "outputs" else "old"
        (folder / f"{name}.manifest.json").write_text(json.dumps(manifest))
    assert "was trained again since it was measured" in load_run(broken, "learned", 0).problems[0]


def test_theory_of_a_run_comes_from_its_manifest(learned, broken):
    assert set(learned.theory) >= {"train_soft_iou", "tag_wise_scale_2"}
    path = broken / "learned" / "seed0" / "03_validate.manifest.json"
    path.write_text(path.read_text().replace('"weight_decay": 0.0005', '"weight_decay": "many"'))
    assert load_run(broken, "learned", 0).theory == {}


# What is sent -------------------------------------------------------------------------------------------------------


def read_header(payload: bytes) -> dict:
    length = int.from_bytes(payload[:8], "little")
    return json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["text"])


def test_reduction_keeps_what_lies_in_the_span_of_the_class_means(learned):
    """Products of class means with each other, with classifier rows and with features, here in 9 of 32 dimensions."""
    g, arrays = learned.geometry, geometry_arrays(learned.geometry, {})
    assert arrays["rest"].shape[2] == 9
    for e in (0, 5, 12):
        means, rows = (a[e].double().numpy() - a[e].double().numpy().mean(0) for a in (g.class_means, g.weight))
        points = g.sample_features[e].double().numpy() - g.class_means[e].double().numpy().mean(0)
        size, length = (np.sqrt(np.square(vectors).sum(1).mean()) for vectors in (means, rows))
        reduced = arrays["means"][e]
        np.testing.assert_allclose(reduced @ reduced.T, means @ means.T / size**2, atol=1e-5)
        np.testing.assert_allclose(arrays["rows"][e] @ reduced.T, rows @ means.T / size / length, atol=1e-5)
        sent = arrays["set_means"][e][arrays["set_of"]] + arrays["rest"][e] * arrays["step"][e]
        np.testing.assert_allclose(sent @ reduced.T, points @ means.T / size**2, atol=2 * arrays["step"][e])
        assert arrays["step"][e] < 0.01 * np.abs(sent).max()


def test_points_have_true_cosine_margins_and_predictions():
    g = collapsed()
    arrays = geometry_arrays(g, {"tag_wise_scale_2": 0.7})
    single = (g.sample_labels.sum(1) == 1).numpy()
    np.testing.assert_allclose(arrays["margin"][0, single], 6 / 5, rtol=1e-5)
    assert np.isnan(arrays["margin"][0, ~single]).all()
    labels = [np.flatnonzero(row) for row in g.sample_labels.numpy()]
    assert [row[row != NO_LABEL].tolist() for row in arrays["predicted"][0]] == [row.tolist() for row in labels]
    assert np.nanmax(np.abs(geometry_arrays(replace(g, sample_features=50 + g.sample_features), {})["margin"])) <= 2
    facts = dict(zip(FACTS, arrays["facts"][0].T, strict=True))
    assert (facts["training images"] == 5).all()
    for name, of_one, of_pair in (
        ("length of its mean (of all class means: 1)", 1, np.nan),
        ("scale of its own", np.nan, 0.6),
        ("scale predicted by theory", np.nan, 0.7),
        ("off the tag-wise average (share of its length)", np.nan, 0),
    ):
        np.testing.assert_allclose(facts[name], [of_one] * 6 + [of_pair] * 15, rtol=1e-5, atol=1e-5)


def test_angles(outputs, learned):
    assert np.nanmax(collapse_angles(collapsed(), 0)) < 1e-3
    angles = collapse_angles(learned.geometry, 5)
    sets = learned.geometry.label_sets.numpy().tolist()
    place = sets.index([int(k in (3, 7)) for k in range(10)])
    assert angles[3, 7] == angles[7, 3] == float(learned.geometry.angles[5, place])
    g = load_run(outputs / "made_single", "sgd", 0).geometry
    cosine = float(g.gram_features[3, 2, 5])
    expected = abs(np.degrees(np.arccos(cosine)) - np.degrees(np.arccos(-1 / 9)))
    assert collapse_angles(g, 3)[2, 5] == pytest.approx(expected, abs=1e-2)


def test_no_title_shows_latex_and_no_two_are_alike():
    titles = [plain(title.replace("{labels}", "2")) for title in TITLES.values()]
    assert not [title for title in titles if re.search(r"[\\$_{}^]", title)]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(("channels", "side", "shown"), [(1, 9, 9), (3, 40, 20)])
def test_images_lie_side_by_side_in_one_file(channels, side, shown):
    images = torch.zeros(5, channels, side, side, dtype=torch.uint8)
    images[3] = 200
    file, tiles = sprite(images)
    assert tiles == {"columns": 3, "width": shown, "height": shown}
    pixels = np.asarray(Image.open(io.BytesIO(file))).reshape(2 * shown, 3 * shown, -1).astype(int)
    expected = np.zeros_like(pixels)
    expected[shown:, :shown] = 200  # the fourth image
    assert np.abs(pixels - expected).max() <= (0 if channels == 1 else 12)  # exact if gray


# The widget ---------------------------------------------------------------------------------------------------------


def test_choices_from_the_browser(outputs):
    explorer = Explorer(outputs / "made_multi", seed=1)
    assert explorer.shown["chosen"] == [("learned", 1), ("etf", 0)]
    catalog = explorer.shown["catalog"]
    assert list(catalog) == ["made_multi", "made_single"]
    assert [choice[1:] for choice in catalog["made_single"]] == [("adam", 0), ("lbfgs", 0), ("sgd", 0)]
    assert catalog["made_multi"][1] == ("learned, seed 1", "learned", 1)
    explorer.choice = {"study": "made_single", "runs": [["adam", 0]], "read": 0}
    assert [data.label for data in explorer.runs] == ["adam, seed 0"]
    assert len(explorer.shown["runs"]) == 1
    explorer.choice = {"study": "made_multi", "runs": [["../../made_single/sgd", 0], ["etf", 9]], "read": 1}
    assert explorer.shown["chosen"] == [("learned", 0), ("etf", 0)]  # what there is not is not looked for
    explorer.choice = {"study": "gone", "runs": [], "read": 1}
    assert "holds no training run yet" in explorer.shown["message"]


def test_what_there_is_not(outputs, tmp_path):
    with pytest.raises(
        ParameterError, match="no run 'none' with seed None, but learned with seed 0, learned with seed 1"
    ):
        Explorer(outputs / "made_multi", run="none")
    with pytest.raises(ParameterError, match="no run '' with seed 7"):
        Explorer(outputs / "made_multi", seed=7)
    other = Explorer(outputs / "coming", run="learned")  # only other studies were run
    assert other.shown["study"] == "made_multi"
    assert "coming holds no training run yet. Run the study first" in other.shown["message"]
    nothing = Explorer(tmp_path / "outputs" / "coming")
    assert nothing.shown["runs"] == []
    with pytest.raises(StageError, match=r"make reproduce STUDY=params/coming\.yaml"):
        nothing.picture()
    with pytest.raises(StageError, match="holds no training run"):
        nothing.save_html(tmp_path / "x.html")


def test_reading_again_finds_what_is_new(broken):
    explorer = Explorer(broken, run="learned")
    (broken / "learned" / "seed0" / "geometry.safetensors").unlink()
    explorer.choice = {**explorer.choice, "runs": [["learned", 0]]}
    assert explorer.runs[0].geometry is not None
    explorer.choice = {**explorer.choice, "read": 1}
    assert explorer.runs[0].geometry is None


def test_pictures_are_those_of_the_figures(outputs):
    explorer = Explorer(outputs / "made_multi")
    drawn = {view: explorer.picture(view, epoch=20) for view in VIEWS}
    assert all(Image.open(io.BytesIO(png)).width > 400 for png in drawn.values())
    assert len({*drawn.values(), explorer.picture(epoch=0), explorer.picture(epoch=20, plane=(0, 1, 2))}) == 7
    for wrong in ({"plane": "sideways"}, {"plane": (0, 0, 1)}, {"epoch": 3}):
        with pytest.raises(ValueError, match="Expected"):
            explorer.picture("features", **wrong)
    with pytest.raises(ValueError, match="Expected a view of metrics, features"):
        explorer.picture("sideways")


def test_runs_of_a_picture_look_as_in_their_study(outputs):
    explorer = Explorer(outputs / "made_multi", run="etf")
    explorer.choice = {**explorer.choice, "runs": [["etf", 0]]}
    first, second = (np.round(np.multiply(255, color)) for color in RunStyles.from_runs("ab").colors.values())
    for view in ("metrics", "margins"):
        pixels = np.asarray(Image.open(io.BytesIO(explorer.picture(view))).convert("RGB"))
        assert (pixels == second).all(2).any() and not (pixels == first).all(2).any()


def test_plane_of_the_figure_shows_an_etf_as_a_polygon():
    means = collapsed().class_means[0].double().numpy()
    size = np.linalg.norm(means[0])
    circle = means @ plane_axes(means, "circle") / size
    np.testing.assert_allclose(np.linalg.norm(circle, axis=1), np.sqrt(2 / 5), rtol=1e-5)
    three = means[[0, 2, 4]] @ plane_axes(means, (0, 2, 4)) / size
    sides = np.linalg.norm(three - np.roll(three, 1, 0), axis=1)
    np.testing.assert_allclose(sides, np.sqrt(12 / 5), rtol=1e-5)
    line = FeaturePlane({"two classes": (collapsed(K=2), 0)}).plot()
    assert len(line.axes_[0].lines) == 2
    plt.close("all")


def test_a_page_holds_every_run_and_seed(outputs, tmp_path):
    path = Explorer(outputs / "made_multi").save_html(tmp_path / "x.html")
    text = path.read_text()
    book = gzip.decompress(base64.b64decode(re.search(r'id="book">([^<]+)<', text)[1]))
    file = read_header(load(book)["etf/0"].tobytes())["images"]["file"]
    assert set(load(book)) >= {"learned/0", "learned/1", "etf/0", "etf/1", "cosine", "angle", file}
    assert not re.search(r"https?://(?!www.w3.org)", text)  # nothing is loaded from elsewhere
    with pytest.raises(StageError, match="Cannot write"):
        Explorer(outputs / "made_multi").save_html("/proc/x.html")


# JavaScript ---------------------------------------------------------------------------------------------------------


def expected_planes(data, name: str, checkpoint: int) -> list[dict]:
    """What `plane_axes` shows of a run, computed from all dimensions."""
    g = data.geometry
    means = g.class_means[checkpoint].double().numpy()
    center = means.mean(0)
    rows = g.weight[checkpoint].double().numpy()
    rows = (rows - rows.mean(0)) / np.sqrt(np.square(rows - rows.mean(0)).sum(1).mean())
    found = []
    for plane in ("circle", (3, 1, 4)):
        axes = plane_axes(means - center, plane)
        origin = center if plane == "circle" else means[list(plane)].mean(0)
        size = np.sqrt(np.square(means - center).sum(1).mean())
        seen = {"means": (means - origin) @ axes / size, "tips": (center - origin) @ axes / size + rows @ axes}
        seen["points"] = (g.sample_features[checkpoint].double().numpy() - origin) @ axes / size
        found.append({"name": name, "plane": plane, "checkpoint": checkpoint})
        found[-1] |= {what: array.ravel().tolist() for what, array in seen.items()}
    return found


def test_javascript(outputs, learned, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the JavaScript's unit tests need its test runner")
    single = load_run(outputs / "made_single", "sgd", 0)
    variants = {
        "multi": learned,
        "single": single,
        "three": replace(learned, geometry=collapsed(K=3, d=5)),
        "hundred": replace(learned, geometry=collapsed(K=100, d=120)),
        "hostile": replace(learned, geometry=collapsed(K=3, names=("<img src=x onerror=alert(1)>", "b", "c"))),
        "empty": replace(learned, geometry=None, metrics=None, problems=("gone: run stage 03_validate first.",)),
    }
    for name, data in variants.items():
        (tmp_path / name).write_bytes(run_payload(data)[0])
    arrays = {"small": np.array([1, 2, 3], np.uint8), "large": np.array([[0.5, -(2**100)]], np.float32)}
    (tmp_path / "pack").write_bytes(pack({"text": "ä & <b>"}, arrays))
    module = tmp_path / "explorer.mjs"  # node takes a .js file for an older kind of module
    shutil.copy(MODULE, module)
    expected = [*expected_planes(learned, "multi", 4), *expected_planes(single, "single", 10)]
    given = {"module": str(module), "folder": str(tmp_path), "expected": expected}
    (tmp_path / "given.json").write_text(json.dumps(given))
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", HERE / "explorer.test.mjs"],
        env={**os.environ, "NCLIB_EXPLORER": str(tmp_path / "given.json")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"# pass (\d+)", done.stdout)[1]) > 15


# The notebook -------------------------------------------------------------------------------------------------------


def study_file(folder: Path, name: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**MULTI_LABEL, "study": name}))
    return str(path)


def last_values(**parameters) -> list[object]:
    """What the last line of each code cell gives, run in this process."""
    shell, values = InteractiveShell(), []
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)
            done.raise_error()
            values += [] if done.result is None else [done.result]
            if "parameters" in cell.metadata.get("tags", ()):
                shell.push(parameters)
    return values


def test_executed_notebook_leaves_pictures(outputs, tmp_path):
    given = {"study": study_file(tmp_path, "made_multi"), "outputs": str(outputs)}
    run_notebook(NOTEBOOK, tmp_path / "executed.ipynb", given)
    notebook = nbformat.read(tmp_path / "executed.ipynb", 4)
    assert "widgets" not in notebook.metadata
    bundles = [o.data for cell in notebook.cells for o in cell.get("outputs", ()) if "data" in o]
    pictures = [Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) for data in bundles]
    assert len(pictures) == 3 and "application/vnd.jupyter.widget-view+json" in bundles[0]
    assert sum(len(json.dumps(data)) for data in bundles) < 1e6


def test_notebook_of_two_classes_shows_their_line(tmp_path):
    leave(collapsed(K=2), tmp_path / "two" / "learned" / "seed0")
    explorer, *pictures = last_values(study=study_file(tmp_path, "two"), outputs=str(tmp_path))
    assert "image/png" in explorer._repr_mimebundle_()[0]
    assert [picture.data[1:4] for picture in pictures] == [b"PNG"] * 2
    plt.close("all")


@pytest.mark.parametrize("run", [None, "learned"])
def test_notebook_says_in_words_that_there_is_nothing_to_draw(tmp_path, run):
    """Before any training, and after a training that was not validated."""
    if run:
        (tmp_path / "coming" / run / "seed0").mkdir(parents=True)
    _, *shown = last_values(study=study_file(tmp_path, "coming"), outputs=str(tmp_path))
    assert ["Nothing to draw" in value.data for value in shown] == [True, True]
