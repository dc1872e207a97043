"""Each sentence against the fixture's hand-made sums."""

import pytest

from compress.report import words, zeros


def sentence(report, resource):
    return next(one.sentence for one in zeros.bought(report) if one.resource == resource)


def test_title_names_model_data_and_methods_once(report):
    assert "lenet5 on mnist, pruned by admm" == words.title(report)
    assert "Compression run" == words.title({})


def test_weights_are_split_into_removed_and_stored_zeros(report):
    # 430,500 - 37,200 = 393,300 removed (91.36 %); 37,200 - 7,175 = 30,025 zeros stay
    assert (
        "Of 430,500 prunable weights 423,325 were zeroed. Compaction removed 393,300 (91.4 %) for good; "
        "30,025 stay as zeros inside the dense kernels."
    ) == sentence(report, "Weights")


def test_bytes_are_split_into_compaction_and_coding(report):
    # 1 - 152,400 / 1,727,000 = 0.9118
    assert (
        "Compaction takes the file from 1.73 MB to 152 kB (91.2 % less). The 30,025 zeros that remain take "
        "full space in it; model.sparse.onnx, the same weights coded sparsely, takes 23.9 kB. ONNX Runtime unpacks it "
        "while loading, so it is smaller but not faster. Zipped, model.onnx takes 40.1 kB."
    ) == sentence(report, "Bytes")


def test_macs_say_that_zeros_run_at_full_price(report):
    # 1 - 404,200 / 2,293,000 = 0.8237; 404,200 - 189,500 = 214,700
    assert (
        "Compaction removes 82.4 % of the multiply-accumulates. 215 K of the 404 K left multiply a zero: "
        "stock ONNX Runtime runs zeros at full price."
    ) == sentence(report, "Multiply-accumulates")


def test_milliseconds_come_from_compaction(report):
    assert (
        "2.33\u00d7 faster (spread over repeats 2.21 to 2.45\u00d7). It comes from compaction, the "
        "narrower dense network. The zeros that remain buy no time in stock ONNX Runtime."
    ) == sentence(report, "Milliseconds")


def test_scattered_zeros_bought_neither_bytes_nor_time_and_it_says_so(scattered):
    assert "Compaction removed none: no channel became empty; 423,325 stay" in sentence(scattered, "Weights")
    assert "Compaction had nothing to remove" in sentence(scattered, "Bytes")
    assert "removed no multiply-accumulate" in sentence(scattered, "Multiply-accumulates")
    said = sentence(scattered, "Milliseconds")
    assert said.startswith("No speed-up is claimed: 1.02")
    assert "faster" not in said
    assert 'units = "channel"' in said


@pytest.mark.parametrize("flag", [True, None])
def test_a_spread_over_one_is_no_speedup_whatever_the_flag_says(scattered, flag):
    scattered["speedup_claimed"] = flag
    assert not words.speedup_claimed(scattered)
    assert "covers 1.0" in words.speed(scattered)


@pytest.mark.parametrize(("low", "high"), [(1.01, 1.2), (1.002, 1.018), (0.96, 0.99)])
def test_what_two_sessions_of_one_file_differ_by_is_no_speedup(report, low, high):
    report |= {"speedup": 1.02, "speedup_low": low, "speedup_high": high}
    assert not words.speedup_claimed(report)
    said = words.speed(report)
    assert said.startswith("No speed-up is claimed: 1.02")
    assert "comes within 5 % of 1.0" in said


def test_a_slower_model_is_called_slower(report):
    report |= {"speedup": 0.8, "speedup_low": 0.76, "speedup_high": 0.85}
    assert words.speed(report).startswith("Slower: 0.800")


def test_a_speedup_without_spread_or_against_the_flag_is_not_claimed(report):
    assert words.speedup_claimed(report)
    for change in ({"speedup_low": None}, {"speedup_claimed": False}):
        assert words.speed(report | change).startswith("No speed-up is claimed")
    assert "not compared" in words.speed(report | {"speedup": None})


def test_nothing_zeroed_and_no_zero_left_are_said(report):
    dense = report | {"pruned": {"weights": 430_500, "nonzero": 430_500}}
    assert "No weight was zeroed." == sentence(dense, "Weights")
    report["pruned"]["nonzero"] = 37_200
    assert sentence(report, "Weights").endswith("no zero remains.")
    assert "No zero remains for sparse coding to save" in sentence(report, "Bytes")


def test_sparse_coding_that_saves_nothing_is_not_praised(report):
    report["pruned"]["size_sparse_bytes"] = 160_000
    assert "saves nothing here (160 kB)" in sentence(report, "Bytes")
    assert "smaller but not faster" not in sentence(report, "Bytes")


def test_a_resource_that_is_unknown_is_left_out(report, interrupted):
    report["pruned"]["latency_ms"] = None
    assert ["Weights", "Bytes", "Multiply-accumulates"] == [one.resource for one in zeros.bought(report)]
    assert [] == zeros.bought(interrupted)
    assert [] == words.headline(interrupted)


