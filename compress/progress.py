"""What a person sees while it runs: a live rich display on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from compress.train import Epoch


class Display:
    """Stages, epochs and notes of a run, on standard error so that standard output stays for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._live = self.console.is_terminal and not quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._epochs_done = 0.0

    def note(self, text: str) -> None:
        """One plain line that matters even when quiet."""
        self.console.print(text, markup=False)

    @contextmanager
    def stage(self, name: str, epochs: int = 0) -> Iterator[None]:
        """A stage from start to end; ``epochs`` > 0 gives it a bar with the time left."""
        started = time.monotonic()
        if self._live:
            try:
                with self._bar() as self._progress:
                    self._task = self._progress.add_task(name, total=epochs or None, figures="")
                    self._epochs_done = 0.0
                    yield
            finally:
                self._progress = None
        else:
            if not self.quiet:
                self.note(f"{name} ...")
            yield
        if not self.quiet:
            self.note(f"{name}: done in {time.monotonic() - started:.1f} s")

    def _bar(self) -> Progress:
        return Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
            console=self.console, transient=True,
        )  # fmt: skip

    def continuing(self, epochs: int) -> None:
        """An interrupted stage goes on after so many epochs."""
        self.note(f"  continuing after epoch {epochs}")
        self._epochs_done = float(epochs)

    def tick(self, fraction: float) -> None:
        """The present epoch is done to this fraction."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=self._epochs_done + fraction)

    def piece(self, done: int, text: str) -> None:
        """So many pieces of a stage without epochs are done; the text tells of the latest."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, figures=text)
        elif not self.quiet:
            self.note(f"  {text}")

    def epoch(self, epoch: Epoch) -> None:
        """An epoch's figures."""
        figures = f"loss {epoch.loss:.4f}  held-out {epoch.accuracy:.2%}  sparsity {epoch.sparsity:.2%}" + "".join(
            f"  {name} {value:.2g}" for name, value in epoch.metrics.items()
        )
        if self._progress and self._task is not None:
            self._epochs_done += 1
            self._progress.update(self._task, description=epoch.stage, completed=self._epochs_done, figures=figures)
        elif not self.quiet:
            self.note(f"  {epoch.stage} epoch {epoch.epoch}/{epoch.epochs}: {figures}  {epoch.seconds:.1f} s")


def hooks(display: Display) -> dict[str, Any]:
    """The display's callbacks, as the training loop takes them."""
    return {"tick": display.tick}
