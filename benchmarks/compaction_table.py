"""COMPACTION.md, made from results/compaction-*.json."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from compaction_models import KINDS, SIZE

Row = dict[str, Any]
Rows = dict[str, dict[str, Row]]  # variant -> network -> row

PEER = "torch-pruning"
VARIANTS = ("zero", "constants")
SECONDS = ("export", "analysis", "apply", "proof", "groups")
PLURAL = {"classifier": "classifiers", "segmentation": "segmentation networks", "backbone": "detection backbones"}

TEXT = f"""# Compaction of the torchvision networks

Made by `benchmarks/compaction.py` from `results/compaction-*.json`; one process per row, so that one row's memory or
crash is no other row's. **Nothing here is trained.** Weights are random with a fixed seed; normalisations get random
weights and shifts and the statistics of four random images, and what initialisation leaves at zero (heads, biases,
layer scales) gets random numbers, so that outputs depend on every part. Images are {SIZE} px unless the architecture
fixes another size (column px). The auxiliary heads of googlenet and inception_v3 are off.

- `channel_groups` lists the groups; a random half of those that are `removable_exactly` is *chosen* (seed 1), leaving
  at least one index of every axis. `compact` then has to find them again from the numbers alone.
- **zero**: every producer of a chosen group is zero. **constants**: filters, rows and normalisation weights of a chosen
  group are zero, its biases and normalisation shifts are standard normal: its channels are constants other than zero.
- *exact*: `compact` returned, so its own proof passed; *error* is max |narrow - original| / max |original| over the
  inputs of that proof. *removed*: chosen groups of which no row is left (an attention head is one group).
- *kept*: parameters after / before. *forward*: the narrowed model runs its own code, or a rewritten forward pass where
  sizes are written in that code; the model is then exported a second time. A proof in another number type than float64
  is named beside its error: `compact` takes float32 where two float64 copies do not fit into free memory.
- Seconds are wall-clock of single runs on a machine with other work (`load_before` in the files): compare ratios. In
  the order of the work: `torch.export`, analysis (constants, liveness, plan),
  apply (cutting the copy that is proved and the model), proof. *groups* is `channel_groups` with its own export.
  Memory is the process's peak, PyTorch's own (about 0.4 GB) included. Seconds and memory are the variant **zero**'s,
  if it has a result.
- **Torch-Pruning** does another job: it cuts half of every layer by magnitude and does not keep the function. It is
  *ok* here if it ends within its time limit without an error, cuts something, and the output has the right shape;
  output layers are left alone, `num_heads` is given for `nn.MultiheadAttention`. Its seconds: graph + pruning.
