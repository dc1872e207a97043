"""Compact every torchvision classifier, segmentation network and detection backbone, Torch-Pruning beside it.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/compaction.py --models resnet18 vit_b_16     # all networks without --models
    python benchmarks/compaction.py --render                       # only the table

One row per network and variant, each in a process of its own. A row that is recorded in results/compaction-*.json is
not repeated (--retry repeats those that failed); COMPACTION.md is made again after every run.
"""

import argparse
import fcntl
import json
import os
import resource
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import compaction_table
from compaction_models import names
from compaction_table import PEER, VARIANTS

from compress.machine import cpu_name

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BUILDING_S = 120
"""Beyond the peer's own limit: building the largest network on a busy machine."""


def main() -> None:
    asked = arguments()
    if asked.row:
        print(json.dumps(one_row(*asked.row, asked)))
        return
    kinds = names()
    here = environment(asked.threads)
    for name in [] if asked.render else asked.models or kinds:
        for variant in [*asked.variants, *([] if asked.no_peer else [PEER])]:
            if needed(name, variant, retry=asked.retry):
                row = in_own_process(name, variant, asked) | {"environment": here}
                record(name, variant, row)
                print(f"{name} {variant}: {summary(row)}", flush=True)
    (HERE / "COMPACTION.md").write_text(compaction_table.render(compaction_table.read(RESULTS), kinds))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(names()), metavar="NAME", help="default: all")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--no-peer", action="store_true", help="without Torch-Pruning")
    parser.add_argument("--retry", action="store_true", help="repeat recorded rows that failed")
    parser.add_argument("--limit-s", type=int, default=1800, help="seconds per row of ours")
    parser.add_argument("--peer-limit-s", type=int, default=100, help="seconds for Torch-Pruning")
    parser.add_argument(
        "--limit-gb", type=float, default=available_gb() - 1, help="memory per row; default: what is free"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--render", action="store_true", help="only make COMPACTION.md again")
    parser.add_argument("--row", nargs=2, metavar=("NAME", "VARIANT"), help=argparse.SUPPRESS)  # the inner process
    asked = parser.parse_args()
    if not (asked.no_peer or asked.render or find_spec("torch_pruning")):
        parser.error('Torch-Pruning is not installed: pip install -c constraints.txt -e ".[bench]", or --no-peer')
    return asked


def available_gb() -> float:
    """Memory that can be taken without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def one_row(name: str, variant: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The inner process: measure; an error is a result too."""
    import torch
    from compaction_measure import measure, peak_megabytes
    from compaction_peer import prune

    torch.set_num_threads(asked.threads)
    limit = int(asked.limit_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    load = os.getloadavg()[0]
    try:
        found = {"ok": True} | (prune(name, asked.peer_limit_s) if variant == PEER else measure(name, variant))
    except Exception as error:  # whatever the code under measurement raises
        found = failure(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
    return found | {"peak_mb": round(peak_megabytes()), "load_before": load}


def failure(reason: str) -> dict[str, Any]:
    return {"ok": False, "reason": reason}


def in_own_process(name: str, variant: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The row, or why there is none."""
    limit = asked.peer_limit_s + BUILDING_S if variant == PEER else asked.limit_s
    command = [sys.executable, __file__, "--row", name, variant, "--no-peer", "--threads", str(asked.threads)]
    command += ["--peer-limit-s", str(asked.peer_limit_s), "--limit-gb", str(asked.limit_gb)]
    threads = {"OMP_NUM_THREADS": str(asked.threads)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env={**os.environ, **threads})
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return failure(f"no result in {limit} s")
    except (IndexError, ValueError):
        return failure(f"the process ended with {done.returncode}: {(done.stderr.splitlines() or [''])[-1]}")


def environment(threads: int) -> dict[str, Any]:
    """Machine and versions."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    packages = ["torch", "torchvision", *([PEER] if find_spec("torch_pruning") else [])]
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": threads}
    return machine | {package: version(package) for package in packages} | {"commit": commit.stdout.strip()}


def needed(name: str, variant: str, *, retry: bool) -> bool:
    """True if no row is recorded, or one that failed and is to be repeated."""
    row = compaction_table.read(RESULTS)[variant].get(name)
    return row is None or (retry and not row["ok"])


def record(name: str, variant: str, row: dict[str, Any]) -> None:
    """Add a row to its file; two benchmarks may run at once."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"compaction-{variant}.json"
    lock = os.open(RESULTS, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = json.loads(file.read_text()) if file.exists() else {}
        rows[name] = row
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
        beside.replace(file)
    finally:
        os.close(lock)


def summary(row: dict[str, Any]) -> str:
    """For the terminal."""
    if not row["ok"]:
        return row["reason"]
    removed = f"{row['removed']} of {row['asked']} removed, error {row['error']:.0e}, " if "asked" in row else ""
    return f"{removed}kept {row['kept']:.3f}, {row['peak_mb']} MB"


if __name__ == "__main__":
    main()
