"""`python -m nclib crate STUDY`: an RO-Crate, so that archives know what the files of a study are and what made them.

Each finished stage is an action of the Process Run Crate profile: its notebook turned files into files. All of it
is taken from manifests.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nclib.study.files import write_json
from nclib.study.folders import StudyFolder
from nclib.study.stage import Stage, stages
from nclib.study.study import Study

FILE = "ro-crate-metadata.json"
CRATE, PROFILE = "https://w3id.org/ro/crate/1.1", "https://w3id.org/ro/wfrun/process/0.5"
LICENSE = "https://spdx.org/licenses/MIT"


def main(arguments: list[str]) -> int:
    """Write `ro-crate-metadata.json` into a study's folder; the exit status is 1 where nothing is finished."""
    parser = argparse.ArgumentParser(prog="python -m nclib crate", description="Describe a study's results (RO-Crate).")
    parser.add_argument("study", help="study file, e.g. params/mlab_digits.yaml")
    parser.add_argument("--outputs", default="outputs", help="folder of results (default: outputs)")
    asked = parser.parse_args(arguments)
    study = Study.from_file(asked.study)
    finished = [stage for stage in stages(study, asked.outputs) if stage.manifest]
    if not finished:
        print(f"error: no stage of {study.study} is finished: run `make reproduce` first", file=sys.stderr)
        return 1
    folder = StudyFolder(asked.outputs, study.study).root
    write_json(folder / FILE, {"@context": f"{CRATE}/context", "@graph": _graph(study.study, finished, folder)})
    print(folder / FILE)
    return 0


def _graph(name: str, finished: list[Stage], folder: Path) -> list[dict[str, Any]]:
    """Crate and profile, then every file, then what each stage did."""
    files, actions = {}, []
    for stage in finished:
        made, notebook, began = stage.manifest, f"{stage.key}.ipynb", datetime.fromisoformat(stage.manifest["started"])
        ended = (began + timedelta(seconds=made["seconds"])).isoformat(timespec="seconds")
        places = {file: os.path.relpath(stage.folder / file, folder) for file in (*made["inputs"], *made["outputs"])}
        for file, of in made["outputs"].items():
            files[places[file]] = {"@type": "File", "contentSize": str(of["bytes"]), "sha256": of["sha256"]}
        files[notebook] = {"@type": ["File", "SoftwareSourceCode"], "version": str(made.get("git_commit"))}
        about = {"@type": "CreateAction", "name": stage.key, "startTime": made["started"], "endTime": ended}
        read, written = ([places[file] for file in made[side]] for side in ("inputs", "outputs"))
        about |= {"object": _links(set(read) & set(files)), "result": _links(written), "instrument": {"@id": notebook}}
        actions.append({"@id": f"#{stage.key}", **about})
    about = {"name": name, "description": f"Results of the study {name}", "license": {"@id": LICENSE}}
    about |= {"datePublished": max(action["endTime"] for action in actions), "conformsTo": {"@id": PROFILE}}
    about |= {"hasPart": _links(files), "mentions": _links(action["@id"] for action in actions)}
    return [
        {"@id": FILE, "@type": "CreativeWork", "conformsTo": {"@id": CRATE}, "about": {"@id": "./"}},
        {"@id": "./", "@type": "Dataset", **about},
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": LICENSE, "@type": "CreativeWork", "name": "MIT License"},
        *({"@id": file, "name": file, **of} for file, of in files.items()),
        *actions,
    ]


def _links(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"@id": name} for name in sorted(names)]
