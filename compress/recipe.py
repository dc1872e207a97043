"""The recipe: all that decides a run, as frozen, validated values. Equal recipes give equal runs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress import methods
from compress.budget import Budget
from compress.errors import UsageError, nearest

if TYPE_CHECKING:
    from compress.method import PruningMethod

Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]  # ONNX Runtime crashes where the system gives it no more
Schedule = Literal["constant", "cosine", "linear", "step"]


class Section(BaseModel):
    """Base of every section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """Which network: a built-in name, ``torchvision:NAME``, ``file.py:Factory`` or ``package.module:Factory``."""

    name: str = "lenet5"
    weights: Path | None = None
    """safetensors or weights-only state dict to start from."""
    options: dict[str, bool | int | float | str] = {}
    """Keyword arguments of the network's constructor."""


class DataSection(Section):
    """Which data, by the same kinds of spec, and its augmentation."""

    name: str = "mnist"
    root: Path | None = None
    """Where downloaded data sets live; the user's cache by default."""
    held_out: Annotated[float, Field(gt=0)] = 0.1
    """Part of the training set used for every selection: a count, or a fraction below 1."""
    shift: Count = 0
    """Random shift in pixels (zero padding, crop)."""
    flip: bool = False
    """Random horizontal flip."""
    mean: tuple[float, ...] | None = None
    """Per channel, for pixels in 0..1; the data set's own by default."""
    std: tuple[float, ...] | None = None
    image_size: Positive = 224
    """Height and width that ``imagefolder`` crops to."""
    workers: Count = 0
    """Processes that read streamed images."""


class TrainSection(Section):
    """Training of the dense model; steps inherit what they do not set. Zero epochs keep the given weights."""

    epochs: Count = 5
    batch_size: Positive = 128
    lr: Rate = 1e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Schedule = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Fraction = 0.9
    warmup: Fraction = 0.0


class Finetune(Section):
    """Retraining after a step; what was pruned stays zero."""

    epochs: Count = 5
    lr: Rate | None = None
    schedule: Schedule = "cosine"
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the loss that is distance from the dense model's answers; classification only."""
    compacted: bool = True
    """Retrain what compaction leaves, at its cost; false: the whole network under masks, compacted afterwards."""


class Step(BaseModel):
    """One pruning step; keys not listed here are knobs of its method."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str = "admm"
    units: Annotated[str, Field(pattern=r"^(element|channel|[1-9]\d*:[1-9]\d*)$")] = "element"
    """``element``, ``channel``, or a pattern N:M (at most N of M neighbouring weights stay)."""
    budget: Budget = Budget()
    epochs: Count = 5
    """The method's own number by default."""
    lr: Rate | None = None
    schedule: Schedule = "constant"
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the loss, in the method's own epochs, that is distance from the dense model's answers."""
    finetune: Finetune = Finetune()
    rounds: Positive = 1
    rewind: Count | None = None
    """Epoch of the dense training whose weights retraining starts from (0: before any training)."""
    round_channels: Positive = 1
    """Channel counts are multiples of this, or a layer stays whole."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        """How long a step takes is the method's to say, unless the recipe does."""
        if not isinstance(given, Mapping) or not isinstance(given.get("method", "admm"), str):
            return given
        method = methods.find(given.get("method", "admm"))
        return {"epochs": method.epochs, "finetune": Finetune() if method.retrains else Finetune(epochs=0), **given}

    def model_post_init(self, context: Any, /) -> None:
        """Write out the method's defaults; refuse what does not exist when the recipe is read, not hours later."""
        known = [*type(self).model_fields]
        method = methods.find(self.method)
        found = {f.name for f in dataclasses.fields(method)}
        for knob in self.knobs:
            if knob not in found:
                raise UsageError(f"prune step has no key {knob!r}; {nearest(knob, [*known, *found])}")
        self._check(method)
        built = methods.build(self.method, self.knobs)
        built.check(self.budget, self.epochs)
        if self.budget.free and ":" not in self.units and built.needs_budget:
            raise UsageError(
                f"method {self.method} prunes nothing without a budget: write one, such as "
                "budget = { sparsity = 0.9 } or --sparsity 0.9; see compress methods " + self.method
            )
        assert self.model_extra is not None  # extra keys are allowed
        self.model_extra.update(dataclasses.asdict(built))

    def _check(self, method: "type[PruningMethod]") -> None:
        kind = "channel" if self.units == "channel" else "element"
        if kind in method.refuses:
            raise UsageError(f"method {self.method} cannot prune {kind}s: {method.refuses[kind]}")
        if self.budget.latency is not None and kind != "channel":
            raise UsageError(
                f'a latency budget chooses how many channels stay: write units = "channel", not {self.units}'
            )
        if self.finetune.epochs and not method.retrains:
            raise UsageError(f"retraining would undo method {self.method}; set finetune.epochs = 0")
        if ":" in self.units and int(self.units.partition(":")[0]) >= int(self.units.partition(":")[2]):
            raise UsageError(f"pattern {self.units} prunes nothing; N must be below M, as in 2:4")

    @property
    def knobs(self) -> dict[str, Any]:
        """The method's own keys."""
        return dict(self.model_extra or {})


