"""The main job: recipe -> model, data -> train -> prune -> compact -> export -> validate -> report."""

import errno
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from compress import __version__, stages
from compress.assemble import assemble
from compress.data import Augment, Reading, load
from compress.errors import GateError, RunError, UsageError
from compress.progress import Display
from compress.recipe import Recipe
from compress.report.html import write_html
from compress.report.store import write_json
from compress.run_directory import RunDirectory, key_of
from compress.stages import Payload, Run, digest
from compress.train import derive
from compress.validation import validate
from compress_exporters import ExportError, Request, find
from compress_models import SpecError, WeightsError


def prune_and_export(recipe: Recipe, out: Path, display: Display | None = None) -> dict[str, Any]:
    """Run a recipe and write all its files into ``out``; the same call again resumes or reuses what is there.

    Args:
        recipe: everything that decides the run.
        out: the run directory.
        display: where progress goes; standard error by default.

    Returns:
        The report, as written to report.json.

    Raises:
        UsageError: bad input.
        GateError: a gate or parity failed; all files are written.
        RunError: it could not finish; the same call resumes.
    """
    display = display or Display()
    directory = RunDirectory(out)
    with directory.locked():
        directory.write("recipe.toml", recipe.to_toml())
        try:
            run = _start(recipe, directory, display)
        except (SpecError, WeightsError) as error:
            raise UsageError(str(error)) from None
        try:
            report = _run(run)
        except BaseException as error:
            translated = _translated(error)
            status = "failed" if isinstance(error, Exception) else "interrupted"
            _write_report(run, assemble(run, _environment(run), status, getattr(translated, "exit_code", None)))
            if translated is error:
                raise
            raise translated from None
        _write_report(run, report)
        directory.clear_progress()
        if report["status"] == "gate_failed":
            raise GateError(_failures(report))
        return report


def _start(recipe: Recipe, directory: RunDirectory, display: Display) -> Run:
    for format in recipe.export.formats:
        try:
            find(format)
        except ExportError as error:
            raise UsageError(str(error)) from None
    device = _device(recipe.device)
    precision = directory.decide("precision", lambda: _precision(recipe.precision, device))
    held_out = recipe.data.held_out
    data = load(
        recipe.data.name,
        root=recipe.data.root,
        held_out=held_out if held_out < 1 else int(held_out),
        seed=derive(recipe.seed, "held out"),
        device=device,
        augment=Augment(shift=recipe.data.shift, flip=recipe.data.flip),
        reading=Reading(recipe.data.workers, recipe.data.image_size, recipe.data.mean, recipe.data.std),
    )
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision["dtype"]]
    return Run(recipe, directory, display, data, device, autocast)


def _run(run: Run) -> dict[str, Any]:
    payload = stages.dense(run)
    for number in range(len(run.recipe.prune)):
        payload = stages.prune(run, number, payload)
        payload = stages.compaction(run, number, payload)
    export(run, payload)
    validate(run, payload)
    return assemble(run, _environment(run))


def export(run: Run, payload: Payload) -> Payload:
    """Write dense.onnx and every format asked for, all by the same path."""
    asked = run.recipe.export

    def work() -> Payload:
        dense = find("onnx").export(_request(run, run.payloads["dense"]), run.directory.path / "dense.onnx")
        written = [dense]
        for format in dict.fromkeys(("onnx", *asked.formats)):
            exporter = find(format)
            written.append(exporter.export(_request(run, payload), run.directory.path / f"model{exporter.suffix}"))
        return {"artifacts": [{**asdict(artifact), "path": artifact.path.name} for artifact in written]}

    stage = run.stage("export", "export", {"export": asked.model_dump(mode="json")}, work)
    if not all(_intact(run, artifact) for artifact in stage["artifacts"]):
        run.display.note("  an exported file is missing or changed; writing it again")
        stage.update(work())
    return stage


def _request(run: Run, payload: Payload) -> Request:
    asked, data = run.recipe.export, run.data
    metadata = {
        "labels": json.dumps(data.classes),
        "preprocessing": json.dumps({"scale": 1 / 255, "mean": data.mean, "std": data.std}),
        "method": ", then ".join(f"{step.method} on {step.units}s" for step in run.recipe.prune),
        "sparsity": f"{payload['sparsity']:.6f}",
        "recipe_sha256": key_of(recipe=run.recipe.model_dump(mode="json", exclude={"device", "validate_"})),
        "producer": f"compress {__version__}",
    }
    normalisation = (data.mean, data.std) if asked.uint8_input else None
    return Request(run.model(payload), data.input_shape, asked.batch, asked.opset, normalisation, metadata)


def _intact(run: Run, artifact: dict[str, Any]) -> bool:
    file = run.directory.path / artifact["path"]
    return file.exists() and digest(file) == str(artifact["sha256"])


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {asked!r} cannot be used ({str(error).splitlines()[0]}); try --device cpu") from None
    return device


def _precision(asked: str, device: torch.device) -> dict[str, str]:
    """Autocast dtype, and why; decided once per run directory so that a resumed run computes the same."""
    if asked != "auto":
        return {"dtype": asked, "reason": "asked for"}
    if device.type == "cuda":
        return {
            "dtype": "bf16" if torch.cuda.is_bf16_supported() else "fp32",
            "reason": "what the GPU supports",
        }
    if torch.cpu._is_avx512_bf16_supported():
        return {"dtype": "bf16", "reason": "the CPU multiplies bfloat16 in hardware"}
    return {"dtype": "fp32", "reason": "the CPU has no bfloat16 instructions"}


def _environment(run: Run) -> dict[str, Any]:
    return {
        "compress": __version__,
        "torch": torch.__version__,
        "onnxruntime": version("onnxruntime"),
        "onnx": version("onnx"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "device": str(run.device),
        "precision": str(run.autocast).removeprefix("torch.") if run.autocast else "float32",
        "training_threads": torch.get_num_threads(),
        "threads": run.recipe.validate_.threads,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _write_report(run: Run, report: dict[str, Any]) -> None:
    write_json(report, run.directory.path / "report.json")
    write_html(report, run.directory.path / "report.html")


def _translated(error: BaseException) -> BaseException:
    """What happened, as an error with an exit code; anything unforeseen stays as it is."""
    if isinstance(error, SpecError | WeightsError | ExportError):
        return UsageError(str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RunError(f"no space left on the disk ({error.strerror}); free some space and run the same command again")
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return RunError("out of memory; lower --set train.batch_size, then run the same command again")
    return error


def _failures(report: dict[str, Any]) -> str:
    found = [
        f"{gate['name']} = {gate['value']} against the limit {gate['limit']}"
        for gate in report["gates"]
        if not gate["passed"]
    ]
    if not report["parity"]["passed"]:
        found.insert(
            0,
            f"parity: max error {report['parity']['max_abs']:.3g}, tolerance {report['parity']['tolerance']:.3g}",
        )
    return "failed: " + "; ".join(found)
