"""A live view of the collapse over any study in `outputs/`: `Explorer(folder)` in a notebook's last line.

`Explorer` chooses runs and sends their arrays to the browser once; `explorer.js` draws them.
"""

from nclib.explore.explorer import Explorer
from nclib.explore.outputs import RunData, load_run, runs, studies

__all__ = ["Explorer", "RunData", "load_run", "runs", "studies"]
