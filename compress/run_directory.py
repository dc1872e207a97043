"""The run directory: files appear whole or not at all, and finished work is found again by its key."""

import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from compress.errors import RunError, UsageError

_OWNED = "artifacts.json"
_ALWAYS_OWNED = ("dense.onnx", "model.onnx", "report.json", "report.html")
"""Files that a changed recipe makes stale, with those that `RunDirectory.own` names; no others are deleted."""

_MADE_AFTER = {"validate": ("report.json", "report.html", "app/"), "app": ("app/",)}
"""Starts of the names of what is made from a stage, where that is not everything: other gates leave the exported
files as they are."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what keeps a file, or a folder of files, from being written where a command line names it.

    Raises:
        RunError: the disk is full.
        UsageError: it cannot be written there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(
                f"no space left while writing {path} ({error.strerror}); free some and run the same command again"
            ) from None
        # said where a folder is to be made and a file has its name
        reason = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST else error.strerror or error
        raise UsageError(f"{path} cannot be written: {reason}; choose another place") from None


def key_of(**parts: Any) -> str:
    """Key of a stage: SHA-256 of all it depends on, as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class RunDirectory:
    """One run's files; checkpoints are read weights-only and trusted only if they carry the expected key.

    Attributes:
        path: the directory.
        notes: what happened to files on the way (a corrupt checkpoint, a stale one), in plain sentences.
        overwrites: whether another recipe's stages give way to this one's.
    """

    def __init__(self, path: Path, *, overwrites: bool = True) -> None:
        """Make the directory.

        Raises:
            UsageError: it cannot be made or written to.
        """
        self.path = path
        self.overwrites = overwrites
        self.notes: list[str] = []
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with self.locked():  # what another run is writing now is not left over
                self._remove_left_overs()
        except OSError as error:
            raise UsageError(
                f"cannot write to the output directory {path}: {error.strerror}; choose another --out"
            ) from None

    @property
    def checkpoints(self) -> Path:
        """Resumable state."""
        return self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against a second run.

        Raises:
            UsageError: another run holds it.
        """
        with (self.checkpoints / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"another run is using {self.path}; wait for it or choose another --out") from None
            yield

    def own(self, *names: str) -> None:
        """Remember, before they are written, names of files that may be deleted once they are stale."""
        self.write(f"checkpoints/{_OWNED}", json.dumps(sorted({*self._owned(), *names})) + "\n")

    def _owned(self) -> list[str]:
        try:
            return [*_ALWAYS_OWNED, *map(str, json.loads((self.checkpoints / _OWNED).read_text()))]
        except (OSError, ValueError, TypeError):
            return [*_ALWAYS_OWNED]

    def _remove_left_overs(self) -> None:
        """Temporary files of a run that was killed: ours alone, by the names they lead to."""
        # an exporter that builds on another's file writes beside that file's temporary name: two dots
        patterns = [".*.part"]
        for folder, name in map(os.path.split, self._owned()):
            patterns += [os.path.join(glob.escape(folder), f"{dots}{glob.escape(name)}.*") for dots in (".", "..")]
        for pattern in patterns:
            for left_over in [*self.path.glob(pattern), *self.checkpoints.glob(pattern)]:
                left_over.unlink()

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file under a temporary name, then rename it.

        Raises:
            RunError: the disk is full.
        """
        data = content.encode() if isinstance(content, str) else content
        return self.place(name, lambda temporary: temporary.write_bytes(data))

    def place(self, name: str, make: Callable[[Path], object]) -> Path:
        """Let ``make`` write a temporary file next to its destination, then rename it.

        Raises:
            RunError: the disk is full.
        """
        final = self.path / name
        temporary = final.with_name(f".{final.name}.part")
        try:
            make(temporary)
            os.replace(temporary, final)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise RunError(
                    f"no space left while writing {final} ({error.strerror}); finished stages are kept: "
                    "free some space and run the same command again"
                ) from None
            raise
        return final

    def store(self, stage: str, key: str, payload: Mapping[str, Any]) -> None:
        """Save a finished stage."""
        self._save(f"checkpoints/{stage}.pt", key, payload)

    def finished(self, stage: str, key: str) -> dict[str, Any] | None:
        """A finished stage's payload; None where it is absent, damaged or of another key.

        What was made from a stage that must run again is deleted, and a note says so.

        Raises:
            UsageError: it must run again, but nothing is to be overwritten.
        """
        payload = self._load(self.checkpoints / f"{stage}.pt", key)
        if payload is None and (self.checkpoints / f"{stage}.pt").exists():
            if not self.overwrites:
                raise UsageError(
                    f"{self.path} holds the stage {stage} of another recipe, other data or another version, or it is "
                    "damaged, and this command overwrites none; choose another --out"
                )
            (self.checkpoints / f"{stage}.pt").unlink()
            made = [name for name in sorted({*self._owned()}) if name.startswith(_MADE_AFTER.get(stage, ("",)))]
            stale = [file for name in made if (file := self.path / name).is_file()]
            for file in stale:
                file.unlink()
            if stale:
                names = ", ".join(dict.fromkeys(file.relative_to(self.path).parts[0] for file in stale))
                self.notes.append(
                    f"{stage} must run again (its inputs changed or its checkpoint is damaged); deleted {names}"
                )
        return payload

    def store_progress(self, stage: str, key: str, payload: Mapping[str, Any]) -> None:
        """Save where an unfinished stage stands; the generation before stays beside it."""
        current = self.checkpoints / f"{stage}.progress.pt"
        if current.exists():
            os.replace(current, self.checkpoints / f"{stage}.previous.pt")
        self._save(f"checkpoints/{stage}.progress.pt", key, payload)

    def progress(self, stage: str, key: str) -> dict[str, Any] | None:
        """Where an unfinished stage stood; falls back to the generation before if the newest is corrupt."""
        newest = self._load(self.checkpoints / f"{stage}.progress.pt", key)
        return newest or self._load(self.checkpoints / f"{stage}.previous.pt", key)

    def clear_progress(self, stage: str = "*") -> None:
        """Remove the state of unfinished stages, or of one, once it is complete."""
        for pattern in (f"{stage}.progress.pt", f"{stage}.previous.pt"):
            for file in self.checkpoints.glob(pattern):
                file.unlink()

    def decide(self, name: str, choose: Callable[[], Any]) -> Any:
        """A choice made once per run directory and reused when the run is resumed (decisions.json)."""
        file = self.path / "decisions.json"
        try:
            decisions = dict(json.loads(file.read_text())) if file.exists() else {}
        except (ValueError, TypeError):
            self.notes.append(f"{file.name} was unreadable; its choices were made again")
            decisions = {}
        if name not in decisions:
            decisions[name] = choose()
            self.write(file.name, json.dumps(decisions, indent=2) + "\n")
        return decisions[name]

    def _save(self, name: str, key: str, payload: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save({"key": key, "payload": dict(payload)}, buffer)
        self.write(name, buffer.getvalue())

    def _load(self, path: Path, key: str) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            with warnings.catch_warnings(action="ignore"):
                saved = torch.load(path, map_location="cpu", weights_only=True)
            found, payload = saved["key"], dict(saved["payload"])
        except Exception as error:  # any damage looks different to torch; all of it means: not usable
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            self.notes.append(f"checkpoint {path.name} is damaged ({reason}); going back to the last good state")
            return None
        return payload if found == key else None
