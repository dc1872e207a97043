"""What holds for every file in compress_exporters: it loads, keeps names and shapes, agrees, and is repeatable."""

import copy
import hashlib
import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compress_exporters
from compress.onnx_file import open_onnx, predict, session
from compress.validate import parity
from compress_exporters import Artifact, ExportError, Request, find, formats
from compress_exporters.artifact import describe

SHAPE = (3, 12, 10)
Written = Callable[..., Artifact]

CLOSE = {"float32": 1e-5, "float16": 5e-3, "int8": 0.1}
"""Largest difference of an output, relative to the largest output; 8 bits err by 1 % a layer on these wild weights."""


def _parameters(ending: str) -> list[Any]:
    """Formats whose files end so; one whose package is not installed is skipped, and says so."""
    found = []
    for format in formats():
        package = getattr(find(format), "package", None)
        missing = package is not None and importlib.util.find_spec(package) is None
        mark = pytest.mark.skipif(missing, reason=f"{package} is not installed")
        if find(format).suffix.endswith(ending):
            found.append(pytest.param(format, marks=mark))
    return found


every_format = pytest.mark.parametrize("format", _parameters(""))
every_onnx_format = pytest.mark.parametrize("format", _parameters(".onnx"))


def files_of(artifact: Artifact) -> list[Path]:
    """The file and what belongs to it."""
    exporter = find(artifact.format)
    stem = str(artifact.path).removesuffix(exporter.suffix)
    return [Path(f"{stem}{end}") for end in (exporter.suffix, *getattr(exporter, "companions", ()))]


def agrees(artifact: Artifact, model: nn.Module, images: Tensor) -> bool:
    """Whether a written file gives a model's outputs, as nearly as its type of numbers can."""
    result = parity(opened(artifact), model, [(images, None)], dtype=artifact.dtype)
    largest = model(images).abs().max().item()
    return result.passed and result.max_abs is not None and result.max_abs <= CLOSE[artifact.dtype] * largest


def opened(artifact: Artifact) -> Any:
    """What answers for a written file: ONNX Runtime, or the format's own runtime."""
    return session(artifact.path) if artifact.min_ort else find(artifact.format).load(artifact.path)


every_converter = pytest.mark.parametrize("format", [f for f in formats() if hasattr(find(f), "convert")])

MODEL_SOURCE = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)
    def forward(self, x):
        return self.layer(x.flatten(1)).relu()
