"""Which file to ship: the figures of each file, and a choice that claims no more than was measured."""

import pytest

from compress.report import ship

FORMATS = {"model.int8.onnx": (41_000, 0.9893, 0.9981), "model.c": (90_000, 0.9898, 1.0)}


@pytest.fixture
def many(report):
    """The passed run, gate at 0.5 points, with an int8 file on the same target and a C file on two others."""
    for path, (stored, accuracy, agreement) in FORMATS.items():
        parity = {"max_abs": 1e-3, "top1_agreement": agreement, "passed": True}
        report["artifacts"].append(
            {"path": path, "format": path[6:], "size_bytes": stored, "accuracy": accuracy, "parity": parity}
        )
    report["measurements"] += [
        {"artifact": "model.sparse.onnx", "target": "local", "status": "measured", "latency_ms": {"p50": 0.062}},
        {"artifact": "model.int8.onnx", "target": "local", "status": "measured", "latency_ms": {"p50": 0.04}},
        {"artifact": "dense.c", "target": "mcu", "status": "measured", "instructions": 2_436_890, "max_abs": 1e-8},
        {"artifact": "model.c", "target": "mcu", "status": "measured", "instructions": 1_218_445, "max_abs": 1e-9},
        {"artifact": "model.c", "target": "qemu-aarch64", "status": "measured", "max_abs": 3.7e-9},
    ]
    report["speedups"] += [
        {"target": "local", "artifact": "model.sparse.onnx", "value": 2.3, "low": 2.2, "high": 2.4},
        {"target": "local", "artifact": "model.int8.onnx", "value": 3.55, "low": 3.4, "high": 3.7},
        {"target": "mcu", "artifact": "model.c", "value": 2.0, "low": None, "high": None},
    ]
    return report


def set_speedup(report, file, **known):
    next(s for s in report["speedups"] if s["artifact"] == file).update(known)


def test_every_file_of_the_pruned_network_has_its_figures(many):
    found = {file.path: file for file in ship.files(many)}
    assert ["model.onnx", "model.sparse.onnx", "model.int8.onnx", "model.c"] == list(found)
    int8 = found["model.int8.onnx"]
    assert ("41.0 kB", "98.93 %", "0.28 points lower", "99.81 %") == (
        int8.size, int8.accuracy, int8.change, int8.agreement,
    )  # fmt: skip
    assert [("local", "0.0400 ms, the fastest", "3.55\u00d7 (3.40 to 3.70\u00d7)")] == [
        (run.target, run.takes, run.speedup) for run in int8.runs
    ]
    assert ("0.183 ms", "9.10 ms", "31.4 MB") == (
        found["model.onnx"].runs[0].first, found["model.onnx"].runs[0].load, found["model.onnx"].runs[0].peak_memory,
    )  # fmt: skip
    assert ["1,218,445 instructions", "largest difference 3.7e-09"] == [run.takes for run in found["model.c"].runs]


def test_the_choice_follows_the_figures(many):
    assert [
        "Smallest file that keeps the accuracy (at most 0.50 points worse than the dense network, as the gate allows): "
        "model.sparse.onnx, 23.9 kB, accuracy 98.98 %.",
        "The size of a .c file is of its text, not of the compiled network.",
        "Fastest on local: model.int8.onnx, 0.0400 ms, 3.55\u00d7 faster than dense.onnx (3.40 to 3.70\u00d7).",
        "Fewest instructions on mcu: model.c, 1,218,445; dense.c executes 2.00\u00d7 as many.",
    ] == ship.choice(many)


def test_a_file_that_loses_accuracy_or_parity_is_not_chosen(many):
    smaller = {"path": "model.bad.onnx", "size_bytes": 1, "accuracy": 0.9898}
    many["artifacts"] += [smaller | {"accuracy": 0.98}, smaller | {"parity": {"max_abs": 9.0, "passed": False}}]
    many["measurements"].append({"artifact": "model.bad.onnx", "target": "ssh://pi", "latency_ms": {"p50": 1e-3}})
    many["artifacts"][4]["accuracy"] = 0.98  # of model.c, at the end of the table
    said = ship.choice(many)
    assert not any("model.bad.onnx" in sentence for sentence in said)
    assert not any("model.c" in sentence for sentence in said)
    assert "9.0e+00, parity FAILED" == ship.files(many)[-1].agreement


def test_a_drop_of_exactly_the_limit_is_kept(many):
    many["gates"][0]["limit"] = 0.23  # 99.21 - 98.98
    assert "model.sparse.onnx" in ship.choice(many)[0]
    many["gates"][0]["limit"] = 0.22
    assert ship.choice(many)[0].startswith("No file keeps the accuracy (at most 0.22 points worse")


def test_without_a_gate_the_interval_of_the_dense_network_decides(many):
    many["gates"] = []
    many["dense"]["accuracy_low"] = 0.9897  # 0.24 points below, and int8 loses 0.28
    assert "at most 0.24 points worse than the dense network, as its 95 % interval allows" in ship.choice(many)[0]
    assert any(sentence.startswith("Fastest on local: model.onnx") for sentence in ship.choice(many))
    many["dense"]["accuracy_low"] = None
    assert "No file keeps the accuracy (no worse than the dense network)" in ship.choice(many)[0]


