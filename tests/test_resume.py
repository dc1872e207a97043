"""Whatever ends a run, the same command finishes it, with the bytes of a run that nothing ended."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Ended, Project, Server, report_of

DELIVERED = ("dense.onnx", "model.onnx", "model.sparse.onnx")
STEP = ("--method", "admm", "--compression", 4, "--epochs", 2, "--finetune-epochs", 2)


@pytest.fixture(scope="module")
def words(user: Project) -> list[str]:
    return user.words(*STEP, "--out", "run")


@pytest.fixture(scope="module")
def whole(server: Server, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing ended."""
    folder = tmp_path_factory.mktemp("whole")
    ended = server.run(words, folder)
    assert 0 == ended.code, ended.err
    return folder / "run"


def assert_finishes(server: Server, words: list[str], folder: Path, whole: Path) -> Ended:
    ended = server.run(words, folder)
    assert 0 == ended.code, ended.err
    for name in DELIVERED:
        assert (whole / name).read_bytes() == (folder / "run" / name).read_bytes(), name
    assert "passed" == report_of(folder / "run")["status"]
    kept = {path.name for path in (folder / "run").rglob("*")}
    assert kept == {path.name for path in whole.rglob("*")}  # no temporary file is left
    return ended


KILLS = (
    ("open .decisions.json.part", 1),
    ("rename recipe.toml", 1),
    ("test.step", 3),  # inside the first dense epoch; the first call is the check of the model on the data
    ("open .dense.progress.pt.part", 1),
    ("rename dense.progress.pt", 1),
    ("rename dense.previous.pt", 1),
    ("open .dense.progress.pt.part", 2),  # between the two renames of a generation
    ("rename dense.pt", 1),
    ("test.step", 3),  # inside the first epoch of the method
    ("rename prune-0.progress.pt", 1),
    ("test.step", 6),
    ("open .prune-0.progress.pt.part", 2),  # the method is finished, its masks not yet saved
    ("rename prune-0.pt", 1),
    ("test.build", 2),  # inside compaction
    ("rename compact-0.pt", 1),
    ("test.step", 3),  # inside the first epoch of retraining
    ("rename retrain-0.progress.pt", 1),
    ("test.step", 6),  # inside the second
    ("rename retrain-0.pt", 1),
    ("rename artifacts.json", 1),
    ("open .dense.onnx", 2),
    ("rename model.onnx", 1),
    (r"open \.model.sparse.onnx", 1),
    ("rename model.sparse.onnx", 1),
    ("rename export.pt", 1),
    ("test.build", 3),  # inside validation
    ("subprocess.Popen", 2),
    ("rename validate.pt", 1),
    ("open .report.json", 1),
    ("rename report.json", 1),
    ("rename report.html", 1),
)
"""Where one run after the other is killed, in the same directory: event and which of its kind."""


def test_killed_at_every_stage_and_run_again_gives_the_same_bytes(
    server: Server, words: list[str], whole: Path, tmp_path: Path
) -> None:
    inside = set()
    for at, nth in KILLS:
        ended = server.run(words, tmp_path, at=at, nth=nth, do="SIGKILL")
        assert -9 == ended.code, f"{at} {nth} never came: {ended.err}\n{ended.events}"
        if at == "test.step":
            inside |= {path.name for path in (tmp_path / "run" / "checkpoints").glob("*-0.progress.pt")}
    assert {"prune-0.progress.pt", "retrain-0.progress.pt"} == inside
    assert_finishes(server, words, tmp_path, whole)


INTERRUPTIONS = (
    ("SIGINT", "test.step", 9, 130),
    ("SIGTERM", "test.build", 3, 143),  # inside compaction
    ("SIGINT", "subprocess.Popen", 1, 130),
)


