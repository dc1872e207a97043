import json
import math
from pathlib import Path

import numpy as np
import pytest

from compress.errors import CompressError, RunError, UsageError
from compress.report.store import read_json, write_json


def test_what_is_written_is_read_back_in_the_same_order(report, tmp_path):
    path = tmp_path / "report.json"
    write_json(report, path)
    assert report == read_json(path)
    assert list(report) == list(read_json(path))
    assert [path] == list(tmp_path.iterdir())  # the temporary name is gone


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nan_is_refused_by_name_and_the_old_file_stays(report, tmp_path, bad):
    path = tmp_path / "report.json"
    write_json(report, path)
    before = path.read_bytes()
    report["measurements"][1]["latency_ms"]["p90"] = bad
    with pytest.raises(
        CompressError, match=r"internal error: measurements\[1\]\.latency_ms\.p90 is -?(nan|inf); .*null"
    ):
        write_json(report, path)
    assert before == path.read_bytes()


@pytest.mark.parametrize("bad", [np.float32(1), np.zeros(2), Path("x"), {1: 2}])
def test_what_json_cannot_hold_is_refused_by_name(tmp_path, bad):
    with pytest.raises(CompressError, match="internal error: dense is ") as error:
        write_json({"schema": 1, "dense": bad}, tmp_path / "report.json")
    assert 1 == error.value.exit_code
    assert [] == list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_clear_line(report, tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*missing/report\.json"):
        write_json(report, tmp_path / "missing" / "report.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ('{"schema": 1, "speedup": NaN}', "is not JSON .NaN"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "schema 1, .* has none"),
        ("{}", "schema 1, .* has none"),
        ('{"schema": 2}', "schema 1, .* has 2"),
        ('{"schema": true}', "schema 1, .* has True"),
        ('{"schema": [1]}', r"schema 1, .* has \[1\]"),
    ],
)
def test_another_file_is_no_report(tmp_path, content, said):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=said):
        read_json(path)


def test_binary_a_folder_and_nothing_are_no_report(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, said in (("binary", "is not JSON"), ("", "cannot read"), ("absent", "no report at")):
        with pytest.raises(UsageError, match=said):
            read_json(tmp_path / name)


def test_a_report_is_plain_ascii_json(tmp_path):
    path = tmp_path / "report.json"
    write_json({"schema": 1, "notes": ["Zürich", "\ud800"]}, path)  # a lone surrogate, as in a broken file name
    assert {"schema": 1, "notes": ["Zürich", "\ud800"]} == json.loads(path.read_bytes().decode("ascii"))
