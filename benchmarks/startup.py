"""How long `compress --help` takes, beside an empty Python: interleaved pairs, median and spread.

python benchmarks/startup.py
"""

import shutil
import subprocess
import sys
import time
from statistics import median, quantiles


def seconds(command: list[str]) -> float:
    """Wall-clock of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(pairs: int = 15) -> None:
    """Print both medians with their spread."""
    program = shutil.which("compress") or sys.exit("the compress command is not on the PATH: pip install -e . first")
    commands = {"compress --help": [program, "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(pairs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    for name, values in times.items():
        low, *_, high = quantiles(values, n=20)
        print(f"{name:<16} median {median(values):.3f} s, 5-95 % {low:.3f} to {high:.3f} s, {pairs} interleaved runs")


if __name__ == "__main__":
    main()
