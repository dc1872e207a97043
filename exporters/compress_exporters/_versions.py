"""Which ONNX Runtime loads a file: by operator set and by IR version.

Source: "ONNX Runtime compatibility", onnxruntime.ai/docs/reference/compatibility.html, which ends at 1.20.
Opset 22 came with ONNX 1.17, which ONNX Runtime took in at 1.21 (microsoft/onnxruntime issue 23162).
"""

import onnx
from onnx.helper import find_min_ir_version_for

RELEASES = {
    (1, 3): (12, 7),
    (1, 6): (13, 7),
    (1, 8): (14, 7),
    (1, 9): (15, 8),
    (1, 11): (16, 8),
    (1, 12): (17, 8),
    (1, 14): (18, 8),
    (1, 15): (19, 8),
    (1, 16): (19, 9),
    (1, 17): (20, 9),
    (1, 18): (21, 10),
    (1, 21): (22, 10),
}
"""First release of ONNX Runtime with the highest (opset, IR version) it supports."""


def lower_ir_version(model: onnx.ModelProto) -> None:
    """Lower a model's IR version to the least that its operator sets need, so that older runtimes load it."""
    model.ir_version = min(model.ir_version, find_min_ir_version_for(list(model.opset_import)))


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set, 0 where the model names none."""
    return max((s.version for s in model.opset_import if s.domain in ("", "ai.onnx")), default=0)


def min_ort(opset: int, ir_version: int) -> str:
    """Oldest ONNX Runtime, as "major.minor", that supports both.

    Versions beyond the table are answered with the installed release: older ones are not known to load them.

    >>> min_ort(18, 8), min_ort(17, 9)
    ('1.14', '1.16')
    """
    for release, (newest_opset, newest_ir) in RELEASES.items():
        if opset <= newest_opset and ir_version <= newest_ir:
            return ".".join(map(str, release))
    import onnxruntime

    return ".".join(onnxruntime.__version__.split(".")[:2])