def test_without_accuracies_the_smallest_file_is_named_and_that_is_said(many):
    for artifact in many["artifacts"]:
        artifact["accuracy"] = None
    assert "Smallest file: model.sparse.onnx, 23.9 kB. Accuracy was not measured." == ship.choice(many)[0]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"low": 0.99, "high": 4.0}, "No speed-up on local: the spread of the fastest file"),
        ({"low": 1.0, "high": 4.0}, "No speed-up on local: the spread of the fastest file"),
        (
            {"low": 1.01, "high": 1.04},
            "No speed-up on local: the spread of the fastest file, model.int8.onnx, 0.0400 ms, comes",
        ),
        (
            {"low": 0.97, "high": 0.99},
            "No speed-up on local: the spread of the fastest file, model.int8.onnx, 0.0400 ms, comes",
        ),
        ({"value": 0.8, "low": 0.7, "high": 0.9}, "No speed-up on local: the fastest file, "),
        ({"low": None}, "Lowest median on local: model.int8.onnx, 0.0400 ms. No speed-up is claimed"),
        ({"artifact": "another"}, "Lowest median on local: model.int8.onnx, 0.0400 ms. No speed-up is claimed"),
    ],
)
def test_no_speed_up_is_claimed_that_the_spread_does_not_bear(many, known, said):
    many["artifacts"] = [a for a in many["artifacts"] if a["path"] == "model.int8.onnx"]
    set_speedup(many, "model.int8.onnx", **known)
    (sentence,) = (s for s in ship.choice(many) if "local" in s)
    assert sentence.startswith(said)
    assert "\u00d7 faster" not in sentence


def test_no_file_is_called_the_fastest_alone_where_spreads_overlap(many):
    set_speedup(many, "model.int8.onnx", low=2.3)
    (sentence,) = (s for s in ship.choice(many) if "local" in s)
    assert sentence.startswith("Fastest on local: model.onnx, 0.0610 ms, 2.33\u00d7 faster than dense.onnx")
    assert sentence.endswith(" Equally fast within what was measured: model.sparse.onnx and model.int8.onnx.")
    assert ["0.0610 ms, one of the fastest", "0.0620 ms, one of the fastest", "0.0400 ms, one of the fastest"] == [
        file.runs[0].takes for file in ship.files(many)[:3]
    ]


def test_two_sessions_of_one_graph_are_equally_fast_though_their_spreads_are_apart(many):
    """model.sparse.onnx is model.onnx once it is loaded; where its memory lies is worth some percent."""
    many["artifacts"] = [a for a in many["artifacts"] if a["path"] != "model.int8.onnx"]
    set_speedup(many, "model.onnx", value=2.30, low=2.29, high=2.31)
    set_speedup(many, "model.sparse.onnx", value=2.37, low=2.35, high=2.39)
    next(m for m in many["measurements"] if m["artifact"] == "model.sparse.onnx")["latency_ms"]["p50"] = 0.0599
    (sentence,) = (s for s in ship.choice(many) if "local" in s)
    assert sentence.startswith("Fastest on local: model.onnx, ")
    assert sentence.endswith(" Equally fast within what was measured: model.sparse.onnx.")
    # and what is further apart is not called equal
    set_speedup(many, "model.sparse.onnx", value=2.6, low=2.55, high=2.7)
    (sentence,) = (s for s in ship.choice(many) if "local" in s)
    assert sentence.startswith("Fastest on local: model.sparse.onnx, ")
    assert "Equally fast" not in sentence
    assert ["0.0610 ms", "0.0599 ms, the fastest"] == [file.runs[0].takes for file in ship.files(many)[:2]]


def test_a_noisy_file_does_not_make_all_others_equal(many):
    set_speedup(many, "model.onnx", value=2.0, low=1.9, high=2.1)
    set_speedup(many, "model.int8.onnx", low=1.0, high=4.0)  # the lowest median, of a run that was disturbed
    (sentence,) = (s for s in ship.choice(many) if "local" in s)
    assert sentence.startswith("Fastest on local: model.onnx, ")  # 2.1 reaches to within 5 % of 2.2
    set_speedup(many, "model.onnx", high=2.05)
    (sentence,) = (s for s in ship.choice(many) if "local" in s)
    assert sentence.startswith("Fastest on local: model.sparse.onnx, ")
    assert sentence.endswith(" Equally fast within what was measured: model.int8.onnx.")


def test_one_timed_file_is_not_called_the_fastest_in_the_table(report):
    assert ["0.0610 ms"] == [run.takes for run in ship.files(report)[0].runs]


def test_a_file_that_no_target_ran_and_a_run_that_failed(many):
    many["measurements"] = [{"artifact": "model.c", "target": "mcu", "status": "failed"}]
    files = {file.path: file.runs for file in ship.files(many)}
    assert "not measured" == files["model.onnx"][0].target
    assert [("mcu", "failed")] == [(run.target, run.takes) for run in files["model.c"]]


def test_notes_stay_with_their_files(many):
    many["artifacts"][3]["notes"] = ["layer fc1 stays\x1b in float32"]
    assert [("model.int8.onnx", "layer fc1 stays  in float32")] == ship.notes(many)


def test_a_report_without_files_says_nothing(interrupted):
    assert ([], [], []) == (ship.files(interrupted), ship.choice(interrupted), ship.notes(interrupted))