def test_counts_fall_back_to_the_sum_of_the_layers(report):
    report["dense"], report["pruned"] = None, None
    assert (430_500, 37_200, 7_175) == zeros.counts(report)
    del report["layers"][0]["nonzero"]
    assert (430_500, 37_200, None) == zeros.counts(report)


def test_passed_with_its_gates(report):
    assert "2 of 2 gates met, and ONNX Runtime agrees with PyTorch." == words.verdict(report)
    assert "No gate was set." == words.verdict({"status": "passed"})
    report["gates"][0]["passed"] = None
    assert "Not checked: max_accuracy_drop_points." in words.verdict(report)


def test_a_failed_gate_is_named_even_under_the_status_passed(report):
    report["gates"][0] |= {"value": 1.2, "passed": False}
    assert "gate_failed" == words.outcome(report)
    assert ["max_accuracy_drop_points"] == words.failed_gates(report)
    assert "max_accuracy_drop_points is 1.20 points, limit at most 0.50 points" in words.verdict(report)


def test_a_broken_parity_is_a_failed_gate(report):
    report["parity"] = report["parity"] | {"passed": False, "max_abs": 0.02}
    assert ["parity"] == words.failed_gates(report)
    assert "outputs differ by at most 2.0e-02 (tolerance 1.0e-04)" in words.verdict(report)


def test_the_file_that_fails_is_named(report):
    report["gates"][0] |= {"value": 1.2, "passed": False, "file": "model.int8.c"}
    report["artifacts"].append({"path": "model.pte", "parity": {"passed": False}})
    assert ["max_accuracy_drop_points of model.int8.c", "parity of model.pte"] == words.failed_gates(report)
    assert "max_accuracy_drop_points of model.int8.c is 1.20 points, limit at most 0.50" in words.verdict(report)
    assert "parity of model.pte is broken" in words.verdict(report)


def test_a_gate_failed_without_a_name_is_said_to_have_none():
    assert "the report does not name it" in words.verdict({"status": "gate_failed", "gates": []})


def test_an_interrupted_run_says_where_and_how_to_go_on(interrupted):
    assert (
        "The run was interrupted after stage dense (exit code 130). The same command continues from there. "
        "Shown is what was known by then."
    ) == words.verdict(interrupted)


def test_an_internal_error_does_not_promise_to_continue():
    failed = {"status": "failed", "exit_code": 1}
    assert "before its first stage was finished (exit code 1). Shown" in words.verdict(failed)
    assert "The same command continues" in words.verdict(failed | {"exit_code": 4})


@pytest.mark.parametrize(
    ("name", "x", "said"),
    [
        ("max_latency_ms", 12.34, "12.3 ms"),
        ("max_size_kb", 152.4, "152 kB"),
        ("min_speedup", 1.5, "1.50\u00d7"),
        ("min_accuracy", 0.98, "98.00 %"),
        ("other", 0.25, "0.2500"),
        ("max_latency_ms", None, "unknown"),
    ],
)
def test_a_gate_is_written_in_the_unit_of_its_name(name, x, said):
    assert said == words.gate_value(name, x)


def test_accuracy_is_compared_in_points(report):
    assert "0.23 points lower" == words.accuracy_change(report, report["pruned"]["accuracy"])
    report["pruned"]["accuracy"] = 0.9926
    assert "0.05 points higher" == words.accuracy_change(report, report["pruned"]["accuracy"])
    report["pruned"]["accuracy"] = 0.9921
    assert "unchanged" == words.accuracy_change(report, report["pruned"]["accuracy"])


def test_a_metric_that_is_better_when_lower_is_no_percentage(report):
    report["metric"] = {"name": "rmse", "higher_is_better": False}
    report["dense"]["accuracy"], report["pruned"]["accuracy"] = 2.5, 2.75
    assert "2.750" == words.score(report, 2.75)
    assert "0.250 higher" == words.accuracy_change(report, report["pruned"]["accuracy"])


def test_headline_has_the_four_figures(report):
    assert [
        ("Accuracy (top1)", "99.21 %", "98.98 %"),
        ("Compression", "430,500 weights", "60.0\u00d7"),
        ("ONNX file", "1.73 MB", "152 kB"),
        ("Median latency", "0.142 ms", "0.0610 ms"),
    ] == [(figure.label, figure.dense, figure.pruned) for figure in words.headline(report)]
    assert "0.23 points lower, 95 % interval 98.76 to 99.16 %" == words.headline(report)[0].remark


def test_missing_targets_and_frozen_operators_are_told(report):
    report["measurements"].append(
        {"artifact": "model.onnx", "target": "ssh:pi", "status": "missing", "reason": "no route to host"}
    )
    report["compaction"]["frozen_operators"] = ["aten.roll"]
    said = words.caveats(report)
    assert "No latency from ssh:pi for model.onnx: no route to host." in said
    assert any("aten.roll" in line for line in said)
    assert "Batch normalisation statistics were measured again after compaction." in said
