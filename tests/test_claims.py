"""The papers' claims: files are checked, quantities measured, and verdicts compared with those on record."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nclib.__main__ import main
from nclib.results import claims, expected
from nclib.results.claims import Expected
from nclib.study.study import Study

ROOT = Path(__file__).parent.parent
CLAIM = {
    "id": "one",
    "claim": "It holds.",
    "where": "Abstract",
    "quantity": {"value": "train_nc1"},
    "expected": {"at_most": 0.1},
    "why": "It is small.",
}
FILE = {"paper": "A paper", "hardware": {"laptop": "two cores"}, "studies": {"made": {"scale": "laptop", "minutes": 3}}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a study of two runs and results of two seeds."""
    for folder in ("notebooks", "claims", "params", "outputs/reference/made"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "Snakefile").touch()
    (tmp_path / "params/made.yaml").write_text("{study: made, runs: {learned: {}, etf: {}, more: {}}}")
    rows = [("learned", 0, 0.1, 0.9, 0.8), ("learned", 1, 0.05, 0.8, 0.8), ("etf", 0, 0.3, 0.89, 0.9)]
    rows += [("etf", 1, 0.05, 0.83, 0.9)]
    table = pd.DataFrame(rows, columns=["run", "seed", "train_nc1", "test_top1", "test_top5"])
    table.to_csv(tmp_path / "outputs/reference/made/table.csv", index=False)
    first = table.assign(epoch=0, train_nc1=2.0)
    pd.concat([first, table.assign(epoch=9)]).to_csv(tmp_path / "outputs/reference/made/checkpoints.csv", index=False)
    monkeypatch.chdir(tmp_path)
    claims._study.cache_clear()
    yield tmp_path
    claims._study.cache_clear()


def write(project, *tests, **changes):
    claim = CLAIM | changes | {"tests": [{"study": "made", "verdict": "holds"} | test for test in tests]}
    (project / "claims/a.yaml").write_text(yaml.safe_dump(FILE | {"claims": [claim]}))


def finding(project, test, **changes):
    write(project, test, **changes)
    (found,) = claims.findings(project / "outputs/reference")
    return found.found, found.run, found.verdict


def test_a_value_must_be_as_expected_for_every_seed_and_run(project):
    assert finding(project, {"runs": ["learned"]}) == ("0.075 ± 0.04", "", "holds")
    assert finding(project, {"runs": ["learned", "etf"]}) == ("0.175 ± 0.2", "etf", "does not hold")
    assert finding(project, {"runs": ["etf"], "expected": {"at_least": 0.05}})[2] == "holds"
    assert finding(project, {"runs": ["etf"], "expected": {"near": 0.2, "tolerance": 0.1}})[2] == "does not hold"
    assert finding(project, {"runs": ["learned"]}, quantity={"fall": "train_nc1"}) == ("0.0375 ± 0.02", "", "holds")


def test_a_comparison_is_of_the_mean_over_seeds(project):
    test = {"runs": ["etf"], "against": "learned", "expected": {"at_least": 0.0}}
    assert finding(project, test, quantity={"difference": "test_top1"}) == ("0.01 ± 0.03", "", "holds")
    test["expected"] = {"at_most": 2.0}
    assert finding(project, test, quantity={"ratio": "train_nc1"}) == ("2 ± 1", "", "holds")
    test = {"runs": ["learned"], "expected": {"at_most": 0.04}}
    over = {"difference": "test_top1", "over": "test_top5"}
    assert finding(project, test, quantity=over) == ("0.05 ± 0.07", "", "does not hold")


def test_what_has_no_results_is_not_measured(project):
    assert finding(project, {"runs": ["learned", "more"]}) == ("–", "", "not measured here")
    assert finding(project, {"runs": ["etf"], "against": "more"}, quantity={"ratio": "train_nc1"})[2] == claims.OPEN
    (project / "outputs/reference/made/table.csv").unlink()
    assert finding(project, {"runs": ["learned"]})[2] == claims.OPEN


def test_a_verdict_that_is_not_the_one_on_record_is_an_error(project, capsys):
    write(project, {"runs": ["learned"]}, {"runs": ["etf"]}, {"runs": ["more"]})
    assert claims.main([]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "one on made: does not hold, but on record: holds",
        "one on made: not measured here, but on record: holds",
    ]
    assert "made                    ≤ 0.1          0.075 ± 0.04          holds" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80
    written = (project / "outputs/reference/claims.md").read_text()
    assert "| made | etf | ≤ 0.1 | 0.175 ± 0.2 | does not hold |  |" in written
    assert "| made | laptop | 3 | two cores |" in written
    write(project, {"runs": ["learned"]}, {"runs": ["etf"], "verdict": "does not hold"})
    assert claims.main([]) == 0


