"""The page: complete, safe against every string of the report, alone on the network, the same bytes again."""

import re
from html.parser import HTMLParser

import pytest

from compress.report import html, plots

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Collects text and ids and checks that every element is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.ids, self.tags, self.loads = [], "", [], set(), []
        self.feed(page)
        assert [] == self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.loads += [value for key, value in attrs if key in ("href", "xlink:href", "src", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.text += data.replace("\u00a0", " ")


def test_page_says_what_the_run_found(page):
    said = Page(page).text
    for expected in (
        "lenet5 on mnist, pruned by admm",
        "98.98 %",
        "stock ONNX Runtime runs zeros at full price",
        "2.33\u00d7 faster",
        "Which file should I ship?",
        "Smallest file that keeps the accuracy",
        "Measured on local",
        "2.4e-15",
        "9f86d081" * 8,
        "Cortex-A76",
        "batch 1",
        "max_accuracy_drop_points",
        'method = "admm"',
        "Batch normalisation statistics",
    ):
        assert expected in said, expected


def test_every_plot_is_there_with_its_description(report, page):
    assert ["stages", "history", "weights", "widths", "latency", "sizes"] == [s.name for s in plots.sketches(report)]
    assert 6 == page.count("<svg")
    assert 6 == page.count('role="img" aria-label=')
    assert "conv1 30.0 % nonzero, 10.0 % stored zeros, 60.0 % removed" in page  # 150, 50 and 300 of 500


def test_page_loads_nothing_and_runs_nothing(page):
    read = Page(page)
    assert all(target.startswith(("#", "data:")) for target in read.loads)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "script" not in read.tags
    assert "default-src 'none'" in page


def test_ids_are_unique_and_every_reference_is_met(page):
    ids = Page(page).ids
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page)
    assert used
    assert set(used) <= set(ids)


def test_drawings_follow_the_theme(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--pruned)" in drawn
    assert [] == re.findall(r"#[0-9a-f]{6}\b", drawn)  # a fixed colour would vanish on one of the themes


def test_same_report_same_bytes(report, tmp_path):
    for name in ("a", "b"):
        html.write_html(report, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    report["pruned"]["size_bytes"] += 10_000
    html.write_html(report, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=1> $x_{ {{ 7*7 }} \x00\x1b[31m\ud800 漢"


def poison(found):
    """Every string of a report replaced; mapping keys and enough words to be drawn kept."""
    match found:
        case dict():
            kept = {"artifact", "status"}
            return {key: item if key in kept else poison(item) for key, item in found.items()}
        case list():
            return [poison(item) for item in found]
        case str():
            return HOSTILE
        case _:
            return found


def test_hostile_strings_come_out_as_text(report):
    report["environment"][HOSTILE] = "x"
    report["gates"][0]["passed"] = False
    read = Page(html.render(poison(report)))
    assert not {"script", "img"} & read.tags
    assert "<script>alert(1)</script>" in read.text
    assert "49" not in read.text.replace("0.49", "")
    assert "\x1b" not in read.text


def test_a_class_called_script_is_escaped(report):
    report["data"]["classes"] = ["<script>"]
    page = html.render(report)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_failed_gate_is_named_in_the_verdict(report):
    report["status"] = "gate_failed"
    report["gates"][0] |= {"value": 1.2, "passed": False}
    said = Page(html.render(report)).text
    assert "Gate failed: max_accuracy_drop_points." in said


def test_no_speedup_is_claimed_where_the_spread_covers_one(scattered):
    said = Page(html.render(scattered)).text
    assert "No speed-up is claimed: 1.02" in said
    assert not re.search("[0-9.]+\u00d7 faster", said)


def test_an_unfinished_run_is_rendered_and_says_so(interrupted):
    said = Page(html.render(interrupted)).text
    assert "Interrupted." in said
    assert "after stage dense" in said
    assert "What each zero bought" not in said


def test_any_missing_or_null_key_is_survived(report, monkeypatch):
    monkeypatch.setattr(html.svg, "inline", lambda sketch: sketch.name)  # painting is the slow part, and tested above
    for key in report:
        for broken in ({k: v for k, v in report.items() if k != key}, report | {key: None}):
            Page(html.render(broken))


@pytest.mark.parametrize("kind", ["text", 3, [None, "text"], {"x": [1]}, [[1], {"name": {}}]])
def test_values_of_the_wrong_kind_are_survived(report, kind):
    Page(html.render(dict.fromkeys(report, kind)))
    Page(
        html.render(report | {"dense": {key: kind for key in report["dense"]}, "layers": [dict.fromkeys(LAYER, kind)]})
    )


LAYER = ("name", "weights_dense", "weights", "nonzero", "macs")


@pytest.mark.parametrize("lost", ["accuracy", "samples_ms", "nonzero", "out_after", "loss", "size_bytes"])
def test_plots_survive_a_null_in_the_middle(report, lost):
    for rows in (
        report["stages"],
        report["measurements"],
        report["layers"],
        report["compaction"]["layers"],
        report["history"],
    ):
        if lost in rows[1]:
            rows[1][lost] = None
    report["pruned"].pop(lost, None)
    assert html.render(report).count("<svg") >= 5


def test_empty_report_is_rendered():
    assert "Status unknown" in Page(html.render({"schema": 1})).text


def test_many_layers_are_drawn_without_names(report):
    report["layers"] = report["layers"] * 10
    assert 'aria-label="What became of the weights' in html.render(report)