def test_interrupted_says_so_and_resumes(server: Server, words: list[str], whole: Path, tmp_path: Path) -> None:
    for do, at, nth, code in INTERRUPTIONS:
        ended = server.run(words, tmp_path, at=at, nth=nth, do=do)
        assert code == ended.code, f"{do} at {at}: {ended.err}"
        assert "run the same command again: training goes on" in ended.err
        assert "Traceback" not in ended.err
        found = report_of(tmp_path / "run")
        assert ("interrupted", code) == (found["status"], found["exit_code"])
    assert "compact-0: finished earlier, reused" in assert_finishes(server, words, tmp_path, whole).err


FULL = (
    "rename dense.progress.pt",
    "open .prune-0.pt.part",
    r"open \.\.model.sparse.onnx",
    "open .validate.pt.part",
    "rename report.html",
)


def assert_unfinished(ended: Ended) -> None:
    assert 4 == ended.code, ended.err
    assert "Traceback" not in ended.err
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("compress: "), last
    assert "space" in last or "make room" in last, last


def test_a_full_disk_ends_in_4_everywhere_and_can_be_resumed(
    server: Server, words: list[str], whole: Path, tmp_path: Path
) -> None:
    for at in FULL:
        assert_unfinished(server.run(words, tmp_path, at=at, do="ENOSPC"))
    assert_finishes(server, words, tmp_path, whole)


def test_a_write_that_does_not_fit_leaves_no_half_file(
    server: Server, words: list[str], whole: Path, tmp_path: Path
) -> None:
    for largest, made in ((3000, "recipe.toml"), (30_000, "model.onnx")):  # ends in a checkpoint; in report.html
        assert_unfinished(server.run(words, tmp_path, largest=largest))
        assert (tmp_path / "run" / made).exists()
        assert not any(path.stat().st_size == largest for path in tmp_path.rglob("*"))
    assert_finishes(server, words, tmp_path, whole)


def test_a_loss_that_is_not_a_number_says_where_and_goes_on_once_mended(
    server: Server, words: list[str], whole: Path, tmp_path: Path
) -> None:
    # one call checks the model on the data, two dense epochs take six, the method's first epoch three
    ended = server.run(words, tmp_path, env={"POISON": "11"})
    assert 4 == ended.code
    assert "the loss became nan in prune-0 admm element, epoch 2" in ended.err
    assert "failed" == report_of(tmp_path / "run")["status"]
    again = assert_finishes(server, words, tmp_path, whole)
    assert "dense: finished earlier, reused" in again.err
    assert "continuing after epoch 1" in again.err


def test_a_learning_rate_that_explodes_ends_in_4(server: Server, user: Project, tmp_path: Path) -> None:
    ended = server.run(user.words(*STEP, "--set", "train.lr=1e30", "--out", "run"), tmp_path)
    assert 4 == ended.code
    assert "in dense, epoch 1" in ended.err
    assert "Lower the learning rate" in ended.err


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_truncated_checkpoint_of_an_unfinished_stage_goes_back_one_epoch(
    server: Server, words: list[str], whole: Path, tmp_path: Path
) -> None:
    assert -9 == server.run(words, tmp_path, at="rename prune-0.previous.pt", nth=2, do="SIGKILL").code
    truncate(tmp_path / "run" / "checkpoints" / "prune-0.progress.pt")
    again = assert_finishes(server, words, tmp_path, whole)
    assert "checkpoint prune-0.progress.pt is damaged" in again.err
    assert "continuing after epoch 1" in again.err


@pytest.mark.parametrize("damaged", [["validate"], ["dense", "export"]])
def test_a_truncated_file_of_a_finished_stage_is_made_again(
    server: Server, words: list[str], whole: Path, tmp_path: Path, damaged: Sequence[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for stage in damaged:
        truncate(tmp_path / "run" / "checkpoints" / f"{stage}.pt")
    again = assert_finishes(server, words, tmp_path, whole)
    assert f"checkpoint {damaged[0]}.pt is damaged" in again.err
    resumed = {stage["name"].split()[0]: stage["resumed"] for stage in report_of(tmp_path / "run")["stages"]}
    assert all(not resumed[stage] for stage in damaged)
