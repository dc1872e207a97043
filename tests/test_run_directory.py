import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from compress.errors import RunError, UsageError
from compress.run_directory import RunDirectory, key_of


def test_a_stage_is_found_only_under_its_key(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.store("dense", "k1", {"w": torch.ones(2)})
    found = RunDirectory(tmp_path).finished("dense", "k1")
    assert found is not None
    assert [1.0, 1.0] == found["w"].tolist()
    assert directory.finished("dense", "k2") is None


def test_a_changed_key_deletes_the_stale_artifacts_and_says_so(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.store("dense", "k1", {})
    directory.write("model.onnx", b"old")
    directory.write("mine.txt", b"not ours")
    assert directory.finished("dense", "k2") is None
    assert not (tmp_path / "model.onnx").exists()
    assert (tmp_path / "mine.txt").exists()
    assert "model.onnx" in directory.notes[-1]


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_truncated_checkpoint_falls_back_to_the_generation_before(tmp_path: Path, keep: int) -> None:
    directory = RunDirectory(tmp_path)
    directory.store_progress("dense", "k", {"epoch": 1})
    directory.store_progress("dense", "k", {"epoch": 2})
    newest = tmp_path / "checkpoints" / "dense.progress.pt"
    newest.write_bytes(newest.read_bytes()[:keep])
    assert {"epoch": 1} == directory.progress("dense", "k")
    assert "damaged" in directory.notes[-1]


def test_killed_between_the_two_renames_leaves_the_older_generation(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.store_progress("dense", "k", {"epoch": 1})
    checkpoints = tmp_path / "checkpoints"
    os.replace(checkpoints / "dense.progress.pt", checkpoints / "dense.previous.pt")
    assert {"epoch": 1} == directory.progress("dense", "k")


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/exploded",)

    directory = RunDirectory(tmp_path)
    torch.save({"key": "k", "payload": {"x": Bomb()}}, tmp_path / "checkpoints" / "dense.pt")
    assert directory.finished("dense", "k") is None
    assert not (tmp_path / "exploded").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond ``size`` bytes fail, as on a full disk, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_old_file_and_can_be_resumed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write("a.bin", b"old")
    with largest_file(1000), pytest.raises(RunError, match="free some space"):
        directory.write("a.bin", bytes(10_000))
    assert b"old" == (tmp_path / "a.bin").read_bytes()
    assert [tmp_path / "a.bin"] == list(tmp_path.glob("*a.bin*"))


def test_other_write_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        RunDirectory(tmp_path).place("a", fail)


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="choose another --out"):
        RunDirectory(tmp_path / "file")


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    with first.locked(), pytest.raises(UsageError, match="another run"), second.locked():
        pass
    with second.locked():
        pass


def test_decisions_are_made_once(tmp_path: Path) -> None:
    assert "a" == RunDirectory(tmp_path).decide("precision", lambda: "a")
    assert "a" == RunDirectory(tmp_path).decide("precision", lambda: "b")


def test_left_over_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.onnx.part").write_text("half")
    RunDirectory(tmp_path)
    assert not (tmp_path / ".model.onnx.part").exists()


def test_key_depends_on_every_part() -> None:
    keys = {key_of(a=1, b=2), key_of(a=1, b=3), key_of(a=1), key_of(a=2, b=2)}
    assert 4 == len(keys)
    assert key_of(a=1, b=2) == key_of(b=2, a=1)
