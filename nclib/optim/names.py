"""Names and defaults of the optimizers; nothing here imports torch."""

FIRST_ORDER = ("sgd", "adam", "adamw")
SECOND_ORDER = ("lbfgs", "sdlbfgs")
OPTIMIZERS = FIRST_ORDER + SECOND_ORDER
DECAY_MODES = ("parameters", "features")

MOMENTUM = 0.9  # of "sgd"
HISTORY_SIZE = 10  # pairs that the second-order ones remember
