"""The main job on an ONNX file from anyone: everything that needs no training.

file -> checked -> compacted -> coded and converted -> compared with the given file -> measured -> report
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from compress import __version__, conversion, machine, targets
from compress.data import Data, Reading, load
from compress.errors import GateError, UsageError
from compress.foreign import TestBatches, normalisation, takes_nhwc
from compress.foreign_question import BY_DEFAULT, Question
from compress.foreign_report import assemble
from compress.onnx_compaction import Outcome, compact_file
from compress.onnx_file import OnnxFile, open_onnx
from compress.pipeline import failures, translated, write_report
from compress.progress import Display
from compress.recipe import DataSection
from compress.run_directory import RunDirectory, key_of
from compress.stages import digest
from compress.validate import TOLERANCES, accuracy, check_files, check_gates
from compress.validation import latency
from compress_exporters import Artifact, ExportError
from compress_exporters._versions import min_ort, opset_of
from compress_exporters.artifact import describe, write_atomically
from compress_exporters.onnx import strip

GIVEN, COMPACT = "dense.onnx", "model.onnx"


@dataclass
class Work:
    """How far it is; what is not known yet is empty. `files` are those of an artifact of several, by its path."""

    asked: Question
    opened: OnnxFile
    data: Data | None
    directory: RunDirectory
    display: Display
    outcome: Outcome | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show and time a part of the work."""
        started = time.monotonic()
        with self.display.stage(name, 0):
            yield
        self.stages.append({"name": name, "seconds": time.monotonic() - started, "resumed": False})


def prune_and_export_file(asked: Question, out: Path, display: Display | None = None) -> dict[str, Any]:
    """Compact, convert, compare and measure an ONNX file, and write all of it into ``out``.

    Args:
        asked: the file, and what is wanted of it.
        out: the run directory; what another file's run left in it is deleted.
        display: where progress goes; standard error by default.

    Returns:
        The report, as written to report.json.

    Raises:
        UsageError: the file or the data cannot be used, or a format cannot be made of it.
        GateError: a gate or parity failed. All files are written, unless compaction itself was not equal.
        RunError: compaction cannot be proved, or a file cannot be written.
    """
    opened = open_onnx(asked.file)
    _check(asked, opened)
    data = _images(asked.data, opened) if asked.data else None
    if data:
        conversion.check_images(opened, data)
    directory = RunDirectory(out)
    with directory.locked():
        if (directory.checkpoints / "dense.pt").exists():
            raise UsageError(f"{out} holds the run of a PyTorch model; choose another --out")
        key = key_of(tool=__version__, file=digest(asked.file), asked=asked.to_dict())
        directory.finished("foreign", key)
        directory.store("foreign", key, {})
        work = Work(asked, opened, data, directory, display or Display())
        try:
            _work(work)
        except BaseException as error:
            known = translated(error)
            work.notes.append(str(known) or type(known).__name__)
            status = "failed" if isinstance(error, Exception) else "interrupted"
            code = 130 if isinstance(error, KeyboardInterrupt) else getattr(known, "exit_code", 1)
            write_report(out, assemble(work, machine.versions(), status, code))
            if known is error:
                raise
            raise known from None
        report = assemble(work, machine.versions())
        write_report(out, report)
        if report["status"] == "gate_failed":
            raise GateError(failures(report))
        return report


def _check(asked: Question, opened: OnnxFile) -> None:
    """What can be known to be wrong before any work."""
    conversion.check(asked.formats or (), asked.file, images=asked.data is not None)
    suffixes = [".onnx", *(conversion.found(name).suffix for name in asked.formats or ())]
    for target in asked.validate.targets:
        runs = targets.find(target).SUFFIXES
        if not any(suffix.endswith(runs) for suffix in suffixes):
            raise UsageError(f"target {target} runs {' and '.join(runs)} files, and none can be made of an ONNX file")
        targets.check(target)
    gates = asked.validate.gates
    if gates.max_accuracy_drop_points is not None and asked.data is None:
        raise UsageError("the gate on the accuracy's drop needs images; give them with --data")
    if asked.data and len(opened.inputs) > 1:
        raise UsageError(f"{asked.file} takes {len(opened.inputs)} inputs, and --data feeds one image; leave it out")


def _images(asked: DataSection, opened: OnnxFile) -> Data:
    """The data, normalised as the command line says, else as the file's metadata does."""
    mean, std = (asked.mean, asked.std) if asked.mean else normalisation(opened, None, None)
    return load(asked.name, root=asked.root, held_out=0, reading=Reading(asked.workers, asked.image_size, mean, std))


