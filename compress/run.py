"""A run under way: what was asked, where it is written, and how far it is."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from compress import latency
from compress.compaction import restore
from compress.data import Data
from compress.progress import Display
from compress.recipe import Recipe
from compress.run_directory import RunDirectory, key_of
from compress.train import Epoch, Task, derive, to_device
from compress_models import load

Payload = dict[str, Any]


@dataclass
class Run:
    """What was asked, where it is written, and how far it is."""

    recipe: Recipe
    directory: RunDirectory
    display: Display
    data: Data
    device: torch.device
    autocast: torch.dtype | None
    key: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    payloads: dict[str, Payload] = field(default_factory=dict)
    told: int = 0
    write: latency.Write = latency.no_writer
    """Exports a network as the run's first target runs it."""
    latencies: list[dict[str, Any]] = field(default_factory=list)
    """What was found for every step with a budget of time."""

    def stage(
        self, name: str, title: str, depends: dict[str, Any], work: Callable[[], Payload], epochs: int = 0
    ) -> Payload:
        """Run a stage, or take its payload from an earlier run of the same key."""
        self.key = key_of(stage=name, upstream=self.key, **depends)
        payload = self.directory.finished(name, self.key)
        resumed = payload is not None
        self._tell_notes()
        if payload is None:
            started = time.monotonic()
            with self.display.stage(title, epochs):
                payload = work()
            payload["seconds"] = time.monotonic() - started
            self.directory.store(name, self.key, payload)
        elif not self.display.quiet:
            self.display.note(f"{title}: finished earlier, reused")
        figures = {key: payload.get(key) for key in ("accuracy", "sparsity", "macs", "weights")}
        self.stages.append({"name": title, "seconds": payload["seconds"], "resumed": resumed, **figures})
        self.payloads[name] = payload
        return payload

    def _tell_notes(self) -> None:
        for text in self.directory.notes[self.told :]:
            self.display.note(text)
        self.told = len(self.directory.notes)

    def build(self) -> nn.Module:
        """The network as the recipe names it, freshly initialised from the seed."""
        torch.manual_seed(derive(self.recipe.seed, "init"))
        defaults: dict[str, Any] = {
            "in_channels": self.data.input_shape[0],
            "input_size": self.data.input_shape[1],
        }
        if self.data.classes:
            defaults["num_classes"] = len(self.data.classes)
        return load(self.recipe.model.name, self.recipe.model.options, defaults=defaults)

    def model(self, payload: Payload) -> nn.Module:
        """The network of a payload, on the CPU in the default memory format, in evaluation mode."""
        return restore(self.build(), payload["state"], payload["attributes"]).eval()

    def task(self, model: nn.Module) -> Task:
        """The model on this run's data and device."""
        whole = self.payloads["dense"]["weights"] if self.payloads else None
        graphs = self.recipe.cuda_graphs and self.device.type == "cuda"
        model = to_device(model, self.device)
        return Task(model, self.data, self.device, self.autocast, self.recipe.seed, whole, graphs=graphs)

    def hooks(self, name: str, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Checkpointing and display for `rounds.run_phases`; ``history`` grows and is saved along."""
        saved = self.directory.progress(name, self.key)
        self._tell_notes()
        if saved:
            history.extend(saved.pop("history"))
            self.display.continuing(len(history))

        def report(epoch: Epoch) -> None:
            history.append(asdict(epoch))
            self.display.epoch(epoch)

        def save(snapshot: dict[str, Any]) -> None:
            self.directory.store_progress(name, self.key, {**snapshot, "history": history})

        return {"saved": saved, "save": save, "report": report, "tick": self.display.tick}
