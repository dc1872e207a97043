"""A network with any inputs and outputs as an ONNX graph: what `onnx.py` does for image models, by given names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import torch
from torch import Tensor, nn

from compress_exporters._quiet import quiet, reason
from compress_exporters._versions import lower_ir_version, opset_of
from compress_exporters.artifact import ExportError
from compress_exporters.onnx import strip


@dataclass(frozen=True)
class Interface:
    """How a graph is seen from outside.

    Attributes:
        inputs: names, in the order of the model's arguments.
        outputs: names, in the order of its results.
        batch: name of the free batch size; None where all sizes are fixed.
        batched: for each input, whether its first axis is that batch.
        metadata: written into the file, text to text.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: str | None = None
    batched: tuple[bool, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def network_to_onnx(
    model: nn.Module, example: Sequence[Tensor], interface: Interface, *, opset: int
) -> onnx.ModelProto:
    """The model, in evaluation mode, as an ONNX graph.

    Args:
        model: takes the inputs as `*inputs`, gives one tensor or a tuple.
        example: one tensor for each input; a free batch must be 2 or more in it.
        interface: names and what is free.
        opset: version of the ONNX operator set.

    Raises:
        ExportError: PyTorch cannot export it, or not in this form.
    """
    free = torch.export.Dim(interface.batch, min=1) if interface.batch else None
    shapes = (tuple({0: free} if batched else None for batched in interface.batched),) if free else None
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                model, tuple(example), dynamo=True, external_data=False, verbose=False, opset_version=opset,
                dynamic_shapes=shapes,
            )  # fmt: skip
            assert program is not None  # dynamo=True gives a program
            proto = program.model_proto
    except Exception as error:  # the exporter's own errors share no narrower base
        raise ExportError(f"PyTorch cannot export the network: {reason(error)}") from error
    if opset_of(proto) != opset:
        raise ExportError(f"opset {opset} was asked for, the exporter could only write {opset_of(proto)}")
    strip(proto)
    # Types of inner values can be inferred again, and cost bytes.
    proto.graph.ClearField("value_info")
    _name(proto.graph, interface)
    for key in sorted(interface.metadata):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, interface.metadata[key]
    lower_ir_version(proto)
    return proto


def _name(graph: onnx.GraphProto, interface: Interface) -> None:
    """Give inputs and outputs their names; inner values that have them already get others."""
    for held, names in ((graph.input, interface.inputs), (graph.output, interface.outputs)):
        if len(held) != len(names):
            raise ExportError(f"the exported graph has {len(held)} inputs or outputs, {len(names)} were expected")
    ends = [value.name for value in (*graph.input, *graph.output)]
    wanted = [*interface.inputs, *interface.outputs]
    if len(set(ends)) != len(ends) or len(set(wanted)) != len(wanted):
        raise ExportError("one value is an input and an output, or an output twice; give each a name of its own")
    renamed = dict(zip(ends, wanted, strict=True))
    inner = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    for name in sorted(inner - set(ends)):
        new = name
        while new in wanted or (new != name and new in inner):
            new = f"{new}_"
        renamed[name] = new
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
