"""The one door to the commands: `python -m nclib COMMAND ...`."""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

COMMANDS = {  # name: the module whose main(arguments) it calls, its arguments, what it does
    "reproduce": ("nclib.study.launcher", "STUDY.yaml [options]", "run a study from its data to figures and a table"),
    "check": ("nclib.study.check", "STUDY.yaml", "compare a study's results with their manifests, bit for bit"),
    "verify": ("nclib.results.claims", "[STUDY.yaml] [options]", "check the papers' claims on results"),
    "crate": ("nclib.study.crate", "STUDY.yaml", "describe a study's results for archives (RO-Crate)"),
    "ceiling": ("nclib.results.expected", "STUDY.yaml [RUN ...]", "print the IoU that theory allows its runs"),
    "predict": (
        "nclib.figures.predicted",
        "[STUDY.yaml] [RUN ...]",
        "print the geometry to expect of a study or a CSV of labels",
    ),
    "theory": ("nclib.study.runner", "[OUT.ipynb]", "execute the theory notebook"),
    "stand-ins": ("nclib.data.stand_ins", "SOURCE FOLDER", "write a small made-up data set in a real one's format"),
    "cifar10-small": ("nclib.data.cifar10_small", "ARCHIVE FOLDER", "write a tenth of CIFAR-10 as a folder of images"),
    "notebook": ("nclib.study.runner", "IN.ipynb OUT.ipynb JSON", "execute one notebook with parameters"),
}
USAGE = "python -m nclib COMMAND ...\n\n" + "\n".join(
    f"  {f'{name} {usage}':34} {what}" for name, (_, usage, what) in COMMANDS.items()
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names; its module is imported only now, so that help comes at once.

    Returns:
        The command's exit status; 2 for a command that there is not, whose packages are not installed, or that a
        `StageError` ends, such as one of a study file that is not valid.
    """
    began = time.monotonic()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    if name == "theory":
        notebook, out = "notebooks/00_theory.ipynb", Path(*(rest or ["outputs/theory/00_theory.ipynb"]))
        print(f"running  {notebook}", flush=True)
        rest = [notebook, str(out), json.dumps({"outputs": str(out.resolve().parents[1])})]
    try:
        command = import_module(COMMANDS[name][0])
        from nclib.study.files import StageError
    except ModuleNotFoundError as error:
        print(f"error: {error}. Install what the commands need: pip install '.[companion]'", file=sys.stderr)
        return 2
    try:
        status = command.main(rest)
    except StageError as error:
        from nclib.study.watch import say

        say(f"error: {error}")
        return 2
    if name == "theory" and status == 0:
        print(f"done     {out} ({time.monotonic() - began:.0f} s)")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
