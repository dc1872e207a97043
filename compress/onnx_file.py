"""An ONNX file from anyone: opened without trusting it, and run in ONNX Runtime."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_model

from compress.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime

Array = npt.NDArray[Any]

SIZE_LIMIT_BYTES = 2**31 - 1
"""What one protobuf message can hold. Tensors outside the file are held to it as well: a small file that
names one large region many times must not fill the memory."""

_UNKNOWN = -1
"""What paddle2onnx writes for a size that it does not know."""

PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Types of which several share a byte."""


FLOATS = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
"""Input types that normalised images are cast to; every other is given float32."""


@dataclass(frozen=True)
class Value:
    """An input or output.

    Attributes:
        name: of the value.
        dtype: numpy's name of its type, "float32" for instance.
        shape: a size, the name of a free size, or None where nothing is said; None for no shape at all.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX model; tensors kept outside its file are loaded, and `scattered` says that there were some."""

    path: Path
    model: onnx.ModelProto
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opset: int
    metadata: dict[str, str]
    scattered: bool


def open_onnx(path: str | Path) -> OnnxFile:
    """Read and check a file that may be truncated, wrong or hostile.

    Raises:
        UsageError: no such file, not ONNX, a tensor whose declared size is not what it holds, tensor data
            outside the file's own folder, more than 2 GiB of tensors, or a graph that ONNX's checker refuses.
    """
    path = Path(path)
    model = _parse(path)
    declared = 0
    for tensor in _tensors(model):
        try:
            declared += _check_tensor(tensor, path.parent)
        except ValueError as error:
            raise UsageError(f"{path}: tensor {tensor.name[:80]!r} {error}; the file is damaged or forged") from None
    scattered = any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model))
    if declared > SIZE_LIMIT_BYTES:
        raise UsageError(f"{path}: its tensors take {declared / 2**30:.1f} GiB; files of at most 2 GiB are read")
    try:
        load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
        inputs, outputs = _interface(model)
    except (onnx.checker.ValidationError, OSError, TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: not a valid ONNX model: {one_line(error)}; export it again") from None
    opset = max((s.version for s in model.opset_import if s.domain in ("", "ai.onnx")), default=0)
    metadata = {p.key: p.value for p in model.metadata_props}
    return OnnxFile(path, model, inputs, outputs, opset, metadata, scattered)


def session(
    model: str | Path | bytes, *, threads: int = 1, provider: str = "CPUExecutionProvider", optimised: bool = True
) -> "onnxruntime.InferenceSession":
    """A quiet, sequential ONNX Runtime session.

    Args:
        model: the file or its bytes.
        threads: that one operator may use.
        provider: ONNX Runtime's name of where to run.
        optimised: off, the operators run as they are written.

    Raises:
        UsageError: no such provider here, or ONNX Runtime refuses the model.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UsageError(f"no execution provider {provider!r} in this ONNX Runtime; it has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # fatal: an error is raised, printing it as well says it twice
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # the runtime's errors share no base but Exception
        name = "the model" if isinstance(model, bytes) else model
        raise UsageError(f"ONNX Runtime {onnxruntime.__version__} refuses {name}: {one_line(error)}") from None


def predict(session: "onnxruntime.InferenceSession", images: Array) -> Array:
    """Scores of a model for normalised images: its first output of floating-point numbers, as float32.

    Args:
        session: of the model.
        images: float32 NCHW, normalised; at least one.

    Raises:
        UsageError: they do not fit the model's input.
    """
    outputs = predict_all(session, images)
    scores = next((output for output in outputs if output.dtype.kind == "f"), outputs[0])
    return scores.astype(np.float32)


def predict_all(session: "onnxruntime.InferenceSession", images: Array) -> list[Array]:
    """All outputs of a model for normalised images.

    The images are brought into the form that the model takes: raw pixels where its input is uint8, and cut
    into its batch size, the last one padded, where that is fixed.

    Args:
        session: of the model.
        images: float32 NCHW, normalised; at least one.

    Raises:
        UsageError: they do not fit the model's input.
    """
    entry = session.get_inputs()[0]
    if entry.type == "tensor(uint8)":
        feed = _pixels(images, *_normalisation(session)).astype(np.uint8).transpose(0, 2, 3, 1)
    else:
        feed = images.astype(FLOATS.get(entry.type, np.float32))
    wanted = entry.shape
    size = wanted[0] if wanted and isinstance(wanted[0], int) and wanted[0] > 0 else len(feed)
    parts: list[list[Array]] = []
    for start in range(0, len(feed), size):
        part = feed[start : start + size]
        padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        try:
            answers = [np.asarray(output) for output in session.run(None, {entry.name: padded})]
        except Exception as error:  # the runtime's errors share no base but Exception
            raise UsageError(
                f"the model cannot run on images of shape {list(padded.shape)}: its input {entry.name!r} is "
                f"{entry.type} {wanted} ({one_line(error)})"
            ) from None
        # what has no batch is given whole
        parts.append([a[: len(part)] if a.shape[:1] == (size,) else a[None] for a in answers])
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def as_seen(session: "onnxruntime.InferenceSession", images: Array) -> Array:
    """Normalised images as the model sees them: on the grid of 256 pixel values where its input is uint8."""
    if session.get_inputs()[0].type != "tensor(uint8)":
        return images
    mean, std = _normalisation(session)
    return np.asarray((_pixels(images, mean, std) / np.float32(255) - mean) / std)


def _normalisation(session: "onnxruntime.InferenceSession") -> tuple[Array, Array]:
    """Mean and standard deviation, shape (C, 1, 1), written into a model that takes raw pixels."""
    labels = session.get_modelmeta().custom_metadata_map
    try:
        mean, std = (np.array(json.loads(labels[key]), np.float32) for key in ("input_mean", "input_std"))
        return mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    except (KeyError, ValueError, TypeError, RecursionError):
        raise UsageError(
            "the model takes uint8 pixels and does not say how they are normalised "
            "(metadata input_mean and input_std); export it with this tool, or with a float input"
        ) from None


def _pixels(images: Array, mean: Array, std: Array) -> Array:
    """The nearest pixel values, 0..255 as float32, of normalised images."""
    return np.clip(np.rint((images * std + mean) * np.float32(255)), 0, 255)


def one_line(error: BaseException, limit: int = 300) -> str:
    """First line of an error, fit to print: names in a hostile file may hold terminal control codes."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in first[:limit])


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file'}; give the path of an ONNX model")
    size = path.stat().st_size
    if size > SIZE_LIMIT_BYTES:
        raise UsageError(f"{path}: {size / 2**30:.1f} GiB; files of at most 2 GiB are read")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise UsageError(f"{path}: not an ONNX file, or cut short ({size} bytes); export or copy it again") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    # Protobuf reads many other files, an empty one for instance, as an empty message.
    if not model.graph.node:
        raise UsageError(f"{path}: not an ONNX model, or one without any operator; give an exported model")
    return model


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a protobuf message; nesting is bounded by the parser."""
    if isinstance(message, TensorProto):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(inner)


def _check_tensor(tensor: onnx.TensorProto, folder: Path) -> int:
    """Bytes of a tensor whose data are exactly what its shape and type need.

    Raises:
        ValueError: they are not; the text continues "tensor NAME ...".
    """
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"has the negative shape {list(tensor.dims)}")
    # Python's integers do not overflow: a product of 2**64 must not look like 0.
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        _expect(count, len(tensor.string_data), "strings")
        texts: list[bytes] = list(tensor.string_data)
        return sum(map(len, texts))
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        bits = PACKED_BITS.get(TensorProto.DataType.Name(tensor.data_type), 8 * dtype.itemsize)
    except (KeyError, ValueError):
        raise ValueError(f"has the unknown type {tensor.data_type}") from None
    size: int = -(-count * bits // 8)
    if tensor.data_location == TensorProto.EXTERNAL:
        _check_external({entry.key: entry.value for entry in tensor.external_data}, size, folder)
    elif tensor.HasField("raw_data"):
        _expect(size, len(tensor.raw_data), "bytes")
    else:
        numbers = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
        each = 2 * count if dtype.kind == "c" else size if bits < 8 else count
        _expect(each, len(numbers), "numbers")
    return size


def _expect(declared: int, held: int, what: str) -> None:
    if declared != held:
        raise ValueError(f"declares {declared} {what} and holds {held}")


def _check_external(entry: dict[str, str], size: int, folder: Path) -> None:
    """Refuse tensor data outside the model's folder, or not of the size declared."""
    location = entry.get("location", "")
    rooted = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if not location or "\0" in location or rooted or ".." in PureWindowsPath(location).parts:
        raise ValueError(f"names data outside the model's folder: {location!r}")
    data = (folder / location).resolve()
    if not data.is_relative_to(folder.resolve()):
        raise ValueError(f"names data outside the model's folder, through a link: {location!r}")
    if not data.is_file():
        raise ValueError(f"has its data in {location!r}, which is not there")
    available = data.stat().st_size
    try:
        offset = int(entry.get("offset", 0))
        length = int(entry.get("length", available - offset))
    except ValueError:
        raise ValueError(f"has no number as its place in {location!r}") from None
    if offset < 0 or length < 0 or offset + length > available:
        raise ValueError(f"lies at {offset} + {length} bytes of {location!r}, which has {available}")
    _expect(size, length, "bytes")


def _interface(model: onnx.ModelProto) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Inputs that must be fed (a tensor with a default need not), and outputs."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_value(v) for v in model.graph.input if v.name not in defaults)
    outputs = tuple(map(_value, model.graph.output))
    if not inputs or not outputs:
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    return inputs, outputs


def _value(info: onnx.ValueInfoProto) -> Value:
    if not info.type.HasField("tensor_type"):
        raise ValueError(f"{info.name[:80]!r} is not a tensor")
    kind = info.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        if any(dim.dim_value < _UNKNOWN for dim in kind.shape.dim):
            raise ValueError(f"{info.name[:80]!r} has a negative size")
        shape = tuple(_size(dim) for dim in kind.shape.dim)
    return Value(info.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)


def _size(dim: Any) -> int | str | None:
    """A size, the name of a free one, or None where nothing is said."""
    if not dim.HasField("dim_value"):
        return dim.dim_param or None
    return None if dim.dim_value == _UNKNOWN else int(dim.dim_value)
