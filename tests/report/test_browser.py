"""The page in a real browser."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compress.report.html import write_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH (Debian package chromium)")
def test_the_page_renders_and_a_hostile_class_name_runs_nothing(report: dict[str, Any], tmp_path: Path) -> None:
    report["notes"] = ["<script>document.title = 'taken over'</script>"]
    write_html(report, tmp_path / "report.html")
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    flags = ("headless", "no-sandbox", "disable-gpu", *quiet, f"user-data-dir={tmp_path / 'profile'}", "dump-dom")
    command = [str(CHROMIUM), *(f"--{flag}" for flag in flags), (tmp_path / "report.html").as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>taken over</title>" not in page
    assert "What each zero bought" in page
    assert page.count("<svg") >= 5
