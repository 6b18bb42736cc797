"""README and site: what they show is what is there, and what they tell to type works."""

import doctest
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import nclib
from nclib.__main__ import COMMANDS, main
from nclib.study import crate
from nclib.study.study import Study
from tests.synthetic_study import MULTI_LABEL, write_study
from tests.test_rooms import LIBRARY

ROOT = Path(__file__).parent.parent
REFERENCES = ROOT / "outputs/reference"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
sys.path.insert(0, str(ROOT / "docs"))
metric_pictures, pages, parts = map(importlib.import_module, ("metric_pictures", "pages", "parts"))
sys.path.remove(str(ROOT / "docs"))


def test_the_parts_from_claims_and_results_are_as_they_are_made_now():
    """If not, `python docs/parts.py` makes them again."""
    made = parts.parts()
    texts = {name: (ROOT / name).read_text() for name in parts.FILES}
    assert sorted(made) == sorted(re.findall(r"<!-- (\w+): python docs/parts.py -->", "".join(texts.values())))
    assert [name for name, text in texts.items() if parts.filled(text, made) != text] == []


def test_the_first_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    with Image.open(ROOT / "docs/collapse.webp") as movie:
        assert movie.n_frames > 20
    assert (ROOT / "docs/collapse.webp").stat().st_size <= 2 << 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_there_is(page):
    text = page.read_text()
    blocks = re.findall(r"(?m)^    (?:make|python|papermill|conda|docker) .*", text) + re.findall(
        r"`((?:make|python) [^`]+)`", text
    )
    makefile = (ROOT / "Makefile").read_text()
    for line in blocks:
        command = line.split("#")[0].strip()
        for study in re.findall(r"params/(\w+)\.yaml", command):
            assert study == "NAME" or (ROOT / f"params/{study}.yaml").is_file(), line
        for script in re.findall(r"(?:docs|benchmarks|notebooks)/\w+\.(?:py|ipynb)", command):
            assert (ROOT / script).is_file(), line
        if match := re.match(r"python -m nclib ([\w-]+)", command):
            assert match[1] in COMMANDS or match[1].isupper(), line
        if command.startswith("make "):
            words = [re.match(r"[\w-]*", word)[0] for word in re.sub(r'"[^"]*"', "", command).split()[1:]]
            for word in filter(None, words):
                known = rf"(?m)^{word} \?=" if word.isupper() or "_" in word else rf"(?m)^{word}:"
                assert re.search(known, makefile), line


def test_every_page_is_in_the_contents():
    entries = re.findall(
        r"(?m)^(?:.*<)?([\w./]+)>?$",
        "".join(re.findall(r":::\{toctree\}(.*?):::", (ROOT / "docs/index.md").read_text(), re.DOTALL)),
    )
    listed = {entry for entry in entries if entry != ""}
    made = {f"made/{name}" for name in (*pages.NOTEBOOKS, "gallery", "metrics_one_by_one")}
    written = {page.stem for page in ROOT.glob("docs/*.md")} - {"index"}
    assert {entry for entry in listed if not entry.startswith("..")} == made | written
    assert all((ROOT / f"docs/{entry}.md").is_file() for entry in listed if entry.startswith(".."))


def test_every_metric_has_its_section():
    table = metric_pictures.rows((ROOT / "docs/metrics.md").read_text())
    shown = [key for keys in metric_pictures.SEEN.values() for key in keys]
    assert set(metric_pictures.measured("")) == set(table) == set(shown)
    assert len(shown) == len(set(shown))
    for key in shown:
        assert hasattr(importlib.import_module("nclib.metrics"), metric_pictures.function_of(key))


def test_a_picture_shows_what_its_metric_sees():
    collapsed = metric_pictures.measured("")
    for what, keys in metric_pictures.SEEN.items():
        found = metric_pictures.measured(what)
        assert [key for key in keys if abs(found[key] - collapsed[key]) < 1e-3 and key != "top5"] == [], what


@pytest.mark.parametrize("room", sorted(LIBRARY))
def test_every_public_name_of_the_library_has_an_example(room):
    """In its docstring (tests/test_rooms.py runs them), or in docs/api.md."""
    module, api = importlib.import_module(f"nclib.{room}"), (ROOT / "docs/api.md").read_text()
    assert f".. automodule:: nclib.{room}\n" in api
    examples = "\n".join(line for line in api.splitlines() if line.startswith((">>>", "...")))
    own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == f"nclib.{room}"]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    without = [name for name in names if ">>>" not in (inspect.getdoc(getattr(module, name)) or "")]
    assert [name for name in without if not re.search(rf"\b{name}\b", examples)] == []


def test_the_examples_of_the_api_page():
    assert doctest.testfile(str(ROOT / "docs/api.md"), module_relative=False, optionflags=doctest.ELLIPSIS).failed == 0


def test_those_who_cite_are_told_the_same_everywhere():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    codemeta, zenodo = (json.loads((ROOT / name).read_text()) for name in ("codemeta.json", ".zenodo.json"))
    assert cff["version"] == codemeta["version"] == nclib.__version__
    assert f"## {nclib.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert cff["title"] == zenodo["title"]
    assert cff["license"] == zenodo["license"] == codemeta["license"].rpartition("/")[2] == "MIT"
    papers = [paper["identifiers"][0]["value"] for paper in cff["references"]]
    assert papers == [each["identifier"] for each in zenodo["related_identifiers"]]
    assert papers == [each["identifier"].removeprefix("https://doi.org/") for each in codemeta["referencePublication"]]


def test_a_crate_describes_every_file_and_what_made_it(tmp_path, capsys):
    study = Study.from_mapping(MULTI_LABEL | {"seeds": [0]})
    folder = write_study(tmp_path / "outputs", study).root
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(MULTI_LABEL | {"seeds": [0]}))
    assert crate.main([str(tmp_path / "made.yaml"), "--outputs", str(tmp_path / "outputs")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / crate.FILE)
    graph = {each["@id"]: each for each in json.loads((folder / crate.FILE).read_text())["@graph"]}
    actions = [each for each in graph.values() if each["@type"] == "CreateAction"]
    assert len(actions) == 5  # one data set; two runs, each trained and measured
    linked = [
        link["@id"] for action in actions for link in (*action["object"], *action["result"], action["instrument"])
    ]
    assert set(linked) | {action["@id"] for action in actions} <= set(graph)
    assert {link["@id"] for link in graph["./"]["hasPart"]} == {
        name for name in graph if "File" in graph[name]["@type"]
    }
    assert all(
        (folder / each["@id"]).stat().st_size == int(each["contentSize"]) for each in graph.values() if "sha256" in each
    )
    assert crate.main([str(tmp_path / "made.yaml"), "--outputs", str(tmp_path / "none")]) == 1
    assert main(["crate", str(tmp_path / "none.yaml")]) == 2


def test_every_reference_figure_is_one_that_is_still_drawn():
    figures, captions = (
        {path.with_suffix("") for path in REFERENCES.glob(f"*/*.{ending}")} for ending in ("png", "txt")
    )
    assert figures == captions, "left behind by an earlier state"
