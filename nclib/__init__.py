"""nclib: losses, ETF heads, metrics and theory of neural collapse, and a companion that reproduces two papers.

The library (`collapse`, `monitor`, `features`, `metrics`, `losses`, `heads`, `decode`, `theory`, `models`, `optim`)
works on anybody's model and tensors. The companion (`study`, `data`, `training`, `results`, `figures`, `explore`) is
what the notebooks call. Importing this package loads nothing else: ask for the module you need.
"""

__version__ = "1.0.0"
