"""Time of one optimizer step: tuner's rules against torch.optim, side by side.

A population of K models with hyperparameters of their own costs torch K optimizers, and tuner one
kernel over ``[K, P]``. The last row is one model of 20 million parameters under the ordinary face.

Contenders take turns, round after round, so that a busy machine slows all alike; each figure is the
median over rounds, in nanoseconds a parameter, and each ratio the median of paired ratios.

    python benchmarks/optimizers.py [--quick] [--rule adamw] [--device cpu] [--threads N]

``--cpu-time`` runs one thread and counts its own processor time: on a machine that does other work,
wall-clock time of several threads says nothing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch
from torch import nn

from tuner import optimizers
from tuner.optimizers.kernels import apply_, coefficient_table

Shapes = list[tuple[int, ...]]
Clock = Callable[[], float]
Contenders = dict[str, Callable[[], object]]

MODELS: dict[str, Shapes] = {
    "26k": [(256, 64), (256,), (36, 256), (36,), (10, 36), (10,)],
    "62k": [
        (6, 3, 5, 5),
        (6,),
        (16, 6, 5, 5),
        (16,),
        (120, 400),
        (120,),
        (84, 120),
        (84,),
        (10, 84),
        (10,),
    ],
    "137k": [(128, 784), (128,), (256, 128), (256,), (10, 256), (10,)],
}
LARGE: Shapes = [(8192, 384), (1024, 384)] + 9 * [
    (1152, 384), (1152,), (384, 384), (384,), (1536, 384), (1536,), (384, 1536), (384,),
    (384,), (384,), (384,), (384,),
]  # fmt: skip
TORCH = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}
FORMS = {
    "torch default": {"foreach": False, "fused": False},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
}


def models(shapes: Shapes, count: int, device: str) -> list[list[nn.Parameter]]:
    found = []
    for _ in range(count):
        params = [nn.Parameter(torch.randn(s, device=device)) for s in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        found.append(params)
    return found


def torch_forms(rule: str, shapes: Shapes, count: int, device: str) -> Contenders:
    """One optimizer for each of ``count`` models, in each of torch's forms."""
    contenders: Contenders = {}
    for form, options in FORMS.items():
        stack = [
            TORCH[rule](params, lr=1e-3 * (1 + k % 7), **options)
            for k, params in enumerate(models(shapes, count, device))
        ]

        def step(stack: list[torch.optim.Optimizer] = stack) -> None:
            for optimizer in stack:
                optimizer.step()

        contenders[form] = step
    return contenders


def population(
    rule_name: str, width: int, slots: int, device: str, *, compiled: bool
) -> Callable[[], object]:
    """One kernel over ``[K, P]``; coefficients for 64 steps at once, as the engine does it."""
    rule = optimizers.get(rule_name)
    p, g = torch.randn(slots, width, device=device), torch.randn(slots, width, device=device)
    state = rule.init(p, (-1,))
    hyper = {
        name: torch.full((slots,), h.default, dtype=torch.float64) for name, h in rule.hyper.items()
    }
    hyper["lr"] = 1e-3 * (1 + torch.arange(slots, dtype=torch.float64) % 7)
    ahead: list[dict[str, torch.Tensor]] = []
    at = 0

    def step() -> None:
        nonlocal at
        if not ahead:
            steps = torch.arange(at, at + 64)[:, None].expand(64, slots)
            table = coefficient_table(rule, hyper, steps, p.dtype, device)
            rows = {name: values.unsqueeze(-1).unbind() for name, values in table.items()}
            ahead.extend({n: rows[n][i] for n in rows} for i in reversed(range(64)))
            at += 64
        apply_(rule, p, g, state, ahead.pop(), (-1,), compiled=compiled)

    return step


def ordinary(rule: str, shapes: Shapes, device: str, *, compiled: bool) -> Callable[[], object]:
    optimizer = optimizers.create(rule, models(shapes, 1, device)[0], lr=1e-3, compiled=compiled)
    return optimizer.step


def measure(
    contenders: Contenders, rounds: int, device: str, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of one step, by contender and round; each first runs unmeasured."""

    def once(step: Callable[[], object], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / repeats

    repeats = {}
    for name, step in contenders.items():
        once(step, 3)
        repeats[name] = max(1, int(0.02 / once(step, 2)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            seconds[name].append(once(step, repeats[name]))
    return seconds


def copy_bandwidth(device: str, clock: Clock) -> float:
    """Bytes read and written a second by copying 256 MiB, the best of several."""
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)
    times = measure({"copy": lambda: target.copy_(source)}, 9, device, clock)["copy"]
    return 2 * source.numel() * source.element_size() / min(times)


def row(
    label: str, count: int, seconds: dict[str, list[float]], bandwidth: float, moved: int
) -> str:
    cells = [f"{1e9 * statistics.median(times) / count:.2f}" for times in seconds.values()]
    ours = seconds["tuner compiled"]
    ratios = [
        statistics.median(t / o for t, o in zip(seconds[form], ours, strict=True)) for form in FORMS
    ]
    share = moved * count / statistics.median(ours) / bandwidth
    cells += [f"{ratio:.2f}x" for ratio in ratios] + [f"{share:.0%}"]
    return f"| {label} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--rule", default="adamw", choices=sorted(TORCH))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its processor time")
    arguments = parser.parse_args()
    clock: Clock = time.perf_counter
    if arguments.cpu_time:
        arguments.threads, clock = 1, time.thread_time
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device, rule = arguments.device, arguments.rule
    if device == "cuda":  # there the default is foreach
        FORMS.pop("torch default")
    chip = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {chip}, "
        f"{torch.get_num_threads()} threads, rule {rule}, "
        f"{'processor' if arguments.cpu_time else 'wall-clock'} time, ns a parameter\n"
    )
    heads = [*FORMS, "tuner eager", "tuner compiled", *(f"{form} / ours" for form in FORMS)]
    heads.append("of copy bandwidth")
    bandwidth = copy_bandwidth(device, clock)
    states = len(optimizers.get(rule).state)
    moved = 4 * (3 + 2 * states)  # p and g read, p written, each state read and written
    print("| size | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    rounds = 5 if arguments.quick else 15
    for slots in (1, 16) if arguments.quick else (1, 16, 64, 256):
        for name, shapes in MODELS.items():
            width = sum(torch.Size(s).numel() for s in shapes)
            contenders = torch_forms(rule, shapes, slots, device)
            for label, compiled in (("tuner eager", False), ("tuner compiled", True)):
                contenders[label] = population(rule, width, slots, device, compiled=compiled)
            seconds = measure(contenders, rounds, device, clock)
            print(row(f"{slots} x {name}", slots * width, seconds, bandwidth, moved), flush=True)
    width = sum(torch.Size(s).numel() for s in LARGE)
    contenders = torch_forms(rule, LARGE, 1, device)
    for label, compiled in (("tuner eager", False), ("tuner compiled", True)):
        contenders[label] = ordinary(rule, LARGE, device, compiled=compiled)
    seconds = measure(contenders, rounds, device, clock)
    print(row(f"1 x {width / 1e6:.1f}M", width, seconds, bandwidth, moved))


if __name__ == "__main__":
    main()
