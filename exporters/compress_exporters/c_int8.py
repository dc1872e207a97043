"""C99 with 8-bit weights: a quarter of the flash; sums and activations stay float32.

Every output channel has a scale, w = scale * q with q in -127..127; the sum is over q, and the scale is taken in once.
So nothing is calibrated, and the only error is that of rounding the weights. For processors with a floating-point
unit.
"""

from pathlib import Path

from compress_exporters import c
from compress_exporters.artifact import Artifact, Predict, Request

suffix = ".int8.c"
companions = (".int8.h",)


def export(request: Request, path: Path) -> Artifact:
    """Write the model as C with 8-bit weights.

    Raises:
        ExportError: as `compress_exporters.c.export`.
    """
    return c.write(request, path, int8=True)


def load(path: Path) -> Predict:
    """Compile the file with this machine's compiler.

    Raises:
        ExportError: there is none, or it refuses the file.
    """
    return c.load(path)
