"""Features, logits and labels of any model over any data: `extract` at once, `passes` batch by batch."""

from nclib.features.extraction import extract
from nclib.features.passes import Extracted

__all__ = ["Extracted", "extract"]
