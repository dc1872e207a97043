"""The app bundle's web page in a real Chromium, beside ONNX Runtime: `python benchmarks/app_page.py RUN_DIRECTORY`.

The page is opened from the disk, its own function classifies test images, and Chromium's network log is read
afterwards. Writes benchmarks/results/app-page.json.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import chromium
from compress.data import Augment, Reading, load
from compress.onnx_file import predict, session

RESULTS = Path(__file__).parent / "results" / "app-page.json"


def compared(page: chromium.Page, run: Path, count: int) -> dict[str, Any]:
    data = load(
        "mnist", root=None, held_out=0.1, seed=0, device=torch.device("cpu"), augment=Augment(), reading=Reading()
    )
    stored = data.test.raw(0, count)
    assert stored is not None
    x, truth = next(iter(data.test.batches(count)))
    expected = torch.softmax(torch.tensor(predict(session(run / "model.onnx"), x.numpy())), 1).numpy()
    answers = []
    for image in stored[0]:
        height, width, channels = image.shape
        pixels = f"Uint8Array.from({image.ravel().tolist()})"
        answers.append(page.evaluate(f"app.classify({pixels}, {height}, {width}, {channels})"))
    labels = np.array([answer["label"] for answer in answers])
    return {
        "images": count,
        "same_label": int((labels == expected.argmax(1)).sum()),
        "correct": int((labels == truth.numpy()).sum()),
        "max_probability_error": float(np.abs(np.array([a["probabilities"] for a in answers]) - expected).max()),
        "median_ms": float(np.median([answer["milliseconds"] for answer in answers])),
        "requests": sorted({url.partition(":")[0] for url in page.requests()}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory of a run on mnist")
    parser.add_argument("--images", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        with chromium.launch([f"--log-net-log={log}"]) as browser:
            page = browser.page((given.run / "app/web/index.html").resolve().as_uri())
            page.evaluate("app.ready")
            found = compared(page, given.run, given.images)
            found["browser"] = browser.call("Browser.getVersion")["product"]
        hosts, called = chromium.reached(log)
    found |= {"hosts_asked": sorted(hosts), "addresses_called": sorted(called)}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
