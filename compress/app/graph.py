"""The app's model: any image in, class and probability out, composed around an exported network.

    image (uint8, H x W x C) -> luma or RGB -> bilinear resize with antialiasing -> / 255 -> normalised
    -> network -> softmax -> label, probability, probabilities

Only standard operators, so that every runtime computes the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import compose, parser

from compress.data import Data

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601, as image libraries use them for "grey"."""

Normalised = tuple[float, ...]


@dataclass(frozen=True)
class Preprocessing:
    """What an image goes through before the network.

    Attributes:
        shape: (C, H, W) of the network's input; C is 1 or 3.
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1.
        shorter_side: length that the shorter side is resized to before the middle is cut out; None stretches the
            whole image to H x W.
    """

    shape: tuple[int, int, int]
    mean: Normalised
    std: Normalised
    shorter_side: int | None = None

    @classmethod
    def of(cls, data: Data) -> "Preprocessing":
        """As a data set's own test images were made."""
        return cls(data.input_shape, data.mean, data.std, data.shorter_side)


@dataclass(frozen=True)
class AppModel:
    """The composed model, and its first part alone, which the check looks at.

    Attributes:
        preprocess: image -> what the network takes.
        whole: image -> label, probability, probabilities.
    """

    preprocess: bytes
    whole: bytes


def build(network: bytes, preprocessing: Preprocessing, metadata: Mapping[str, str]) -> AppModel:
    """Put preprocessing before and softmax after a network.

    Args:
        network: an exported model: one input, float32 NCHW, batch 1 or free; one output, class scores (1, K).
        preprocessing: what the image goes through.
        metadata: written into the model, text to text.
    """
    body = onnx.ModelProto.FromString(network)
    opset = next(entry.version for entry in body.opset_import if entry.domain in ("", "ai.onnx"))
    header = f'<ir_version: {body.ir_version}, opset_import: ["" : {opset}]>'
    (given,), (scores,) = body.graph.input, body.graph.output
    classes = scores.type.tensor_type.shape.dim[1].dim_value
    before = parser.parse_model(f"{header}\n{_before(preprocessing)}")
    after = parser.parse_model(f"{header}\n{_AFTER.format(classes=classes)}")
    joined = compose.merge_models(
        before, compose.add_prefix(body, "network/"), io_map=[("ready", f"network/{given.name}")]
    )
    whole = compose.merge_models(joined, after, io_map=[(f"network/{scores.name}", "scores")])
    whole.graph.name = "app"
    del whole.metadata_props[:]
    for model in (before, whole):
        model.producer_name = ""
        onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.checker.check_model(whole)
    return AppModel(before.SerializeToString(deterministic=True), whole.SerializeToString(deterministic=True))


_AFTER = """
after (float[1, {classes}] scores) => (int64[1] label, float[1] probability, float[1, {classes}] probabilities)
<int64[1] axis = {{1}}>
{{
  probabilities = Softmax <axis = 1> (scores)
  label = ArgMax <axis = 1, keepdims = 0> (probabilities)
  probability = ReduceMax <keepdims = 0> (probabilities, axis)
}}
"""

_RESIZE = 'Resize <mode = "linear", antialias = 1, exclude_outside = 1, coordinate_transformation_mode = "half_pixel">'
"""The filter of Pillow and torch: wider where the image shrinks. Without exclude_outside, ONNX Runtime repeats the
border pixels inside the wider filter, and the borders differ by up to 20 of 255."""


def _before(asked: Preprocessing) -> str:
    channels, height, width = asked.shape
    constants: dict[str, Sequence[float]] = {
        "int64[3] colours": (1, 1, 3),
        "int64[1] front": (0,),
        "float[1] full": (255.0,),
        f"float[{channels}, 1, 1] mean": asked.mean,
        f"float[{channels}, 1, 1] std": asked.std,
    }
    # One channel becomes three; three stay as they are.
    nodes = ["coloured = Expand (image, colours)"]
    if channels == 1:
        constants["float[3, 1] luma"] = LUMA
        nodes += [
            "coloured_float = Cast <to = 1> (coloured)",
            "grey_float = MatMul (coloured_float, luma)",
            # A whole number, as image libraries store it; and a grey image comes back exactly.
            "grey_whole = Round (grey_float)",
            "plane = Cast <to = 2> (grey_whole)",
        ]
    nodes += [
        f"planes = Transpose <perm = [2, 0, 1]> ({'plane' if channels == 1 else 'coloured'})",
        "batch = Unsqueeze (planes, front)",
        *(_stretched(asked, constants) if asked.shorter_side is None else _cropped(asked, constants)),
        "pixels = Cast <to = 1> (fitted)",
        "scaled = Div (pixels, full)",
        "centred = Sub (scaled, mean)",
        "ready = Div (centred, std)",
    ]
    written = ",\n  ".join(f"{name} = {{{', '.join(map(repr, values))}}}" for name, values in constants.items())
    body = "\n  ".join(nodes)
    signature = f"(uint8[height, width, channels] image) => (float[1, {channels}, {height}, {width}] ready)"
    return f"before {signature}\n<{written}>\n{{\n  {body}\n}}"


def _stretched(asked: Preprocessing, constants: dict[str, Sequence[float]]) -> list[str]:
    constants["int64[4] sizes"] = (1, *asked.shape)
    return [f"fitted = {_RESIZE} (batch, , , sizes)"]


def _cropped(asked: Preprocessing, constants: dict[str, Sequence[float]]) -> list[str]:
    """The shorter side to a length, then the middle: the integer arithmetic of torchvision's Resize and CenterCrop."""
    channels, height, width = asked.shape
    assert asked.shorter_side is not None
    constants |= {
        "int64[1] two": (2,),
        "int64[1] four": (4,),
        "int64[2] spatial": (2, 3),
        "int64[1] shorter_side": (asked.shorter_side,),
        "int64[2] leading": (1, channels),
        "int64[2] crop": (height, width),
        "float[1] half": (0.5,),
    }
    return [
        "shape = Shape (batch)",
        "extent = Slice (shape, two, four)",
        "shorter = ReduceMin <keepdims = 1> (extent, front)",
        "enlarged = Mul (extent, shorter_side)",
        "extent_resized = Div (enlarged, shorter)",
        "sizes = Concat <axis = 0> (leading, extent_resized)",
        f"resized = {_RESIZE} (batch, , , sizes)",
        "room = Sub (extent_resized, crop)",
        "room_float = Cast <to = 1> (room)",
        "room_half = Mul (room_float, half)",
        "room_whole = Round (room_half)",  # halves to even, as Python rounds
        "start = Cast <to = 7> (room_whole)",
        "stop = Add (start, crop)",
        "fitted = Slice (resized, start, stop, spatial)",
    ]
