"""Widths chosen by measurement: of all ResNet-20s with about half of the multiply-accumulates, the fastest.

    OMP_NUM_THREADS=1 python benchmarks/widths.py --weights resnet20.safetensors

Every stage's inner width and the first stage's outer width go through multiples of eight; all networks within the
window of multiply-accumulates are cut from the given one, exported, and measured in one interleaved run beside the
whole network and beside uniform halving of the inner widths. Leaves results/widths.json; nothing is trained here.
"""

import argparse
import itertools
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from reproduce import HERE

from compress import cost
from compress.channel_units import gather
from compress.compaction import channel_groups, remove
from compress.machine import cpu_name
from compress.targets import Timing, local
from compress_exporters import Request, find
from compress_models import load, load_weights

SHAPE = (3, 32, 32)
WINDOW = (0.47, 0.506)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="pretrained, safetensors")
    parser.add_argument("--seconds", type=float, default=40.0, help="of timing, for all files together")
    asked = parser.parse_args()
    model = load("resnet20").eval()
    load_weights(model, asked.weights)
    example = torch.zeros(2, *SHAPE)
    values, positions = dict(model.named_parameters()), cost.positions(model, SHAPE)
    members = gather([g for g in channel_groups(model, example) if g.removable_exactly], values, positions)
    whole, rows = cost.macs(model, SHAPE), []
    with tempfile.TemporaryDirectory() as folder:
        files = [find("onnx").export(Request(model, SHAPE), Path(folder, "dense.onnx")).path]
        for widths in itertools.product((8, 16), (8, 16), range(8, 33, 8), range(8, 65, 8)):
            keep = {block: _width(block, widths) for block in members}
            gone = [group for block, width in keep.items() for group in members[block][width:]]
            narrow = remove(model, example, gone).model if gone else model
            share = cost.macs(narrow, SHAPE) / whole
            if WINDOW[0] <= share <= WINDOW[1]:
                file = Path(folder, "-".join(map(str, widths)) + ".onnx")
                files.append(find("onnx").export(Request(narrow, SHAPE), file).path)
                rows.append({"stream": widths[0], "inner": widths[1:], "macs": share, "keep": keep})
        found, _ = local.measure(files, Timing(budget_seconds=asked.seconds), "local")
    times = [m.latency_ms.p50 for m in found if m.latency_ms]
    for row, measured, ms in zip(rows, found[1:], times[1:], strict=True):
        row |= {"speedup": times[0] / ms, "latency": asdict(measured)["latency_ms"]}
        print(f"stream {row['stream']:2d} inner {row['inner']}: {row['macs']:.3f} of the MACs, {row['speedup']:.2f}x")
    best = max(rows, key=lambda row: row["speedup"])
    uniform = next(row for row in rows if (row["stream"], row["inner"]) == (16, (8, 16, 32)))
    result = {"cpu": cpu_name(), "threads": 1, "dense_ms": times[0], "best": best, "uniform": uniform, "all": rows}
    (HERE / "results" / "widths.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"fastest: {best['inner']} at {best['macs']:.3f}, {best['speedup']:.2f}x")
    print(f"uniform halving: {uniform['speedup']:.2f}x")


def _width(block: str, widths: tuple[int, ...]) -> int:
    return widths[0] if block == "conv1" else widths[int(block[len("layer")])]


if __name__ == "__main__":
    main()
