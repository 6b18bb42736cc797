# A study as a graph of notebooks: 01_dataset -> 02_train -> 03_validate (each run and seed) -> 04_figures.
#   make reproduce STUDY=params/mlab_digits.yaml             (the usual way: `python -m nclib.study.launcher`)
#   snakemake --cores all --config study=params/mlab_digits.yaml
# A stage is done when its manifest is there, which it writes last. Only manifests are outputs here: Snakemake deletes the
# outputs of a step before it runs again, and a run that then fails must not have cost the earlier results. `all` asks for
# every manifest, not the last one only: otherwise a failed step would hide behind older files further down.
import hashlib
import json
import re
import sys
import time
from pathlib import Path
from shlex import quote

from nclib.study.runs import StudyFolder, parameters_of_run, parameters_of_study
from nclib.study.study import Study
from nclib.study.watch import report_failures

STARTED = time.time()
STUDY_FILE = config.get("study", "params/mlab_digits.yaml")
STUDY = Study.from_file(STUDY_FILE, smoke=str(config.get("smoke", "")).lower() in ("1", "true", "yes"))
STUDY = STUDY.only(str(config.get("runs", "")).split())
OUTPUTS = config.get("outputs", "outputs")
FOLDER = StudyFolder(OUTPUTS, STUDY.study)
ROOT = f"{OUTPUTS}/{STUDY.study}"
DATASETS = STUDY.datasets()
TRAININGS = [(run, seed) for run in STUDY.runs for seed in STUDY.seeds]
NOTEBOOKS = Path(workflow.basedir) / "notebooks"


def code(stage):
    "Hash of the code cells alone, without parameters: opening, trying or re-saving a notebook is no change."
    cells = json.loads((NOTEBOOKS / f"{stage}.ipynb").read_text())["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])]
    sources = ["".join(cell["source"]) for cell in cells]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def of_run(stage):
    "The parameters one stage depends on, as JSON: a change elsewhere in the study reruns nothing."

    def parameters(wildcards):
        of_data = stage == "01_dataset"
        run = next(r for r in STUDY.runs if STUDY.resolve(r).dataset.name == wildcards.dataset) if of_data else wildcards.run
        empty = {section: {} for section in ("dataset", "model", "training", "validation", "sweep", "smoke")}
        chosen = parameters_of_run(STUDY.resolve(run), stage)
        own = {"run": "any"} if of_data else {"run": run, "seed": int(wildcards.seed), "seeds": [int(wildcards.seed)]}
        return json.dumps({"study": STUDY.study, **empty, **chosen, "runs": {own["run"]: {}}, **own, "outputs": OUTPUTS})

    return parameters


def of_study():
    "The parameters of the stage that sees the whole study."
    return json.dumps({**parameters_of_study(STUDY), "outputs": OUTPUTS, "sweep": {}, "smoke": {}})


def execute(stage, folder):
    "`exec` makes the runner Snakemake's own child, so that it ends with Snakemake however that ends."
    made = f"{folder}/{stage}.ipynb".replace("{", "{wildcards.")
    source = quote(str(NOTEBOOKS / f"{stage}.ipynb"))
    return f"exec {quote(sys.executable)} -m nclib.study.runner {source} {quote(made)} {{params.given:q}} $PPID > {{log:q}} 2>&1"


def manifests(stage):
    return [f"{ROOT}/{run}/seed{seed}/{stage}.manifest.json" for run, seed in TRAININGS]


DATASET = f"{ROOT}/datasets/{{dataset}}"
RUN = f"{ROOT}/{{run}}/seed{{seed}}"
# Trainings share the cores: Snakemake sets OMP_NUM_THREADS from `threads`, and its default of one would leave the rest idle.
# On a cluster (seen from the submitting process or from within a job) there is no number of cores to share.
CLUSTER = workflow.resource_settings.cores is None or workflow.remote_exec
TRAIN_THREADS = int(config.get("threads", 4 if CLUSTER else max(1, workflow.cores // len(TRAININGS))))

wildcard_constraints:
    dataset="|".join(map(re.escape, DATASETS)),
    run="|".join(map(re.escape, STUDY.runs)),
    seed=r"\d+",


rule all:
    input:
        expand(f"{DATASET}/01_dataset.manifest.json", dataset=DATASETS),
        manifests("02_train"),
        manifests("03_validate"),
        f"{ROOT}/04_figures.manifest.json",


rule dataset:
    output: f"{DATASET}/01_dataset.manifest.json",
    params: given=of_run("01_dataset"), code=code("01_dataset"),
    log: f"{DATASET}/01_dataset.log",
    resources: mem_mb=8000, runtime=120,
    shell: execute("01_dataset", DATASET)


rule train:
    input: lambda wildcards: f"{ROOT}/datasets/{STUDY.resolve(wildcards.run).dataset.name}/01_dataset.manifest.json",
    output: f"{RUN}/02_train.manifest.json",
    params: given=of_run("02_train"), code=code("02_train"),
    log: f"{RUN}/02_train.log",
    threads: TRAIN_THREADS
    resources: mem_mb=16000, runtime=1440, gpu=1,
    shell: execute("02_train", RUN)


rule validate:
    input: f"{RUN}/02_train.manifest.json",
    output: f"{RUN}/03_validate.manifest.json",
    params: given=of_run("03_validate"), code=code("03_validate"),
    log: f"{RUN}/03_validate.log",
    threads: TRAIN_THREADS
    resources: mem_mb=16000, runtime=240, gpu=1,
    shell: execute("03_validate", RUN)


rule figures:
    input: manifests("03_validate"),
    output: f"{ROOT}/04_figures.manifest.json",
    params: given=of_study(), code=code("04_figures"),
    log: f"{ROOT}/04_figures.log",
    resources: mem_mb=8000, runtime=60,
    shell: execute("04_figures", ROOT)


onerror:
    report_failures(Path(ROOT), since=STARTED)
