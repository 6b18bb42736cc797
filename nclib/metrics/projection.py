"""Products of many rows with few directions, the arithmetic that most of the metrics' time goes into."""

import torch
from jaxtyping import Float
from torch import Tensor


def project(rows: Float[Tensor, "b d"], directions: Float[Tensor, "q d"]) -> Float[Tensor, "b q"]:
    """`rows directionsᵀ`, in their own dtype within `torch.autocast`, too.

    On a CPU in float32 by oneDNN where torch has it: for 40,000 rows and d = 512 it took 6 ms for 9 directions and
    44 ms for 199, MKL 11 and 110 ms, and oneDNN gains from a second thread (3.4 ms) where MKL hardly does (7.9 ms).
    """
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    if linear is not None and rows.device.type == "cpu" and rows.dtype == torch.float32:
        return linear(rows, directions, None, "none", [], "")
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ directions.T