def _work(work: Work) -> None:
    asked, directory = work.asked, work.directory
    directory.own(COMPACT, GIVEN)
    path = directory.path / COMPACT
    with work.stage("compact"):
        work.outcome = compact_file(asked.file, path, asked.input_shapes, round_channels=asked.round_channels)
        work.notes += work.outcome.notes
        _place_given(work)
        if not work.outcome.removed:
            work.notes.append(f"Nothing was removed: no channel of {asked.file.name} is dead.")
            _clean(work, path)
    with work.stage("export"):
        work.artifacts += [_described(directory.path / name) for name in (GIVEN, COMPACT)]
        for format in dict.fromkeys(asked.formats or BY_DEFAULT):
            if format != "onnx":
                _convert(work, format, path)
    with work.stage("validate"):
        work.checked = _validate(work, work.outcome)


def _place_given(work: Work) -> None:
    """dense.onnx: the given file, byte for byte unless parts of it lie elsewhere."""
    opened = work.opened
    if opened.scattered:
        work.directory.write(GIVEN, opened.model.SerializeToString(deterministic=True))
        work.notes.append(f"{GIVEN} holds the tensors that {work.asked.file.name} keeps in other files.")
    else:
        work.directory.place(GIVEN, lambda file: shutil.copyfile(work.asked.file, file))


def _clean(work: Work, path: Path) -> None:
    """Take descriptions out of a file that nothing else was taken out of; the model's own metadata stay."""
    model = onnx.load(path)
    before, labels = model.ByteSize(), list(model.metadata_props)
    strip(model)
    model.metadata_props.extend(labels)
    if model.ByteSize() < before:
        write_atomically(path, lambda file: file.write_bytes(model.SerializeToString(deterministic=True)))
        work.notes.append(
            f"{before - model.ByteSize():,} bytes of descriptions, which no runtime reads, were taken out."
        )


def _described(path: Path) -> Artifact:
    model = onnx.load(path)
    return describe(path, "onnx", opset=opset_of(model), min_ort=min_ort(opset_of(model), model.ir_version))


def _convert(work: Work, format: str, source: Path) -> None:
    assert work.outcome is not None  # compacted before
    exporter = conversion.found(format)
    name = f"{source.stem}{exporter.suffix}"
    files = [f"{source.stem}{end}" for end in (exporter.suffix, *getattr(exporter, "companions", ()))]
    work.directory.own(*files)
    try:
        place = work.directory.path / name
        artifact = conversion.convert(format, source, place, work.opened, work.outcome.inputs, work.data)
    except ExportError as error:
        if work.asked.formats:
            raise
        work.notes.append(f"{name} was not written: {error}.")
        return
    work.artifacts.append(artifact)
    work.files[name] = files
    work.notes += [f"{name}: {note}" for note in artifact.notes]


def _validate(work: Work, outcome: Outcome) -> dict[str, Any]:
    names = [artifact.path.name for artifact in work.artifacts]
    shapes = {entry.name: [1 if size is None else size for size in entry.shape] for entry in outcome.inputs}
    measurements, speedup = latency(work.directory.path, names, work.asked.validate, shapes)
    results = {artifact.path.name: _result(work, outcome, artifact) for artifact in work.artifacts}
    latencies = {m["artifact"]: m["latency_ms"] for m in reversed(measurements) if m["latency_ms"]}
    dense, compacted = (results[name].get("accuracy") for name in (GIVEN, COMPACT))
    values = {
        "accuracy_drop_points": None if dense is None or compacted is None else 100 * (dense - compacted),
        "latency_ms": latencies[COMPACT]["p50"] if COMPACT in latencies else None,
        "size_kb": work.artifacts[1].size_bytes / 1000,
        "speedup_low": speedup["speedup_low"],
    }
    limits = work.asked.validate.gates.model_dump(exclude_none=True)
    further = {name: result.get("accuracy") for name, result in results.items() if name not in (GIVEN, COMPACT)}
    gates = [*check_gates(limits, values), *check_files(limits, dense, further)]
    equal = all(result["parity"]["passed"] for name, result in results.items() if name != GIVEN)
    return {
        "status": "passed" if equal and all(gate.passed for gate in gates) else "gate_failed",
        "results": results,
        "latencies": latencies,
        "gates": [asdict(gate) for gate in gates],
        "measurements": measurements,
        **speedup,
    }


def _result(work: Work, outcome: Outcome, artifact: Artifact) -> dict[str, Any]:
    """Accuracy of a written file, and its parity with the given one."""
    found: dict[str, Any] = {}
    if work.data:
        images = TestBatches(work.data, takes_nhwc(work.opened, work.data))
        score = accuracy(conversion.runtime(artifact.path, work.data), images, metric=work.data.metric)
        found = {"accuracy": score.value, "accuracy_low": score.low, "accuracy_high": score.high}
    if artifact.path.name == GIVEN:
        return found
    dtype = max(artifact.dtype, outcome.dtype, key=TOLERANCES.__getitem__)
    given = work.directory.path / GIVEN
    parity = conversion.compare(
        artifact.path, given, work.opened, outcome.inputs, work.data, dtype=dtype, floors=outcome.floors
    )
    return found | {"parity": asdict(parity) | {"reference": "the given file"}}
