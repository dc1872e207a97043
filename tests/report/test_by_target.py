from compress.report import by_target


def conditions(report):
    return {section.target: section.conditions for section in by_target.sections(report)}


def column(table, name):
    return [row[table.columns.index(name)] for row in table.rows]


def test_a_measurement_that_failed_gives_its_reason(report):
    report["measurements"] = [{"artifact": "model.onnx", "status": "failed", "reason": "killed"}]
    (section,) = by_target.sections(report)
    assert (("model.onnx", "failed: killed"),) == section.table.rows


def test_every_target_says_once_what_it_is(report):
    report["measurements"] += [{"target": "ssh://edge", "device": {"cpu": "A\x1b72", "cores": "4"}}, {"target": "bare"}]
    found = conditions(report)
    assert ["local", "ssh://edge", "bare"] == list(found)
    assert ("cpu", "Cortex-A76") in found["local"]
    assert ("temperature_after_c", "61.2") in found["local"]
    assert {("cpu", "A 72"), ("cores", "4")} <= set(found["ssh://edge"])


def test_dense_and_pruned_stand_together_with_the_spread(report):
    (section,) = by_target.sections(report)
    assert ["dense.onnx", "model.onnx"] == column(section.table, "File")
    assert ["0.142 ms", "0.0610 ms"] == column(section.table, "p50")
    assert ["0.4 %", "0.4 %"] == column(section.table, "Spread")
    assert ["\u2013", "2.33\u00d7 (2.21 to 2.45\u00d7)"] == column(section.table, "Against dense")
    assert "Instructions" not in section.table.columns  # nothing was counted there


def test_what_differs_between_the_files_is_a_column(report):
    report["measurements"] = [
        {"artifact": a, "target": "mcu", "instructions": n, "device": {"core": "m4", "flash_bytes": str(100 * n)}}
        for a, n in (("dense.c", 12_461_107), ("model.c", 1_218_445))
    ]
    (section,) = by_target.sections(report)
    assert ("core", "m4") in section.conditions
    assert ["1.25 GB", "122 MB"] == column(section.table, "Flash")
    assert ["12,461,107", "1,218,445"] == column(section.table, "Instructions")
    assert "p50" not in section.table.columns


def test_tables_are_rectangular_and_none_is_there_without_data(report):
    report["measurements"] += [{}, {"device": {"x_bytes": "many"}}]
    for section in by_target.sections(report):
        assert {len(section.table.columns)} == {len(row) for row in section.table.rows}
    assert [] == by_target.sections({"schema": 1})
