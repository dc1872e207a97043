"""ONNX: one self-contained file that stock ONNX Runtime loads.

The graph has one input named "input" and one output named "output". What the PyTorch exporter adds for
debugging (it names absolute source paths) is removed; the same model gives the same bytes wherever exported.
"""

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from compress_exporters._quiet import quiet, reason
from compress_exporters._versions import lower_ir_version, min_ort, opset_of
from compress_exporters.artifact import (
    Artifact,
    ExportError,
    Normalisation,
    Request,
    describe,
    write_atomically,
)

suffix = ".onnx"

SIZE_LIMIT_BYTES = 2**31 - 2**20
"""A protobuf message holds less than 2 GiB; the last MiB is left for the graph."""


class _PixelInput(nn.Module):
    """Raw uint8 NHWC pixels normalised in front of a model, with the arithmetic and order of torchvision."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        mean, std = (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in normalisation)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Give the model's answer to pixels of shape (batch, H, W, C)."""
        # Transposed first, while a pixel is one byte; channels in front also make the broadcasts contiguous.
        images = pixels.permute(0, 3, 1, 2).float() / 255
        return self.model((images - self.mean) / self.std)  # type: ignore[no-any-return]


def export(request: Request, path: Path) -> Artifact:
    """Write the model as one ONNX file.

    Args:
        request: the model and the form to write it in; a model on another device is copied to the CPU.
        path: the file; a half-written one is never seen there.

    Raises:
        ExportError: the model is in training mode, too large for one file, cannot be traced, gives more than
            one tensor, or does not fit the batch, opset or normalisation asked for.
    """
    _check(request)
    model = _on_cpu(request.model)
    if request.normalisation is not None:
        model = _PixelInput(model, request.normalisation).eval()
    proto = _trace(request, model)
    strip(proto)
    _label(proto, request)
    lower_ir_version(proto)
    data = proto.SerializeToString(deterministic=True)
    write_atomically(path, lambda file: file.write_bytes(data))
    return describe(path, "onnx", opset=request.opset, min_ort=min_ort(request.opset, proto.ir_version))


def _on_cpu(model: nn.Module) -> nn.Module:
    """The model, or a copy where it is on another device."""
    if any(t.device.type != "cpu" for t in itertools.chain(model.parameters(), model.buffers())):
        return copy.deepcopy(model).cpu()
    return model


def _check(request: Request) -> None:
    if request.model.training:
        raise ExportError("the model is in training mode; call model.eval() before exporting it")
    if request.batch != "dynamic" and request.batch < 1:
        raise ExportError(f'batch must be 1 or more, or "dynamic"; got {request.batch}')
    tensors = {id(t): t for t in itertools.chain(request.model.parameters(), request.model.buffers())}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size > SIZE_LIMIT_BYTES:
        raise ExportError(
            f"the weights take {size / 2**30:.2f} GiB, and one ONNX file holds less than 2 GiB; "
            "prune and compact the model further, or choose a smaller one"
        )
    for name, values in zip(("mean", "std"), request.normalisation or (), strict=False):
        if len(values) not in (1, request.input_shape[0]):
            raise ExportError(
                f"normalisation {name} has {len(values)} values for {request.input_shape[0]} channels; "
                "give one for each channel"
            )
    if request.normalisation is not None and min(request.normalisation[1]) <= 0:
        raise ExportError(f"normalisation std must be positive; got {request.normalisation[1]}")


def _trace(request: Request, model: nn.Module) -> onnx.ModelProto:
    """The model as an ONNX graph, proved to be what was asked."""
    dynamic = request.batch == "dynamic"
    channels, height, width = request.input_shape
    # A traced batch of 1 would be taken for a constant.
    batch = 2 if request.batch == "dynamic" else request.batch
    if request.normalisation is None:
        example = torch.zeros(batch, channels, height, width)
    else:
        example = torch.zeros(batch, height, width, channels, dtype=torch.uint8)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=request.opset,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) if dynamic else None,
            )
            assert program is not None  # dynamo=True gives a program
            proto = program.model_proto
    except Exception as error:  # the exporter's own errors share no narrower base
        hint = "; ask for a fixed batch, or change the model" if dynamic else ""
        raise ExportError(f"PyTorch cannot export the model: {reason(error)}{hint}") from error
    _check_graph(proto, request)
    return proto


def _check_graph(proto: onnx.ModelProto, request: Request) -> None:
    found = opset_of(proto)
    if found != request.opset:
        raise ExportError(
            f"opset {request.opset} was asked for, the exporter could only write {found}; ask for {found}"
        )
    if len(proto.graph.input) != 1 or len(proto.graph.output) != 1:
        raise ExportError(
            f"the model has {len(proto.graph.input)} inputs and {len(proto.graph.output)} outputs; "
            "an image model takes one tensor and gives one: wrap it"
        )
    first = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if request.batch == "dynamic" and not first.dim_param:
        raise ExportError(f"the model fixes its batch at {first.dim_value}; ask for a fixed batch")


def strip(message: Any) -> None:
    """Clear documentation and metadata of a protobuf message and of all that it holds."""
    for field in ("doc_string", "metadata_props"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in [value] if hasattr(value, "DESCRIPTOR") else value:
                strip(inner)


def _label(proto: onnx.ModelProto, request: Request) -> None:
    """Write the metadata: the caller's, and how the input is to be fed."""
    labels = dict(request.metadata) | {"input_layout": "NCHW"}
    if request.normalisation is not None:
        mean, std = request.normalisation
        labels |= {"input_layout": "NHWC", "input_mean": json.dumps(mean), "input_std": json.dumps(std)}
    for key in sorted(labels):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, labels[key]
