import pytest

from compress.report import tables
from compress.report.formats import UNKNOWN


def test_layers_end_in_their_sums(report):
    table = tables.layers(report)
    assert ("conv1", "500", "200", "150", "70.00 %", "288 K", "115 K", "86.4 K") == table.rows[0]
    assert ("Total", "430,500", "37,200", "7,175", "98.33 %", "2.29 M", "404 K", "190 K") == table.rows[-1]
    report["layers"][0]["macs"] = None
    assert UNKNOWN == tables.layers(report).rows[-1][6]  # a sum with an unknown part is unknown


def test_a_failed_gate_is_marked(report):
    report["gates"][1]["passed"] = False
    assert [("max_accuracy_drop_points", "met"), ("max_size_bytes", "FAILED")] == [
        (row[0], row[-1]) for row in tables.gates(report).rows
    ]


def test_models_leave_out_what_neither_knows(report):
    names = [row[0] for row in tables.models(report).rows]
    assert "Accuracy, held-out" not in names
    assert ("File, sparsely coded", UNKNOWN, "23.9 kB") in tables.models(report).rows


def test_a_reused_stage_is_marked(report):
    assert "2 min 28 s, reused" == tables.stages(report).rows[0][1]


def test_class_names_are_listed_up_to_twenty(report):
    assert ("Classes", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9") in tables.origin(report).rows
    report["data"]["classes"] = [str(i) for i in range(100)]
    assert any("Classes, 20 of 100" == name for name, _ in tables.origin(report).rows)
    report["data"]["classes"] = 10
    assert ("Classes", "10") in tables.origin(report).rows


def test_environment_is_flattened(report):
    report["environment"] = {"gpu": {"name": "none", "count": 0}, "flags": ["a", "b"], "blas": None}
    found = tables.origin(report).rows
    assert ("gpu.count", "0") in found
    assert ("flags", "a, b") in found
    assert not any("blas" == name for name, _ in found)


@pytest.mark.parametrize(
    "make",
    [
        tables.models, tables.layers, tables.widths, tables.gates, tables.proof, tables.artifacts,
        tables.stages, tables.origin,
    ],
)  # fmt: skip
def test_every_table_is_rectangular_and_empty_without_data(report, make):
    table = make(report)
    assert table.rows
    assert {len(table.columns)} == {len(row) for row in table.rows}
    assert () == make({"schema": 1}).rows


def test_a_latency_budget_shows_what_was_predicted_and_achieved(report):
    assert () == tables.latency_budgets(report).rows
    found = {"step": 0, "target": "local", "asked": "0.5x", "ratio": 0.492, "macs": 10_322_480, "tried": [{}, {}]}
    report["latency_budgets"] = [{**found, "achieved_ratio": 0.503}, {**found, "achieved_ratio": None}]
    rows = tables.latency_budgets(report).rows
    assert ("prune-0", "local", "0.5x", "0.492", "0.503", "10.3 M", "2") == rows[0]
    assert UNKNOWN == rows[1][4]


def test_the_widths_of_a_latency_budget_show_what_each_saves(report):
    assert () == tables.latency_widths(report).rows
    table = {"conv1": {"widths": [8, 16], "saved": [0.125, 0.0]}, "conv2": {"widths": [8, 16], "saved": [0.5, 0.0]}}
    report["latency_budgets"] = [
        {"step": 0, "keep": {"conv1": 8, "conv2": 16}, "table": table},
        {"step": 1, "keep": {"conv1": 8}},
        {"step": 2, "keep": {"conv1": 8}, "table": None},
        {"step": 3, "keep": None, "table": table},
        {"step": 4, "keep": {"conv1": 4, "conv2": 8}, "table": {"conv1": table["conv1"], "conv2": {"widths": [8]}}},
    ]
    assert (
        ("prune-0", "conv1", "16 to 8", "12.50 %"),
        ("prune-0", "conv2", "16 to 16", "0.00 %"),
    ) == tables.latency_widths(report).rows
