"""How the time of `compact` grows with depth and width of residual networks.

    python benchmarks/compaction_scaling.py

Half of every block's hidden filters are zero. CPU seconds of one thread; the networks are measured in turn, several
times over, so that a busy minute of the machine does not fall on one of them alone, and medians are printed. Growth is
linear where the last columns stay level: analysis and apply per node of the exported graph over depth, per weight over
width.
"""

import argparse
import time
from statistics import median

import torch
from compaction_measure import Stopwatch, size
from torch import Tensor, nn

from compress.compaction import compact

DEPTHS = (10, 20, 40, 80, 160, 320)
WIDTHS = (64, 128, 256, 512, 1024)
DEPTH_WIDTH, WIDTH_DEPTH = 16, 4
PHASES = ("export", "analysis", "apply", "proof")


class Block(nn.Module):
    """x + conv(relu(norm(conv(x)))), half of the hidden filters zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.conv1.weight[::2] = 0
            self.norm.bias.uniform_(-0.5, 0.5)[::2] = 0

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


def network(depth: int, width: int) -> nn.Module:
    """Stem, blocks, head."""
    blocks = [Block(width) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, *head).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = [(depth, DEPTH_WIDTH) for depth in asked.depths] + [(WIDTH_DEPTH, width) for width in asked.widths]
    times = measure(sizes, asked.repeats)
    columns = ("blocks", "width", "nodes", "weights", *(f"{phase} s" for phase in PHASES))
    print(*(f"{name:>12}" for name in (*columns, "us/node", "ns/weight")))
    for (depth, width), seconds in times.items():
        model = network(depth, width)
        work = seconds["analysis"] + seconds["apply"]
        counts = (depth, width, nodes(model), size(model))
        cells = [*(f"{count}" for count in counts), *(f"{seconds[phase]:.3f}" for phase in PHASES)]
        cells += [f"{work / counts[2] * 1e6:.0f}", f"{work / counts[3] * 1e9:.1f}"]
        print(*(f"{cell:>12}" for cell in cells), flush=True)


def measure(sizes: list[tuple[int, int]], repeats: int) -> dict[tuple[int, int], dict[str, float]]:
    """(depth, width) -> phase -> median seconds."""
    watch = Stopwatch(time.process_time)
    watch.watch_compaction()
    compact(network(1, 8), image())  # what only the first export pays
    seen: dict[tuple[int, int], list[dict[str, float]]] = {key: [] for key in sizes}
    for _ in range(repeats):
        for key, runs in seen.items():
            watch.seconds.clear()
            compact(network(*key), image())
            runs.append(dict(watch.seconds))
    return {key: {phase: median(run.get(phase, 0.0) for run in runs) for phase in PHASES} for key, runs in seen.items()}


def nodes(model: nn.Module) -> int:
    """Size of the exported graph, inputs and parameters included."""
    return len(torch.export.export(model, (image(),), strict=False).graph.nodes)


def image() -> Tensor:
    return torch.randn(1, 3, 8, 8)


if __name__ == "__main__":
    main()