def test_own_results_may_leave_claims_open(project):
    write(project, {"runs": ["learned"]}, {"runs": ["more"]}, {"runs": ["learned"], "verdict": claims.OPEN})
    (project / "outputs/reference").rename(project / "own")
    assert claims.main(["params/made.yaml", "--from", "own"]) == 0
    assert (project / "own/made/claims.md").is_file()
    assert "It holds." in claims.write_study(project / "own/made")
    assert "No claim" in claims.write_study(project / "own/other")


@pytest.mark.parametrize(
    ("changes", "test", "message"),
    [
        ({}, {"runs": ["lerned"]}, "claim one, study made: it has no run 'lerned', but learned, etf, more"),
        ({}, {"study": "other", "runs": ["a"]}, "claim one, study other: it is not among the file's studies"),
        ({"quantity": {"ratio": "train_nc1"}}, {"runs": ["etf"]}, "for a comparison, either against or over"),
        ({}, {"runs": ["etf"], "against": "learned"}, "for a comparison, either against or over"),
        ({}, {}, "it needs runs"),
        ({"quantity": {"theorem": "pal_minimun"}}, {"study": "theory"}, "claims.0.quantity.theorem: .*'pal_minimum'"),
        ({"quantity": {"value": "a", "fall": "b"}}, {"runs": ["etf"]}, "expected one of value, fall, difference"),
        ({"expected": {"tolerance": 1}}, {"runs": ["etf"]}, "expected one of at_most, at_least, near"),
        ({"because": "x"}, {"runs": ["etf"]}, "claims.0.because: there is no such field"),
        ({}, {"runs": ["etf"], "verdict": "maybe"}, "claims.0.tests.0.verdict: .*'holds'"),
    ],
)
def test_files_are_checked_like_studies(project, capsys, changes, test, message):
    write(project, test, **changes)
    assert main(["verify"]) == 2
    assert re.search(rf"error: {project}/claims/a.yaml: .*{message}", capsys.readouterr().err)


def test_a_metric_that_no_table_has_is_refused(project, capsys):
    write(project, {"runs": ["etf"]}, quantity={"value": "train_nc7"})
    assert main(["verify"]) == 2
    assert "made/table.csv has no column 'train_nc7', which a claim asks for" in capsys.readouterr().err


def test_the_committed_results_have_the_verdicts_on_record():
    """But for the theorems, which `make verify` computes and tests/test_theory.py tests."""
    claims_ = [(file, claim, test) for file in claims.read_claims() for claim in file.claims for test in claim.tests]
    found = [claims._evaluate(*each, ROOT / claims.REFERENCE) for each in claims_ if each[-1].study != claims.THEORY]
    assert len(found) > 100
    assert [f"{each.claim.id} {each.test.study}" for each in found if claims.differs(each, complete=True)] == []


def test_expected_values_read_as_they_are_meant():
    assert [str(Expected(**values)) for values in ({"at_most": 0.05}, {"at_least": -0.01}, {"near": 40000})] == [
        "≤ 0.05",
        "≥ -0.01",
        "40,000",
    ]
    assert str(Expected(near=0.487, tolerance=5e-4)) == "0.487 ± 0.0005"


def test_settings_alone_decide_ceiling_and_sizes(capsys):
    study = Study.from_file(ROOT / "params/mlab_mnist.yaml")
    learned, etf = (study.resolve(f"resnet18_{head}") for head in ("learned", "etf"))
    assert expected.ceiling(etf) == pytest.approx(0.487, abs=5e-4)
    assert (expected.trainable_parameters(learned), expected.trainable_parameters(etf)) == (11_172_810, 8_858_610)
    svhn = Study.from_file(ROOT / "params/mlab_svhn.yaml").resolve("resnet18_etf")
    assert expected.ceiling(svhn) is None
    rescaled = Study.from_file(ROOT / "params/mse_rescaled_k.yaml").resolve("k1")
    assert expected.trainable_parameters(rescaled) is None
    assert expected.main([str(ROOT / "params/mlab_mnist.yaml"), "resnet18_etf", "resnet50_etf"]) == 0
    assert capsys.readouterr().out.endswith("decays: resnet18_etf 0.487, resnet50_etf 0.889\n")
    assert main(["ceiling", str(ROOT / "params/none.yaml")]) == 2
    imbalanced = Study.from_file(ROOT / "params/digits_longtail.yaml").resolve("step")
    assert 0.5 < expected.ceiling(imbalanced) < 0.9
