"""The one door to the commands: `python -m nclib COMMAND ...`."""

import importlib
import sys

COMMANDS = {"reproduce": "nclib.study.launcher", "notebook": "nclib.study.runner"}

if __name__ == "__main__":
    sys.exit(importlib.import_module(COMMANDS[sys.argv[1]]).main(sys.argv[2:]))