class ExportSection(Section):
    """Which files are written."""

    formats: tuple[str, ...] = ("onnx", "sparse")
    opset: Annotated[int, Field(ge=18, le=23)] = 18
    batch: Positive | Literal["dynamic"] = 1
    """Mobile and NPU runtimes want a fixed batch."""
    uint8_input: bool = False
    """Normalisation inside the graph: an app feeds raw uint8 NHWC pixels."""


class Gates(Section):
    """Limits the run must meet; a failed one ends in exit code 3."""

    max_accuracy_drop_points: float | None = None
    max_latency_ms: Rate | None = None
    min_speedup: Rate | None = None
    max_size_kb: Rate | None = None


class ValidateSection(Section):
    """Parity, accuracy and latency in ONNX Runtime."""

    targets: tuple[str, ...] = ("local",)
    threads: Threads = 1
    warm_up: Count = 50
    repeats: Positive = 20
    seconds: Rate = 10.0
    """Time given to the latency measurement of each target."""
    gates: Gates = Gates()


class AppSection(Section):
    """The app bundle, DIR/app; written where the data are classified 8-bit images."""

    write: bool = True
    web_runtime: Path | None = None
    """Folder of onnxruntime-web, for the offline page; ./node_modules/onnxruntime-web by default."""


class Recipe(Section):
    """A whole run."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    prune: tuple[Step, ...] = ()
    export: ExportSection = ExportSection()
    validate_: ValidateSection = Field(default=ValidateSection(), alias="validate")
    app: AppSection = AppSection()
    seed: Count = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    cuda_graphs: bool = True

    def model_post_init(self, context: Any, /) -> None:
        """Refuse steps that do not fit together."""
        for number, step in enumerate(self.prune):
            if step.rewind is not None and number:
                raise UsageError(
                    f"prune.{number}.rewind: only the first step can rewind; later ones work on a network that is "
                    "narrower than the one that was trained"
                )
            if step.rewind is not None and step.rewind > self.train.epochs:
                raise UsageError(
                    f"prune.0.rewind = {step.rewind}, but the dense training has {self.train.epochs} epochs"
                )

    def multiple(self, number: int) -> int:
        """Of which channel counts are multiples after a step: what an earlier step rounded to holds as well."""
        return max(step.round_channels for step in self.prune[: number + 1])

    def to_dict(self) -> dict[str, Any]:
        """Every value, defaults written out, absent ones left out; JSON- and TOML-able."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_toml(self) -> str:
        """The same as TOML."""
        return tomli_w.dumps(self.to_dict())