"""

TOTALS = (
    "networks", "zero: exact", "largest error", "removed", "constants: exact", "largest error", "removed",
    "Torch-Pruning: ok",
)  # fmt: skip
HEADER = (
    "network", "px", "groups", "chosen", "zero: removed", "kept", "error", "constants: removed", "kept", "error",
    "forward", "export s", "analysis s", "apply s", "proof s", "groups s", "peak GB", "Torch-Pruning: kept", "seconds",
)  # fmt: skip


def read(folder: Path) -> Rows:
    """All recorded rows."""
    files = {variant: folder / f"compaction-{variant}.json" for variant in (*VARIANTS, PEER)}
    return {variant: json.loads(file.read_text()) if file.exists() else {} for variant, file in files.items()}


def render(rows: Rows, kinds: dict[str, str]) -> str:
    """The whole file."""
    lines = [TEXT, *environments(rows), "", "## Totals", "", *heading(TOTALS)]
    lines += [f"| {' | '.join(total_cells(rows, kinds, kind))} |" for kind in KINDS]
    lines += ["", *medians(rows), "", "## Rows", "", *heading(HEADER)]
    lines += [f"| {name} | {' | '.join(cells(rows, name))} |" for name in kinds]
    failures = list(failed(rows, kinds))
    if failures:
        lines += ["", "## What failed", "", *failures]
    return "\n".join(lines) + "\n"


def heading(columns: Iterable[str]) -> list[str]:
    """The first two lines of a table."""
    columns = list(columns)
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]


def environments(rows: Rows) -> Iterable[str]:
    """Machines and versions; several if the rows were not all recorded on one."""
    found = Counter(json.dumps(row["environment"]) for part in rows.values() for row in part.values())
    for text, count in found.most_common():
        said = ", ".join(f"{key} {value}" for key, value in json.loads(text).items() if value is not None)
        yield f"- {count} rows: {said}"


def total_cells(rows: Rows, kinds: dict[str, str], kind: str) -> list[str]:
    """One kind of network in both variants and in the peer."""
    names = [name for name, value in kinds.items() if value == kind]
    parts = [[rows[variant][name] for name in names if name in rows[variant]] for variant in (*VARIANTS, PEER)]
    *ours, peer = parts
    return [PLURAL[kind], *(cell for part in ours for cell in exact_cells(part, len(names))), ok_of(peer, len(names))]


def ok_of(part: list[Row], count: int) -> str:
    """`3/80, 2 not run`."""
    missing = f", {count - len(part)} not run" if len(part) < count else ""
    return f"{sum(row['ok'] for row in part)}/{count}{missing}"


def exact_cells(part: list[Row], count: int) -> list[str]:
    """Exact, largest error, share of the chosen groups that went."""
    done = [row for row in part if row["ok"]]
    asked, removed = (sum(row[key] for row in done) for key in ("asked", "removed"))
    if not asked:
        return [ok_of(part, count), "", ""]
    worst = min(row["removed"] / row["asked"] for row in done if row["asked"])
    share = f"{removed / asked:.2%} of {asked} (lowest of a network: {worst:.1%})"
    return [ok_of(part, count), f"{max(row['error'] for row in done):.0e}", share]


def medians(rows: Rows) -> Iterable[str]:
    """Times, and the check that does not come from `compact` itself."""
    done = [row for row in rows["zero"].values() if row["ok"]]
    if done:
        said = ", ".join(f"{phase} {typical(done, phase)}" for phase in SECONDS)
        yield f"- Median seconds of {len(done)} networks (zero): {said}."
    fresh = [row["fresh_float32_difference"] for v in VARIANTS for row in rows[v].values() if row["ok"]]
    if fresh:
        yield f"- On images that no proof saw, in float32, relative: at most {max(fresh):.0e} over {len(fresh)} rows."


def typical(done: list[Row], phase: str) -> str:
    """The median of one phase's seconds, where it was timed."""
    given = [row["seconds"][phase] for row in done if phase in row["seconds"]]
    return f"{median(given):.2f}" if given else "not timed"


def cells(rows: Rows, name: str) -> list[str]:
    """One line of the table, without the name."""
    ours = [rows[variant].get(name) for variant in VARIANTS]
    known = next((row for row in ours if row and row["ok"]), None)
    head = [str(known[key]) for key in ("image", "groups", "asked")] if known else ["", "", ""]
    phases = [timed(known, phase) for phase in SECONDS]
    peak = f"{known['peak_mb'] / 1024:.1f}" if known else ""
    forward = ("rewritten" if known["compaction"].get("rewritten") else "own") if known else ""
    return [*head, *outcome(ours[0]), *outcome(ours[1]), forward, *phases, peak, *peer_cells(rows[PEER].get(name))]


def timed(row: Row | None, phase: str) -> str:
    return f"{row['seconds'][phase]:.2f}" if row and phase in row["seconds"] else ""


def outcome(row: Row | None) -> list[str]:
    """Removed, kept, error of one variant."""
    if row is None or not row["ok"]:
        return ["not run" if row is None else "**failed**", "", ""]
    share = f"{row['removed'] / row['asked']:.1%}" if row["asked"] else "none asked"
    precision = row["compaction"].get("proof_dtype", "float64")
    note = "" if "float64" in str(precision) else f" ({precision})"
    return [share, f"{row['kept']:.3f}", f"{row['error']:.0e}{note}"]


def peer_cells(row: Row | None) -> list[str]:
    if row is None or not row["ok"]:
        return ["not run" if row is None else "failed", ""]
    return [f"{row['kept']:.3f}", f"{row['seconds']['build']:.1f} + {row['seconds']['prune']:.1f}"]


def failed(rows: Rows, kinds: dict[str, str]) -> Iterable[str]:
    """One line per row without a result."""
    for variant, part in rows.items():
        bad = [name for name in kinds if name in part and not part[name]["ok"]]
        yield from (f"- {variant}, {name}: {part[name]['reason']}" for name in bad)
