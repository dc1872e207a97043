"""The main job: recipe -> model, data -> train -> prune -> compact -> export -> validate -> report."""

import errno
import functools
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from compress import __version__, latency, machine, stages, targets
from compress.app import stage as app
from compress.assemble import assemble
from compress.checkpoint import save_weights
from compress.conversion import calibration_images
from compress.data import Augment, Data, Reading, load
from compress.errors import GateError, RunError, UsageError
from compress.preflight import check
from compress.progress import Display
from compress.recipe import ExportSection, Recipe
from compress.report.html import write_html
from compress.report.store import write_json
from compress.report.words import gate_name
from compress.run import Payload, Run
from compress.run_directory import RunDirectory, key_of
from compress.stages import digest
from compress.train import derive
from compress.validation import validate
from compress_exporters import ExportError, Request, find
from compress_exporters._versions import min_ort
from compress_exporters.artifact import check_installed, scratch_beside
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
        run = start(recipe, directory, display)
        directory.write("recipe.toml", recipe.to_toml())
        try:
            report = _run(run)
        except BaseException as error:
            known = translated(error)
            status = "failed" if isinstance(error, Exception) else "interrupted"
            code = 130 if isinstance(error, KeyboardInterrupt) else getattr(known, "exit_code", 1)
            write_report(out, assemble(run, machine.environment(run), status, code))
            if known is error:
                raise
            raise known from None
        write_report(out, report)
        directory.clear_progress()
        if report["status"] == "gate_failed":
            raise GateError(failures(report))
        return report


def start(recipe: Recipe, directory: RunDirectory, display: Display) -> Run:
    """All that is needed, checked before anything of an earlier run is touched.

    Raises:
        UsageError: something asked for does not exist or does not fit; hours later would be too late.
        RunError: a target cannot be reached.
    """
    for step in recipe.prune:
        latency.check(step.budget, recipe.validate_.targets)
    for target in recipe.validate_.targets:
        _check_target(target, recipe.export)
    device = machine.device(recipe.device)
    run = Run(recipe, directory, display, data_of(recipe, device), device, None)
    run.write = functools.partial(_write_for_target, run)
    try:
        for format in recipe.export.formats:
            if package := getattr(find(format), "package", None):
                check_installed(package, format)
        check(run)
    except (ExportError, SpecError, WeightsError) as error:
        raise UsageError(str(error)) from None
    precision = {"dtype": recipe.precision}
    if recipe.precision == "auto":
        precision = directory.decide("precision", lambda: machine.precision(device))
    run.autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision["dtype"]]
    return run


def _check_target(target: str, asked: ExportSection) -> None:
    suffixes = targets.find(target).SUFFIXES
    if not any(find(format).suffix.endswith(suffixes) for format in ("onnx", *asked.formats)):
        raise UsageError(
            f"target {target} runs {' and '.join(suffixes)} files, and none is written; add one with --format"
        )
    has, needs = targets.check(target).get("onnxruntime", ""), min_ort(asked.opset, 0)
    if has and _release(has) < _release(needs):
        raise UsageError(
            f"target {target} has onnxruntime {has}, and files of opset {asked.opset} need {needs} at least; "
            "update it there (python -m pip install --upgrade onnxruntime), or lower --opset"
        )


def _write_for_target(run: Run, model: torch.nn.Module, path: Path) -> Path:
    """A network in the first format that the first target runs."""
    asked = run.recipe.export
    suffixes = targets.find(run.recipe.validate_.targets[0]).SUFFIXES
    exporter = next(e for e in map(find, ("onnx", *asked.formats)) if e.suffix.endswith(suffixes))
    images = calibration_images(run.data) if getattr(exporter, "calibrates", False) else None
    wanted = Request(model.eval(), run.data.input_shape, asked.batch, asked.opset, calibration=images)
    return exporter.export(wanted, path.with_name(path.name + exporter.suffix)).path


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def data_of(recipe: Recipe, device: torch.device) -> Data:
    """The data that a recipe names."""
    held_out = recipe.data.held_out
    return load(
        recipe.data.name,
        root=recipe.data.root,
        held_out=held_out if held_out < 1 else int(held_out),
        seed=derive(recipe.seed, "held out"),
        device=device,
        augment=Augment(shift=recipe.data.shift, flip=recipe.data.flip),
        reading=Reading(recipe.data.workers, recipe.data.image_size, recipe.data.mean, recipe.data.std),
    )


def _run(run: Run) -> dict[str, Any]:
    payload = stages.dense(run)
    for number, step in enumerate(run.recipe.prune):
        payload = stages.prune(run, number, payload)
        payload = stages.compaction(run, number, payload)
        if stages.retrains_compacted(step):
            payload = stages.retrain(run, number, payload)
    export(run, payload)
    validate(run, payload)
    app.write(run, assemble(run, machine.environment(run)), lambda: _network(run, payload))
    return assemble(run, machine.environment(run))


