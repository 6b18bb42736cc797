"""The papers' claims (`claims/*.yaml`), measured on results, each with a verdict.

    python -m nclib verify                                # on the committed reference results
    python -m nclib verify params/mlab_digits.yaml --from outputs

A value must be as expected for every seed and run; a comparison of two runs, or of two metrics, for the mean of its
differences (or ratios) seed by seed. What is compared lies in `table.csv` and `checkpoints.csv` of a study; theorems,
ceilings and numbers of parameters are computed. docs/claims.md describes the files.
"""

import argparse
import math
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from nclib.study.files import read_csv, write_text
from nclib.study.folders import project_root
from nclib.study.parameters import Name, Real, Section, as_tuple
from nclib.study.study import ParameterError, Study, read_yaml

THEORY = "theory"  # the study of claims that need no training
REFERENCE = "outputs/reference"
THEOREMS = ("pal_minimum", "pal_collapse", "pal_tag_wise", "pal_scales", "mse_minimum", "mse_collapse", "mse_saddles")
FROM_SETTINGS = ("ceiling", "trainable_parameters")  # columns of table.csv that need no results
HOLDS, FAILS, OPEN = "holds", "does not hold", "not measured here"

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Name, ...], BeforeValidator(as_tuple)]


class OneOf(Section):
    """A section of which exactly one field is given, besides those that go with it."""

    @model_validator(mode="after")
    def _one(self) -> "OneOf":
        if len(self.model_fields_set - {"tolerance", "over"}) != 1:
            raise ValueError(f"expected one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """The field that is given."""
        return next(iter(self.model_fields_set - {"tolerance", "over"}))


class Expected(OneOf):
    """A bound, or a value with a tolerance."""

    at_most: Real | None = None
    at_least: Real | None = None
    near: Real | None = None
    tolerance: Annotated[Real, Field(ge=0)] = 0.0

    def miss(self, value: float) -> float:
        """How far a value is from what is expected; at most 0 where it is as expected."""
        off = value - getattr(self, self.kind)
        return {"at_most": off, "at_least": -off, "near": abs(off) - self.tolerance}[self.kind]

    def __str__(self) -> str:
        sign = {"at_most": "≤ ", "at_least": "≥ ", "near": ""}[self.kind]
        return sign + _number(getattr(self, self.kind)) + (f" ± {self.tolerance:g}" if self.tolerance else "")


class Quantity(OneOf):
    """What is measured; a name is a column of `table.csv`, that of a `fall` one of `checkpoints.csv`."""

    value: str | None = Field(None, description="at the last checkpoint")
    fall: str | None = Field(None, description="at the last checkpoint over that of the first")
    difference: str | None = Field(None, description="of a test's run less that of the run it is `against`")
    ratio: str | None = Field(None, description="of a test's run over that of the run it is `against`")
    theorem: Literal[THEOREMS] | None = Field(None, description="a gap of nclib.results.theorems")
    over: str | None = Field(None, description="difference, ratio: with this metric of the same run instead")

    @property
    def is_comparison(self) -> bool:
        return self.kind in ("difference", "ratio")

    def __str__(self) -> str:
        name = f"`{getattr(self, self.kind)}`" + (f" and `{self.over}`" if self.over else "")
        return name if self.kind in ("value", "theorem") else f"{self.kind} of {name}"


class Test(Section):
    """Where a claim is tested, and the verdict that is on record."""

    study: Name
    runs: Texts = ()
    against: Name | None = Field(None, description="the run that each of `runs` is compared with")
    quantity: Quantity | None = Field(None, description="instead of the claim's own")
    expected: Expected | None = Field(None, description="instead of the claim's own")
    verdict: Literal[HOLDS, FAILS, OPEN]
    note: Text | None = None


class Claim(Section):
    id: Name
    claim: Text
    where: Annotated[Text, Field(description="in the paper")]
    quantity: Quantity
    expected: Expected
    why: Annotated[Text, Field(description="this criterion")]
    tests: Annotated[tuple[Test, ...], BeforeValidator(as_tuple), Field(min_length=1)]


class Cost(Section):
    """What a study takes, all seeds and runs together."""

    scale: Literal["laptop", "paper"]
    minutes: Real | None = Field(None, description="of `make reproduce` on the file's hardware; None: not measured")


class Claims(Section):
    """One file of `claims/`."""

    paper: Text
    hardware: dict[Literal["laptop", "paper"], Text]
    studies: dict[Name, Cost]
    claims: Annotated[tuple[Claim, ...], BeforeValidator(as_tuple)]

    @model_validator(mode="after")
    def _known(self) -> "Claims":
        for claim in self.claims:
            for test in claim.tests:
                where = f"claim {claim.id}, study {test.study}"
                if test.study == THEORY:
                    continue
                if test.study not in self.studies:
                    raise ValueError(f"{where}: it is not among the file's studies")
                runs = _study(test.study).runs
                for run in (*test.runs, *([test.against] if test.against else [])):
                    if run not in runs:
                        raise ValueError(f"{where}: it has no run '{run}', but {', '.join(runs)}")
                quantity = test.quantity or claim.quantity
                if not test.runs or bool(test.against or quantity.over) != quantity.is_comparison:
                    raise ValueError(f"{where}: it needs runs and, for a comparison, either against or over")
        return self


@dataclass(frozen=True)
class Finding:
    """What one test of a claim found; of several runs the one that is farthest from what is expected."""

    file: Claims
    claim: Claim
    test: Test
    expected: Expected
    found: str
    run: str
    verdict: str


def main(arguments: list[str]) -> int:
    """`python -m nclib verify [STUDY.yaml] [--from FOLDER]`.

    Returns:
        The exit status: 0 if every verdict is the one on record, 1 if one is not.

    Raises:
        ParameterError: a file is not valid.
    """
    parser = argparse.ArgumentParser(prog="python -m nclib verify", description="Check the papers' claims.")
    parser.add_argument("study", nargs="?", help="only the claims on this study file; otherwise all")
    parser.add_argument("--from", dest="results", default=REFERENCE, help=f"folder of results (default: {REFERENCE})")
    asked = parser.parse_args(arguments)
    results, study = project_root() / asked.results, asked.study and Path(asked.study).stem
    found = findings(results, study=study)
    print(terminal_table(found))
    path = results / (study or "") / "claims.md"
    write_text(path, markdown(found))
    print(f"\nThe criteria and more: {os.path.relpath(path)}")
    other = [each for each in found if differs(each, complete=results == project_root() / REFERENCE)]
    for each in other:
        where = f"{each.claim.id} on {each.test.study}"
        print(f"{where}: {each.verdict}, but on record: {each.test.verdict}", file=sys.stderr)
    return 1 if other else 0


def write_study(folder: Path) -> str:
    """Write `claims.md` beside the tables of a study, if claims are tested on it; returns the text."""
    found = findings(folder.parent, study=folder.name)
    if found:
        write_text(folder / "claims.md", markdown(found))
    return markdown(found) if found else "No claim of the papers is tested on this study."


def differs(finding: Finding, *, complete: bool) -> bool:
    """Whether a verdict is not the one on record; results that need not be complete may leave any of them open."""
    return finding.verdict != finding.test.verdict and (complete or OPEN not in (finding.verdict, finding.test.verdict))


def read_claims() -> list[Claims]:
    """Read and check every file of `claims/`.

    Raises:
        ParameterError: a file is not valid; the message has its path and that of the field.
    """
    found = []
    for path in sorted((project_root() / "claims").glob("*.yaml")):
        try:
            found.append(Claims.model_validate(read_yaml(path)))
        except ValidationError as error:
            lines = []
            for fault in error.errors():
                why = "there is no such field" if fault["type"] == "extra_forbidden" else fault["msg"]
                where = [str(path), ".".join(map(str, fault["loc"])), why.removeprefix("Value error, ")]
                lines.append(": ".join(filter(None, where)))
            raise ParameterError("\n".join(lines)) from None
    return found


def findings(results: Path, *, study: str | None = None) -> list[Finding]:
    """Every test of every claim (only those on one study, if given), on the results in a folder of studies."""
    tests = [(file, claim, test) for file in read_claims() for claim in file.claims for test in claim.tests]
    return [_evaluate(*each, results) for each in tests if study in (None, each[-1].study)]


def _evaluate(file: Claims, claim: Claim, test: Test, results: Path) -> Finding:
    """Measure one test of a claim."""
    expected, quantity = test.expected or claim.expected, test.quantity or claim.quantity
    measured = {run: _measure(quantity, test, run, results) for run in test.runs or ("",)}
    if any(values is None for values in measured.values()):
        return Finding(file, claim, test, expected, "–", "", OPEN)
    compared = {run: [values.mean()] if quantity.is_comparison else values for run, values in measured.items()}
    misses = {run: max(map(expected.miss, values)) for run, values in compared.items()}
    worst = max(misses, key=misses.__getitem__)
    values, verdict = measured[worst], HOLDS if misses[worst] <= 0 else FAILS
    mean = values.mean()
    found = _number(mean) + (f" ± {values.std():.1g}" if len(values) > 1 else "")
    if 0 < abs(mean) < 1e-6:  # of the size of rounding, which differs between machines
        found = f"< 1e{math.ceil(math.log10(abs(mean)))}"
    return Finding(file, claim, test, expected, found, worst if len(misses) > 1 else "", verdict)


def _measure(quantity: Quantity, test: Test, run: str, results: Path) -> pd.Series | None:
    """The quantity of a run by seed; None where it was not measured."""
    folder, name = results / test.study, getattr(quantity, quantity.kind)
    if quantity.kind == "theorem":
        return pd.Series([import_module("nclib.results.theorems").gap(name)])
    if quantity.kind == "fall":
        checkpoints = _of_run(folder / "checkpoints.csv", run, name)
        by_seed = None if checkpoints is None else checkpoints.groupby(level="seed")
        return None if by_seed is None else by_seed.last() / by_seed.first()
    values = _last(folder, run, name)
    if quantity.is_comparison:
        other = _last(folder, test.against or run, quantity.over or name)
        if values is None or other is None:
            return None
        values = (values / other if quantity.kind == "ratio" else values - other).dropna()
    return None if values is None or values.empty else values


def _last(folder: Path, run: str, name: str) -> pd.Series | None:
    """A column of a study's `table.csv` by seed, or what its settings alone decide."""
    if name in FROM_SETTINGS:
        value = getattr(import_module("nclib.results.expected"), name)(_study(folder.name).resolve(run))
        if value is not None:
            return pd.Series([float(value)])
    return _of_run(folder / "table.csv", run, name)


def _of_run(path: Path, run: str, name: str) -> pd.Series | None:
    """A column of a table of results for one run, by seed; None without the table, the run or a value."""
    if not path.is_file():
        return None
    table = _table(path)
    if name not in table:
        raise ParameterError(f"{path} has no column '{name}', which a claim asks for")
    values = table[table["run"] == run].set_index("seed")[name].astype(float)
    return None if values.empty or values.isna().any() else values


@cache
def _table(path: Path) -> pd.DataFrame:
    return read_csv(path, stage="04_figures")


@cache
def _study(name: str) -> Study:
    return Study.from_file(project_root() / "params" / f"{name}.yaml")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def terminal_table(found: Sequence[Finding]) -> str:
    """The findings as a table of 80 columns."""
    lines = []
    for paper, of_paper in groupby(found, key=lambda each: each.file.paper):
        lines += ["", *textwrap.wrap(paper, 80), f"{'study':26}{'expected':15}{'found':22}verdict", "-" * 80]
        for claim, tests in groupby(of_paper, key=lambda each: each.claim):
            ours = list(tests)
            unmeasured = dict.fromkeys(each.test.study for each in ours if each.verdict == OPEN)
            lines += textwrap.wrap(f"{claim.id}: {claim.claim}", 80)
            for x in ours:
                if x.verdict != OPEN:
                    lines.append(f"  {x.test.study:24}{x.expected!s:15}{x.found:22}{x.verdict}")
            if unmeasured:
                lines += textwrap.wrap(f"  {OPEN}: {', '.join(unmeasured)}", 80, subsequent_indent="    ")
    counts = Counter(each.verdict for each in found)
    return "\n".join([*lines, "-" * 80, ", ".join(f"{verdict}: {n}" for verdict, n in counts.items())])


def markdown(found: Sequence[Finding]) -> str:
    """The findings as Markdown: what each claim says, how it is measured, a row for each test, and the studies."""
    parts, studies = ["# Claims and verdicts"], {}
    for paper, of_paper in groupby(found, key=lambda each: each.file.paper):
        parts.append(f"## {paper}")
        for claim, tests in groupby(of_paper, key=lambda each: each.claim):
            rows = []
            for each in tests:
                test, of_run = each.test, f" ({each.run})" if each.run else ""
                runs = ", ".join(test.runs) + (f" against {test.against}" if test.against else "")
                rows.append([test.study, runs, str(each.expected), each.found + of_run, each.verdict, test.note or ""])
                if cost := each.file.studies.get(test.study):
                    minutes = f"{cost.minutes:g}" if cost.minutes else "not measured"
                    studies[test.study] = [test.study, cost.scale, minutes, each.file.hardware[cost.scale]]
            parts += [f"### {claim.claim}", f"{claim.where}. Measured: {claim.quantity}. {claim.why}"]
            parts.append(markdown_table(["study", "runs", "expected", "found", "verdict", "note"], rows))
    parts += ["## The studies", markdown_table(["study", "scale", "minutes", "on"], studies.values())]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
