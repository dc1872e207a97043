import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from compress.report.console import summary


def printed(report, *, encoding="utf-8", directory=None, **options):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    summary(report, Console(file=stream, **options), directory)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def flat(text):
    return " ".join(text.split())


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_pipe_gets_plain_short_lines(report, width):
    lines = printed(report, width=width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    assert not any("\x1b" in line or set(line) & set("─│┌┐└┘━┃╭╮╰╯") for line in lines)
    assert lines[0].startswith("Passed - lenet5 on mnist, pruned by admm")


def test_summary_tells_figures_zeros_gates_and_files(report):
    said = flat(printed(report, width=100, directory=Path("runs/x")))
    for expected in (
        "98.98 %",
        "60.0\u00d7",
        "runs zeros at full price",
        "model.onnx 152 kB 98.98 % local 0.0610 ms, speed-up 2.33\u00d7 (2.21 to 2.45\u00d7)",
        "Smallest file that keeps the accuracy",
        "met",
        "runs/x/model.onnx 152 kB",
        "runs/x/report.html",
    ):
        assert expected in said, expected


def test_a_failed_gate_is_named_first(report):
    report["gates"][0] |= {"value": 1.2, "passed": False}
    said = printed(report, width=100)
    assert said.startswith("Gate failed: max_accuracy_drop_points - ")
    assert "FAILED" in said


def test_no_speedup_is_claimed_where_the_spread_covers_one(scattered):
    said = flat(printed(scattered, width=100))
    assert "No speed-up is claimed" in said
    assert "\u00d7 faster" not in said


def test_an_unfinished_run_says_so(interrupted):
    assert "interrupted after stage dense" in flat(printed(interrupted))
    assert "Status unknown" in printed({})


def test_a_name_is_neither_markup_nor_an_escape_sequence(report):
    report["data"]["name"] = "[bold]\x1b[31mx[/bold]"
    said = printed(report, width=100)
    assert "[bold]" in said
    assert "\x1b" not in said


def test_a_terminal_without_unicode_gets_ascii(report):
    report["data"]["name"] = "Zürich"
    said = printed(report, encoding="ascii", width=100)
    assert "60.0x" in said
    assert "Z?rich" in said


def test_a_terminal_gets_colour(report):
    assert "\x1b[1;32mPassed" in printed(
        report, force_terminal=True, color_system="standard", width=100, no_color=False
    )


def test_words_and_console_load_no_plotting_and_no_framework():
    code = (
        "import sys, compress.report.console, compress.report.store, compress.report.html;"
        "print([m for m in ('torch', 'onnxruntime', 'matplotlib', 'pydantic', 'jinja2') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == found.stdout.strip()
