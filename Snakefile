# A study as a graph of notebooks: 01_dataset -> 02_train -> 03_validate (each run and seed) -> 04_figures.
#   make reproduce STUDY=params/mlab_digits.yaml             (the usual way: `python -m nclib reproduce`)
#   snakemake --cores all --config study=params/mlab_digits.yaml
# What is done is decided by nclib.study.stage alone, from manifests. Snakemake sees one empty file per finished stage, in a
# folder of this session: it removes the outputs of a step before it runs again, which must not cost earlier results, and
# times of files must not decide anything. A stage that is done but follows one that is not runs, too: if the inputs come
# out as they were, its notebook keeps the results.
import json
import re
import shutil
import sys
import time
from pathlib import Path
from shlex import quote

from nclib.study.folders import StudyFolder
from nclib.study.stage import stages, to_do
from nclib.study.study import Study
from nclib.study.watch import report_failures

STARTED = time.time()
STUDY_FILE = config.get("study", "params/mlab_digits.yaml")
OUTPUTS = config.get("outputs", "outputs")
STUDY = Study.from_file(STUDY_FILE)
CHOSEN = STUDY.only(str(config.get("runs", "")).split())
TRAININGS = [(run, seed) for run in CHOSEN.runs for seed in CHOSEN.seeds]
FOLDER = StudyFolder(OUTPUTS, STUDY.study).root
ROOT = f"{OUTPUTS}/{STUDY.study}"
SESSION = f"{ROOT}/.session/{config.get('session', 'direct')}"
NOTEBOOKS = Path(workflow.basedir) / "notebooks"

STAGES = stages(STUDY, OUTPUTS, runs=CHOSEN.runs)
if not workflow.remote_exec:
    if "session" not in config:
        shutil.rmtree(SESSION, ignore_errors=True)
    for key in {stage.key for stage in STAGES} - to_do(STAGES).keys():
        (Path(SESSION) / key).parent.mkdir(parents=True, exist_ok=True)
        (Path(SESSION) / key).touch()


def given(wildcards):
    "The parameters of one notebook, as JSON."
    data = getattr(wildcards, "dataset", None)
    run = getattr(wildcards, "run", None) or next((r for r in CHOSEN.runs if data and STUDY.resolve(r).dataset.name == data), None)
    own = {} if run is None else {"run": run, "seed": int(getattr(wildcards, "seed", STUDY.seeds[0]))}
    return json.dumps({"study": STUDY_FILE, **own, "outputs": OUTPUTS})


def execute(stage, folder):
    "`exec` makes the runner Snakemake's own child, so that it ends with Snakemake however that ends."
    made = f"{folder}/{stage}.ipynb".replace("{", "{wildcards.")
    source = quote(str(NOTEBOOKS / f"{stage}.ipynb"))
    return f"exec {quote(sys.executable)} -m nclib notebook {source} {quote(made)} {{params.given:q}} $PPID > {{log:q}} 2>&1"


def finished(stage):
    return ancient([f"{SESSION}/{run}/seed{seed}/{stage}" for run, seed in TRAININGS])


DATASET = "datasets/{dataset}"
RUN = "{run}/seed{seed}"
# Trainings share the cores: Snakemake sets OMP_NUM_THREADS from `threads`, and its default of one would leave the rest idle.
# On a cluster (seen from the submitting process or from within a job) there is no number of cores to share.
CLUSTER = workflow.resource_settings.cores is None or workflow.remote_exec
TRAIN_THREADS = int(config.get("threads", 4 if CLUSTER else max(1, workflow.cores // len(TRAININGS))))

wildcard_constraints:
    dataset="|".join(map(re.escape, STUDY.datasets())),
    run="|".join(map(re.escape, STUDY.runs)),
    seed=r"\d+",


rule all:
    input: ancient([f"{SESSION}/{stage.key}" for stage in STAGES]),


rule dataset:
    output: touch(f"{SESSION}/{DATASET}/01_dataset"),
    params: given=given,
    log: f"{ROOT}/{DATASET}/01_dataset.log",
    resources: mem_mb=8000, runtime=120,
    shell: execute("01_dataset", f"{ROOT}/{DATASET}")


rule train:
    input: lambda wildcards: ancient(f"{SESSION}/datasets/{STUDY.resolve(wildcards.run).dataset.name}/01_dataset"),
    output: touch(f"{SESSION}/{RUN}/02_train"),
    params: given=given,
    log: f"{ROOT}/{RUN}/02_train.log",
    threads: TRAIN_THREADS
    resources: mem_mb=16000, runtime=1440, gpu=1,
    shell: execute("02_train", f"{ROOT}/{RUN}")


rule validate:
    input: ancient(f"{SESSION}/{RUN}/02_train"),
    output: touch(f"{SESSION}/{RUN}/03_validate"),
    params: given=given,
    log: f"{ROOT}/{RUN}/03_validate.log",
    threads: TRAIN_THREADS
    resources: mem_mb=16000, runtime=240, gpu=1,
    shell: execute("03_validate", f"{ROOT}/{RUN}")


rule figures:
    input: finished("03_validate"),
    output: touch(f"{SESSION}/04_figures"),
    params: given=given,
    log: f"{ROOT}/04_figures.log",
    resources: mem_mb=8000, runtime=60,
    shell: execute("04_figures", ROOT)


onerror:
    report_failures(Path(ROOT), since=STARTED)
