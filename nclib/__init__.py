"""nclib: losses, ETF heads and metric kernels for neural collapse, and the stages that reproduce two papers with them.

The kernels (`nclib.losses`, `nclib.heads`, `nclib.metrics`, `nclib.theory`) work on anybody's tensors. The stages
(`dataset`, `train`, `validate`, `figures`) talk to each other through files only; the notebooks in `notebooks/` call
them. Importing this package loads nothing else: ask for the module you need.
"""

__version__ = "0.1.0"
