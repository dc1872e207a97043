"""ONNX files from anyone: good ones open, wrong and hostile ones are refused in one clear line."""

import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import UsageError
from compress.onnx_file import as_seen, one_line, open_onnx, predict, predict_all, session

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def model(weights: onnx.TensorProto | None = None, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Two images of four numbers to three classes."""
    tensor = weights if weights is not None else numpy_helper.from_array(WEIGHTS, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", dtype, ["batch", 4])],
        [helper.make_tensor_value_info("output", dtype, ["batch", 3])],
        [tensor],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    made.metadata_props.add(key="labels", value="a,b,c")
    return made


def write(path: Path, made: onnx.ModelProto) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def refused(path: Path, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        open_onnx(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def external(location: str, **entries: int | str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_a_good_file_says_what_it_is(tmp_path: Path) -> None:
    opened = open_onnx(write(tmp_path / "m.onnx", model()))
    assert ("input", "float32", ("batch", 4)) == (
        opened.inputs[0].name,
        opened.inputs[0].dtype,
        opened.inputs[0].shape,
    )
    assert [("output", ("batch", 3))] == [(o.name, o.shape) for o in opened.outputs]
    assert (18, {"labels": "a,b,c"}) == (opened.opset, opened.metadata)


def test_an_input_with_a_default_need_not_be_fed(tmp_path: Path) -> None:
    made = model()
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
    assert ["input"] == [value.name for value in open_onnx(write(tmp_path / "m.onnx", made)).inputs]


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "not a file")
    for name, data in {"empty": b"", "text": b"hello, world\n", "zip": b"PK\3\4" + bytes(50)}.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "not an ONNX")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = model().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError):
            open_onnx(path)


@pytest.mark.parametrize(
    ("dims", "says"),
    [
        ([4, 4], "declares 64 bytes and holds 48"),
        ([3, 3], "declares 36 bytes and holds 48"),
        ([-4, -3], "negative shape"),
        # The product is 12 in 64 bits, 2**64 + 12 in truth.
        ([2**62, 4], "declares .* bytes and holds 48"),
        ([2**63 - 1, 2**63 - 1], "declares .* bytes and holds 48"),
    ],
)
def test_a_tensor_that_lies_about_its_shape_is_refused(tmp_path: Path, dims: list[int], says: str) -> None:
    tensor = numpy_helper.from_array(WEIGHTS, "w")
    tensor.dims[:] = dims
    refused(write(tmp_path / "m.onnx", model(tensor)), says)


def test_a_lying_tensor_is_found_wherever_it_hides(tmp_path: Path) -> None:
    liar = TensorProto(data_type=TensorProto.INT64, dims=[2], int64_data=[1])
    made = model()
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=liar)], "inner", [], [])
    made.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    refused(write(tmp_path / "m.onnx", made), "declares 2 numbers and holds 1")


@pytest.mark.parametrize(
    ("kind", "field", "count"),
    [
        ("FLOAT", "float_data", 6),
        ("DOUBLE", "double_data", 6),
        ("INT64", "int64_data", 6),
        ("UINT8", "int32_data", 6),
        ("FLOAT16", "int32_data", 6),
        ("BFLOAT16", "int32_data", 6),
        ("BOOL", "int32_data", 6),
        ("UINT64", "uint64_data", 6),
        ("COMPLEX64", "float_data", 12),
        ("INT4", "int32_data", 3),
        ("STRING", "string_data", 6),
    ],
)
def test_tensors_in_typed_fields_hold_what_they_declare(tmp_path: Path, kind: str, field: str, count: int) -> None:
    held = [b"a"] * count if kind == "STRING" else [0] * count
    tensor = TensorProto(name="t", data_type=TensorProto.DataType.Value(kind), dims=[2, 3], **{field: held})
    made = model()
    made.graph.initializer.append(tensor)
    made.ir_version, made.opset_import[0].version = 10, 21
    assert open_onnx(write(tmp_path / "m.onnx", made)).opset == 21
    del getattr(made.graph.initializer[1], field)[-1:]
    refused(write(tmp_path / "m.onnx", made), f"and holds {count - 1}")


def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=999, dims=[4, 3], raw_data=bytes(48))
    refused(write(tmp_path / "m.onnx", model(tensor)), "unknown type 999")


def test_data_beside_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8) + WEIGHTS.tobytes() + bytes(4))
    made = model(external("data/w.bin", offset=8, length=48))
    opened = open_onnx(write(tmp_path / "m.onnx", made))
    np.testing.assert_array_equal(WEIGHTS, numpy_helper.to_array(opened.model.graph.initializer[0]))


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../w.bin", "a/../../w.bin", "", "C:\\w.bin", "..\\w.bin", "\\\\host\\w.bin", "link", "dir/w.bin"],
)
def test_data_outside_the_folder_is_refused_even_where_it_exists(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    os.symlink(tmp_path / "w.bin", folder / "link")
    os.symlink(tmp_path, folder / "dir")
    refused(write(folder / "m.onnx", model(external(location))), "data outside the model's folder")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"length": 44}, "declares 48 bytes and holds 44"),
        ({"offset": 8}, "declares 48 bytes and holds 40"),
        ({"offset": 8, "length": 48}, "lies at 8 .* which has 48"),
        ({"offset": -8, "length": 48}, "lies at -8"),
        ({"offset": "x"}, "has no number as its place"),
    ],
)
def test_external_data_of_another_size_are_refused(tmp_path: Path, entries: dict[str, int | str], says: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    refused(write(tmp_path / "m.onnx", model(external("w.bin", **entries))), says)


def test_external_data_that_are_missing_are_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "m.onnx", model(external("w.bin"))), "'w.bin', which is not there")


def test_one_region_named_many_times_does_not_fill_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(2**30)  # sparse on disk
    made = model()
    for i in range(3):
        tensor = TensorProto(name=f"t{i}", data_type=TensorProto.UINT8, dims=[2**30])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        made.graph.initializer.append(tensor)
    refused(write(tmp_path / "m.onnx", made), "tensors take 3.0 GiB")


def test_what_the_checker_refuses_is_refused(tmp_path: Path) -> None:
    made = model()
    made.graph.node[0].input[0] = "nowhere"
    refused(write(tmp_path / "m.onnx", made), "not a valid ONNX model: .*nowhere")
    made = model()
    made.graph.node[0].op_type = "NoSuchOperator"
    refused(write(tmp_path / "m.onnx", made), "NoSuchOperator")


def test_control_codes_in_names_reach_no_terminal(tmp_path: Path) -> None:
    made = model()
    made.graph.node[0].op_type = "\x1b[31mX\x07"
    with pytest.raises(UsageError) as error:
        open_onnx(write(tmp_path / "m.onnx", made))
    assert str(error.value).isprintable()
    assert "KeyError" == one_line(KeyError())


def test_a_size_of_minus_one_is_an_open_one(tmp_path: Path) -> None:
    """As paddle2onnx writes it."""
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    shape = open_onnx(write(tmp_path / "m.onnx", made)).inputs[0].shape
    assert shape is not None
    assert shape[0] is None


def test_inputs_that_are_no_tensors_or_of_negative_size_are_refused(tmp_path: Path) -> None:
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -4
    refused(write(tmp_path / "m.onnx", made), "'input' has a negative size")
    made = model()
    made.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    refused(write(tmp_path / "m.onnx", made), "'s' is not a tensor")
    made = model()
    del made.graph.input[:]
    refused(write(tmp_path / "m.onnx", made), "not a valid ONNX model")


def test_a_session_runs_a_file_and_bytes_and_refuses_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", model())
    images = np.eye(4, dtype=np.float32)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(WEIGHTS, predict(session(source), images))
    options = session(path, threads=2).get_session_options()
    assert (2, 1) == (options.intra_op_num_threads, options.inter_op_num_threads)
    with pytest.raises(UsageError, match=r"no execution provider 'Quantum'.*it has .*CPUExecutionProvider"):
        session(path, provider="Quantum")
    with pytest.raises(UsageError, match=r"ONNX Runtime .* refuses the model: .*") as error:
        session(b"not a model")
    assert "\n" not in str(error.value)


def test_half_precision_inputs_are_fed_as_such() -> None:
    made = model(numpy_helper.from_array(WEIGHTS.astype(np.float16), "w"), TensorProto.FLOAT16)
    found = predict(session(made.SerializeToString()), np.eye(4, dtype=np.float32))
    assert np.float32 == found.dtype
    np.testing.assert_array_equal(WEIGHTS, found)


def test_images_that_do_not_fit_are_refused_with_what_the_model_wants() -> None:
    opened = session(model().SerializeToString())
    with pytest.raises(UsageError, match=r"images of shape \[2, 5\]: its input 'input' is .* \['batch', 4\]"):
        predict(opened, np.zeros((2, 5), np.float32))


def pixel_model(**metadata: str) -> bytes:
    """Casts uint8 NHWC pixels."""
    shape = ["batch", 2, 2, 1]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["output"], to=TensorProto.FLOAT)],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(made, metadata)
    return made.SerializeToString()


def test_normalised_images_become_the_pixels_they_were() -> None:
    opened = session(pixel_model(input_mean="[0.25]", input_std="[0.5]"))
    pixels = np.float32([[[[0, 1], [254, 255]]]])
    images = (pixels / 255 - np.float32(0.25)) / np.float32(0.5)
    np.testing.assert_array_equal(pixels.transpose(0, 2, 3, 1), predict(opened, images))
    np.testing.assert_array_equal(images, as_seen(opened, images))
    # What lies between two pixel values, or outside them, is seen as the nearest.
    np.testing.assert_array_equal(images, as_seen(opened, images + np.float32([[[-0.001, 0.001]]])))


def test_a_pixel_model_that_does_not_say_its_normalisation_is_refused() -> None:
    for metadata in ({}, {"input_mean": "[0.5]"}, {"input_mean": "x", "input_std": "[1]"}):
        with pytest.raises(UsageError, match="does not say how they are normalised"):
            predict(session(pixel_model(**metadata)), np.zeros((1, 1, 2, 2), np.float32))


def test_damaged_bytes_open_or_are_refused_and_never_crash(tmp_path: Path) -> None:
    whole, chance, path = model().SerializeToString(), random.Random(0), tmp_path / "m.onnx"
    refusals = []
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            open_onnx(path)
        except UsageError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(text.isprintable() for text in refusals)


def test_scores_are_the_first_output_of_numbers_that_are_no_indices() -> None:
    """As classifiers of other libraries give them: the class first, then how likely it is."""
    graph = helper.make_graph(
        [helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0), helper.make_node("Softmax", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 3])],
        [
            helper.make_tensor_value_info("best", TensorProto.INT64, [4]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    opened = session(made.SerializeToString())
    x = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    expected = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(predict(opened, x), expected, rtol=1e-5)
    best, likely = predict_all(opened, x)
    np.testing.assert_array_equal(x.argmax(1), best)
    assert ("int64", (10, 3)) == (best.dtype.name, likely.shape)