"""


@every_onnx_format
@pytest.mark.parametrize("batch", [4, "dynamic"])
def test_it_loads_and_keeps_names_and_shapes(written: Written, format: str, batch: int | str) -> None:
    artifact = written(format, batch)
    graph = session(artifact.path)
    first = "batch" if batch == "dynamic" else batch
    assert [("input", "tensor(float)", [first, 3, 12, 10])] == [(i.name, i.type, i.shape) for i in graph.get_inputs()]
    assert [("output", [first, 10])] == [(o.name, o.shape) for o in graph.get_outputs()]


@every_onnx_format
def test_a_dynamic_batch_takes_any_size_and_a_fixed_one_only_its_own(written: Written, format: str) -> None:
    dynamic, fixed = session(written(format, "dynamic").path), session(written(format, 4).path)
    for size in (1, 2, 7):
        feed = {"input": np.zeros((size, *SHAPE), np.float32)}
        assert (size, 10) == dynamic.run(None, feed)[0].shape
        with pytest.raises(Exception, match=r"Got: . Expected: 4"):
            fixed.run(None, feed)


@every_onnx_format
@pytest.mark.parametrize("batch", [4, "dynamic"])
def test_outputs_agree_with_pytorch_at_any_batch(
    written: Written, net: nn.Module, images: Tensor, format: str, batch: int | str
) -> None:
    assert agrees(written(format, batch), net, images)


@every_format
def test_outputs_agree_with_pytorch(written: Written, net: nn.Module, images: Tensor, format: str) -> None:
    artifact = written(format, 1)
    assert agrees(artifact, net, images)
    result = parity(opened(artifact), net, [(images, None)], dtype=artifact.dtype)
    # the two best scores of one image lie 0.08 % apart, nearer than 8 bits can tell
    assert (10, True) == (result.samples, result.top1_agreement >= (0.9 if artifact.dtype == "int8" else 1.0))


@every_converter
@pytest.mark.parametrize("batch", [4, "dynamic"])
def test_an_onnx_file_becomes_what_its_model_becomes(
    written: Written, net: nn.Module, images: Tensor, format: str, batch: int | str, tmp_path: Path
) -> None:
    given = written("onnx", batch).path
    before = given.read_bytes()
    artifact = find(format).convert(given, tmp_path / f"m{find(format).suffix}", calibration=images)
    assert (format, before) == (artifact.format, given.read_bytes())
    found = parity(opened(artifact), net, [(images, None)], dtype=artifact.dtype)
    assert found.passed
    # the liar: another network's outputs are not these
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[7].weight.neg_()
    assert not parity(opened(artifact), other, [(images, None)], dtype=artifact.dtype).passed


@every_format
@pytest.mark.parametrize("layer", [0, 3, 7])
def test_one_perturbed_weight_is_refused(
    written: Written, net: nn.Module, images: Tensor, format: str, layer: int
) -> None:
    other = copy.deepcopy(net)
    weight = other[layer].weight
    other(images).abs().sum().backward()
    influence = (weight * weight.grad).abs().view(-1).detach()
    # The middle one of those that any output reads at all: half of the weights matter less.
    place = (influence == influence[influence > 0].median()).nonzero()[0]
    artifact = written(format, 1)
    if artifact.dtype == "float32":
        weight.data.view(-1)[place] *= 1.01
    else:  # one weight is below the rounding of all
        weight.data *= 0.5
    assert not agrees(artifact, other, images)


@every_onnx_format
def test_raw_pixels_give_what_normalised_images_give(
    written: Written, net: nn.Module, images: Tensor, format: str
) -> None:
    artifact = written(format, "dynamic", pixels=True)
    pixels = session(artifact.path)
    entry = pixels.get_inputs()[0]
    assert ("tensor(uint8)", ["batch", 12, 10, 3]) == (entry.type, entry.shape)
    plain = session(written(format, "dynamic").path)
    # Equal images up to one rounding of the normalisation; outputs as far apart as two runtimes may be.
    expected = predict(plain, images.numpy())
    tolerance = CLOSE[artifact.dtype] * abs(expected).max()
    np.testing.assert_allclose(predict(pixels, images.numpy()), expected, rtol=0, atol=tolerance)
    assert agrees(artifact, net, images)
    # The liar: one pixel value off everywhere is seen.
    off = predict(pixels, images.numpy() + np.float32(1 / 255 / 0.25))
    assert abs(off - predict(pixels, images.numpy())).max() > 1e-3 * abs(expected).max()


@every_format
def test_exporting_again_from_elsewhere_gives_the_same_bytes_quietly(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    digests = set()
    for place in ("here", "a much longer/path there"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        source = folder / "user_net.py"
        source.write_text(MODEL_SOURCE)
        spec = importlib.util.spec_from_file_location("user_net", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        model = module.Net().eval()
        before = copy.deepcopy(model.state_dict())
        exporter = find(format)
        files = [f"m{end}" for end in (exporter.suffix, *getattr(exporter, "companions", ()))]
        calibration = torch.randn(20, 1, 2, 3, generator=torch.Generator().manual_seed(0))
        artifact = exporter.export(Request(model, (1, 2, 3), calibration=calibration), folder / "out" / files[0])
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        written = [file.read_bytes() for file in files_of(artifact)]
        if format == "ort":  # one table in the order of ONNX Runtime's randomly seeded hash: equal but for the order
            written[0] = bytes(len(written[0]))
        digests.add(tuple(written))
        assert sorted(files) == sorted(file.name for file in artifact.path.parent.iterdir())
    assert 1 == len(digests)
    assert ("", "") == capfd.readouterr()


def _local_names(data: bytes) -> list[bytes]:
    here = Path(compress_exporters.__file__).parents[2]
    secrets = [*map(re.escape, (str(here), sys.prefix, torch.__path__[0], "site-packages")), r"\.py(?!torch)"]
    return [found.group() for secret in secrets if (found := re.search(secret.encode(), data))]


@every_format
def test_no_path_of_this_machine_is_in_the_bytes(written: Written, format: str) -> None:
    assert [] == [name for file in files_of(written(format, 1)) for name in _local_names(file.read_bytes())]


def test_the_search_for_paths_finds_them_in_an_unstripped_export(net: nn.Module) -> None:
    program = torch.onnx.export(net, (torch.zeros(1, *SHAPE),), dynamo=True, verbose=False)
    assert b".py" in _local_names(program.model_proto.SerializeToString())


@every_onnx_format
def test_metadata_says_what_the_caller_said_and_how_to_feed_it(written: Written, format: str) -> None:
    assert {"labels": '["cat"]', "input_layout": "NCHW"} == open_onnx(written(format).path).metadata
    assert {
        "labels": '["cat"]',
        "input_layout": "NHWC",
        "input_mean": "[0.4, 0.5, 0.6]",
        "input_std": "[0.2, 0.25, 0.3]",
    } == open_onnx(written(format, "dynamic", pixels=True).path).metadata


@every_format
def test_the_artifact_describes_the_file(written: Written, format: str, tmp_path: Path) -> None:
    artifact = written(format, 1)
    data = artifact.path.read_bytes()
    assert (format, hashlib.sha256(data).hexdigest()) == (artifact.format, artifact.sha256)
    assert artifact.path.name.endswith(find(format).suffix)
    # A file of weights counts; a header or a list of operators does not travel to the device.
    counted = [file for file in files_of(artifact) if file == artifact.path or file.suffix == ".bin"]
    assert sum(file.stat().st_size for file in counted) == artifact.size_bytes
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in counted:
            archive.write(file, file.name)
        packed = sum(entry.compress_size for entry in archive.infolist())
    # The same algorithm at the same level; only zlib's six bytes of header and checksum differ.
    assert packed + 6 * len(counted) == artifact.size_zip_bytes
    if artifact.path.suffix == ".onnx":
        assert (18, "1.14") == (artifact.opset, artifact.min_ort)
        assert 8 == open_onnx(artifact.path).model.ir_version


@every_format
def test_a_model_in_training_mode_is_refused(format: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"training mode; call model\.eval\(\)"):
        find(format).export(Request(nn.Flatten().train(), SHAPE), tmp_path / "m.onnx")
    assert [] == list(tmp_path.iterdir())


def test_a_wrong_format_is_answered_with_the_right_names() -> None:
    with pytest.raises(ExportError, match="no export format 'spars'; did you mean sparse"):
        find("spars")
    with pytest.raises(ExportError, match=r"known: .*onnx, .*sparse"):
        find("zzz")
    with pytest.raises(ExportError, match="no export format '_versions'"):
        find("_versions")


def test_every_format_has_a_description_and_listing_them_imports_nothing_heavy() -> None:
    assert all(len(line) > 20 and line.endswith(".") for line in formats().values())
    code = (
        "import sys, os, compress_exporters; compress_exporters.formats();"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy', 'compress'} & set(sys.modules);"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_describe_counts_bytes_across_chunks(tmp_path: Path) -> None:
    file = tmp_path / "zeros"
    file.write_bytes(bytes(3 * 2**20 + 5))
    artifact = describe(file, "onnx")
    assert 3 * 2**20 + 5 == artifact.size_bytes
    assert artifact.size_zip_bytes < 5000
    assert (None, None) == (artifact.opset, artifact.min_ort)