def export(run: Run, payload: Payload) -> Payload:
    """Write dense.onnx and every format asked for, all by the same path."""
    asked = run.recipe.export

    def work() -> Payload:
        networks = {"dense": run.payloads["dense"], "model": payload}
        written = []
        for format in dict.fromkeys(("onnx", *asked.formats)):
            exporter = find(format)
            for name in networks if format == "onnx" or getattr(exporter, "compares", False) else ("model",):
                ends = (exporter.suffix, *getattr(exporter, "companions", ()))
                run.directory.own(*(f"{name}{end}" for end in ends))
                path = run.directory.path / f"{name}{exporter.suffix}"
                artifact = asdict(exporter.export(request(run, networks[name]), path))
                written.append({**artifact, "path": path.name, "files": [f"{name}{end}" for end in ends]})
        run.directory.place(
            "checkpoints/model.safetensors", lambda file: save_weights(payload["state"], payload["attributes"], file)
        )
        return {"artifacts": written}

    stage = run.stage("export", "export", {"export": asked.model_dump(mode="json")}, work)
    if not all(_intact(run, artifact) for artifact in stage["artifacts"]):
        run.display.note("  an exported file is missing or changed; writing it again")
        stage.update(work())
        run.directory.store("export", run.key, stage)
    return stage


def _network(run: Run, payload: Payload) -> bytes:
    """The pruned network as ONNX, normalised float32 images one by one, which model.onnx need not take."""
    asked = run.recipe.export
    if asked.batch in (1, "dynamic") and not asked.uint8_input:
        return (run.directory.path / "model.onnx").read_bytes()
    with scratch_beside(run.directory.path / "app.onnx") as file:
        find("onnx").export(replace(request(run, payload), batch=1, normalisation=None), file)
        return file.read_bytes()


def request(run: Run, payload: Payload) -> Request:
    """What exporters are asked for a network of a run."""
    asked, data = run.recipe.export, run.data
    scale = 1.0 if data.test.raw(0, 1) is None else 1 / 255  # of the stored values, before mean and std
    metadata = {
        "labels": json.dumps(data.classes),
        "preprocessing": json.dumps({"scale": scale, "mean": data.mean, "std": data.std}),
        "method": ", then ".join(f"{step.method} on {step.units}s" for step in run.recipe.prune),
        "sparsity": f"{payload['sparsity']:.6f}",
        "recipe_sha256": key_of(recipe=_deciding(run.recipe)),
        "producer": f"compress {__version__}",
    }
    normalisation = (data.mean, data.std) if asked.uint8_input else None
    images = calibration_images(data)
    return Request(run.model(payload), data.input_shape, asked.batch, asked.opset, normalisation, metadata, images)


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe decides the model: neither where files lie nor what is measured afterwards."""
    table = recipe.to_dict()
    elsewhere = {"model": ("weights",), "data": ("root", "workers")}
    kept = {name: section for name, section in table.items() if name not in ("device", "validate", "app")}
    return kept | {name: {k: v for k, v in table[name].items() if k not in out} for name, out in elsewhere.items()}


def _intact(run: Run, artifact: dict[str, Any]) -> bool:
    here = all((run.directory.path / name).is_file() for name in artifact["files"])
    return here and digest(run.directory.path / artifact["path"]) == str(artifact["sha256"])


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json and report.html."""
    write_json(report, folder / "report.json")
    write_html(report, folder / "report.html")


def translated(error: BaseException) -> BaseException:
    """What happened, as an error with an exit code; anything unforeseen stays as it is."""
    if isinstance(error, SpecError | WeightsError | ExportError):
        return UsageError(str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RunError(f"no space left on the disk ({error.strerror}); free some space and run the same command again")
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return RunError("out of memory; lower --set train.batch_size, then run the same command again")
    return error


def failures(report: dict[str, Any]) -> str:
    """The gates and parities that failed, in one line."""
    found = [
        f"{gate_name(gate)} = {gate['value']} against the limit {gate['limit']}"
        for gate in report["gates"]
        if not gate["passed"]
    ]
    unequal = [
        _disparity(a["path"], a["parity"]) for a in report["artifacts"] if not a.get("parity", {}).get("passed", True)
    ]
    return "failed: " + "; ".join([*unequal, *found])


def _disparity(file: str, parity: dict[str, Any]) -> str:
    if parity["max_abs"] is None:
        return f"parity of {file}: an output is not finite"
    return f"parity of {file}: max error {parity['max_abs']:.3g}, tolerance {parity['tolerance']:.3g}"
