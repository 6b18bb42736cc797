"""The parts of README.md and docs/artifact.md that come from claims/, params/ and outputs/reference/.

`python docs/parts.py` writes them; a test compares them.
"""

import math
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from nclib.results.claims import FAILS, HOLDS, OPEN, REFERENCE, THEORY, Claims, _evaluate, markdown_table, read_claims
from nclib.results.expected import trainable_parameters
from nclib.study.study import Study

ROOT = Path(__file__).parent.parent
FILES = ("README.md", "docs/artifact.md")
RUNS = {"learned": "classifier learned", "etf": "fixed to a simplex ETF"}
RESULTS = {  # of the table of the default study: column of table.csv, digits
    "test IoU": ("test_soft_iou", 3),
    "NC1": ("train_nc1", 4),
    "NC2 of the means": ("train_nc2_h_centered", 2),
    "NC3": ("train_nc3_centered", 2),
    "tag-wise ratio": ("train_tag_wise_ratio_2", 2),
    "trained parameters": ("trainable_parameters", 0),
}
GALLERY = {  # figure of outputs/reference -> what it shows
    "mlab_digits/gram": "Class means and classifier against a simplex ETF, cosine by cosine",
    "mlab_digits_triples/concept": "Pairs on the average of their labels' means",
    "mlab_digits_triples/geometry": "Sets of two and of three labels along the sum of their labels' means",
    "mlab_digits_imbalanced/imbalance": "Frequent and rare pairs",
    "digits_optimizers/collapse": "Squared error and cross-entropy, three optimizers",
    "digits_rescaled/collapse": "Rescaled squared error collapses further",
    "digits_longtail/collapse": "Imbalanced classes go where certified minima say (dotted), not to the ETF",
    "mlab_cifar10_small/concept": "Pairs of real CIFAR-10 images",
}


def parts() -> dict[str, str]:
    """Each part by its name."""
    files = read_claims()
    return {
        "counts": counts(files),
        "claims": claims(files),
        "results": results(),
        "gallery": gallery(),
        "commands": commands(files),
        "costs": costs(files),
    }


def counts(files: list[Claims]) -> str:
    """How many tests of the claims hold."""
    tests = Counter(test.verdict for file in files for claim in file.claims for test in claim.tests)
    return (
        f"Of the {sum(tests.values())} tests of {sum(len(file.claims) for file in files)} claims, {tests[HOLDS]} hold "
        f"on the committed results, {tests[FAILS]} do not, each with a note, and {tests[OPEN]} are not measured yet "
        "(the papers' full size takes a GPU)."
    )


def claims(files: list[Claims]) -> str:
    """A row for each claim of an abstract."""
    tables = []
    for file in files:
        rows = []
        for claim in (each for each in file.claims if each.where.startswith("Abstract")):
            tests = [test for test in claim.tests if test.study != THEORY]  # a theorem takes seconds to compute
            found = [_evaluate(file, claim, test, ROOT / REFERENCE) for test in tests]
            shown = next((each for each in found if each.verdict != OPEN), None)
            verdicts = Counter(test.verdict for test in claim.tests)
            said = ", ".join(f"{name}: {verdicts[name]}" for name in (HOLDS, FAILS) if verdicts[name]) or OPEN
            value = f"{shown.found} (`{shown.test.study}`)" if shown else "computed" if verdicts[HOLDS] else "–"
            expected = str(shown.expected if shown else claim.expected)
            rows.append([claim.claim, expected, value, said])
        tables.append(markdown_table([file.paper.split(" (")[0], "expected", "found", "verdicts"], rows))
    return "\n\n".join(tables)


def results() -> str:
    """The default study at its last checkpoint."""
    read, rows = pd.read_csv(ROOT / REFERENCE / "mlab_digits/table.csv"), []
    for run, of_run in read.groupby("run", sort=False):
        cells = []
        for column, digits in RESULTS.values():
            mean, deviation = of_run[column].mean(), of_run[column].std()
            cells.append(f"{mean:,.{digits}f}" + (f" ± {deviation:.{digits}f}" if digits and len(of_run) > 1 else ""))
        rows.append([RUNS[run], *cells])
    return markdown_table(["`mlab_digits`", *RESULTS], rows)


def gallery() -> str:
    """Two figures a row, each over what it shows and the command that makes it."""
    cells = [
        f"![{what}](outputs/reference/{figure}.png)<br>{what}:<br>"
        f"`make reproduce STUDY=params/{figure.split('/')[0]}.yaml`"
        for figure, what in GALLERY.items()
    ]
    return markdown_table(["", ""], [cells[i : i + 2] for i in range(0, len(cells), 2)])


def commands(files: list[Claims]) -> str:
    """A row for each claim: what is expected, and where that is tested at either scale."""
    tables = []
    for file in files:
        rows = []
        for claim in file.claims:
            studies = dict.fromkeys(test.study for test in claim.tests)
            of_scale = {
                scale: [s for s in studies if s in file.studies and file.studies[s].scale == scale]
                for scale in ("laptop", "paper")
            }
            measured = "`make verify`" if THEORY in studies else ", ".join(f"`{study}`" for study in of_scale["laptop"])
            full = ", ".join(f"`{study}`" for study in of_scale["paper"])
            rows.append([claim.claim, f"{claim.quantity} {claim.expected}", measured or "–", full or "–"])
        tables.append(markdown_table([file.paper.split(" (")[0], "expected", "laptop", "paper's size"], rows))
    return "\n\n".join(tables)


def costs(files: list[Claims]) -> str:
    """A row for each study: its size, how long its trainings took, what its checkpoints take on the disk."""
    rows, sizes = [], {}
    for file in files:
        for name, cost in file.studies.items():
            study = Study.from_file(ROOT / f"params/{name}.yaml")
            trainings, megabytes = len(study.runs) * len(study.seeds), 0
            for run in map(study.resolve, study.runs):
                kept = -(-run.training.epochs // run.training.checkpoint_every) + 1
                network = (run.dataset.source, run.dataset.side, run.model)
                if network not in sizes:
                    sizes[network] = trainable_parameters(run) or math.nan
                megabytes += sizes[network] * 4e-6 * kept * len(study.seeds)
            reference = ROOT / REFERENCE / name / "table.csv"
            seconds = pd.read_csv(reference)["seconds"] if reference.is_file() else []
            took = f"{sum(seconds) / 60:.0f} min for {len(seconds)}" if len(seconds) else "not run"
            disk = "–" if math.isnan(megabytes) else f"{megabytes:.0f} MB"
            if megabytes >= 1e3:
                disk = f"{megabytes / 1e3:.1f} GB"
            rows.append([f"`make verify STUDY=params/{name}.yaml`", cost.scale, str(trainings), took, disk])
    return markdown_table(["command", "scale", "trainings", "time of the trainings", "checkpoints"], rows)


def filled(text: str, made: dict[str, str]) -> str:
    """A file's text with these parts."""
    mark = re.compile(r"(<!-- (\w+): python docs/parts.py -->\n).*?(<!-- end -->)", re.DOTALL)
    return mark.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", text)


if __name__ == "__main__":
    made = parts()
    for name in FILES:
        (ROOT / name).write_text(filled((ROOT / name).read_text(), made))
