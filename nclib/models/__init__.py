"""The papers' networks: a backbone that ends in features and a last layer that is learned or a fixed simplex
ETF.

`build_model` makes any of them, `load_released_state_dict` reads weights that either paper's released code
saved, and `trainable_parameters` counts what the optimizer may move.
"""

from nclib.models.build import ARCHITECTURES, Classifier, build_model, trainable_parameters
from nclib.models.released import load_released_state_dict

__all__ = ["ARCHITECTURES", "Classifier", "build_model", "load_released_state_dict", "trainable_parameters"]
