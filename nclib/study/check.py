"""`make check`: every result of a study compared with its manifest, bit for bit."""

import argparse

from nclib.study.files import StageError
from nclib.study.stage import stages
from nclib.study.study import Study


def main(arguments: list[str]) -> int:
    """`python -m nclib check STUDY.yaml`: print what is not as it was made, or would be made otherwise now.

    Returns:
        The exit status: 0 if all is as it should be, 1 if something is not.
    """
    parser = argparse.ArgumentParser(prog="python -m nclib check", description="Compare a study's results bit for bit.")
    parser.add_argument("study", help="study file, e.g. params/mlab_digits.yaml")
    parser.add_argument("--outputs", default="outputs", help="folder of results (default: outputs)")
    asked = parser.parse_args(arguments)
    wrong = 0
    for stage in stages(Study.from_file(asked.study), asked.outputs):
        found = [why] if (why := stage.missing()) else []
        for name in stage.manifest.get("outputs") or {}:
            try:
                stage.output(name)
            except StageError as error:
                found.append(str(error))
        print(f"{stage.key}: {'; '.join(found) or 'as it was made'}")
        wrong += bool(found)
    return 1 if wrong else 0
