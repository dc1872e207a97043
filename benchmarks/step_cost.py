"""What a training step of ADMM and P-ADMM costs beside a plain one, on LeNet-5 with batches of 128.

    python benchmarks/step_cost.py [--threads 1]

Every repeat times a block of steps of each method in turn, so that a drift of the clock frequency hits all of them; the
ratio is taken within a repeat. Z- and U-steps are included as often as they are due (twice in 430 steps).
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from reproduce import provenance

from compress import cost, machine, methods
from compress.budget import Budget, ending
from compress.data import load
from compress.descent import Descent, Optimization
from compress.method import Clock, Retrain, View
from compress.probe import TaskProbe
from compress.train import Task, Trainee, to_device
from compress.units import ElementUnits
from compress_models import load as load_model

PER_EPOCH = 430
BLOCK = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    steps = {name: stepper(name) for name in ("plain", "admm", "padmm")}
    for step in steps.values():
        step(5)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(asked.repeats):
        for name in list(steps)[:: 1 if repeat % 2 else -1]:
            started = time.perf_counter()
            steps[name](BLOCK)
            seconds[name].append((time.perf_counter() - started) / BLOCK)
    print(f"plain: {1000 * median(seconds['plain']):.2f} ms a step, {asked.threads} thread(s), {machine.cpu_name()}")
    row = {"threads": asked.threads, "plain_ms": 1000 * median(seconds["plain"])}
    for name in ("admm", "padmm"):
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(f"{name}: {median(ratios):.3f}x (quartiles {low:.3f} to {high:.3f})")
        row[name] = [median(ratios), low, high]
    file = Path(__file__).parent / "results" / "step_cost.json"
    file.write_text(
        json.dumps({**row, **provenance({"environment": {"cpu": machine.cpu_name()}, "recipe": None})}, indent=2)
    )


def stepper(name: str) -> Callable[[int], None]:
    """Function that takes a number of training steps."""
    device = torch.device("cpu")
    data = load("mnist", root=None, held_out=5000, seed=0, device=device)
    task = Task(to_device(load_model("lenet5"), device), data, device, None, 0)
    positions = cost.positions(task.model, (1, 28, 28))
    values = dict(task.model.named_parameters())
    units = ElementUnits(
        {n: values[n].shape for n in positions}, positions, 430_500, cost.macs(task.model, (1, 28, 28))
    )
    view = View(values, tuple(positions), units, Budget(compression=71.2), {}, ending, TaskProbe(task))
    method = Retrain() if name == "plain" else methods.build(name, {})
    with torch.no_grad():
        trainee = Trainee(task.model, method, method.init(view, {}))
    descent = Descent.of(Optimization(1), task.model.parameters(), {}, device, None)
    images, labels = next(iter(data.train.batches(128)))
    images = images.contiguous(memory_format=torch.channels_last)
    done = 0

    def take(count: int) -> None:
        nonlocal done
        for _ in range(count):
            done += 1
            descent.start(0.5)
            loss = task.loss(trainee(images), labels) + method.penalty(view, trainee.state)
            loss.backward()
            descent.step()
            with torch.no_grad():
                answer = method.update(view, trainee.state, Clock(done, 20 * PER_EPOCH, PER_EPOCH))
            trainee.state = answer if not isinstance(answer, tuple) else answer[0]

    return take


if __name__ == "__main__":
    main()
