"""The examples in the docstrings of the kernels."""

import doctest
import importlib
import pkgutil

import pytest

from nclib import metrics

MODULES = ["nclib.losses", "nclib.heads", "nclib.features", "nclib.decode"]
MODULES += [f"nclib.metrics.{module.name}" for module in pkgutil.iter_modules(metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
