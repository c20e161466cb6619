"""Population training beside what people do without it: one run, ratios.

    python benchmarks/population.py [--quick] [--cases "mlp 32,lenet 32"] [--slots 4,8,16]

Every figure is trial-samples per second of the whole machine (samples times trials). The peers are
a plain PyTorch loop in one process, and in one process of one thread for each core, which is what
an Optuna user runs; each with torch's default AdamW, with its fused one, and compiled. Ours is the
same processes, each with a population. Rounds of all contenders alternate, so that a noisy machine
hurts all alike; the median round counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuner.tasks import Arrays, Config, Splits, Task
from tuner.training import Population
from tuner.worker import device as devices

SAMPLES = 1024


class Mlp(Task):
    """64-128-128-10, as for scikit-learn's digits: 26,122 parameters."""

    name = "mlp"

    def data(self) -> Splits:
        return classified(torch.randn(SAMPLES, 64, generator=seeded()), 10)

    def model(self, config: Config) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return (
            F.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
            .view(target.shape[0], -1)
            .mean(1)
        )


class LeNet(Mlp):
    """LeNet-5 on 3 x 32 x 32: 62,006 parameters."""

    name = "lenet"

    def data(self) -> Splits:
        return classified(torch.randn(SAMPLES, 3, 32, 32, generator=seeded()), 10)

    def model(self, config: Config) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84),
            nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip


class Normed(LeNet):
    """Three convolutions with BatchNorm on 3 x 32 x 32: 11,218 parameters."""

    name = "normed"

    def model(self, config: Config) -> nn.Module:
        layers: list[nn.Module] = []
        for before, width in ((3, 8), (8, 16), (16, 32)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class Attention(nn.Module):
    """Causal self-attention as torch offers it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.into(x).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, w))
        return out


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        out: Tensor = x + self.mlp(self.second(x))
        return out


class Transformer(Mlp):
    """Two layers of width 64 over 64 bytes: 137,000 parameters."""

    name = "transformer"

    def data(self) -> Splits:
        x = torch.randint(0, 256, (SAMPLES // 4, 65), generator=seeded())
        return Splits(Arrays(x[:, :-1], x[:, 1:].contiguous()), Arrays(x[:8, :-1], x[:8, 1:]))

    def model(self, config: Config) -> nn.Module:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.tokens = nn.Embedding(256, 64)
                self.places = nn.Parameter(0.02 * torch.randn(64, 64))
                self.layers = nn.Sequential(Layer(64, 4), Layer(64, 4))
                self.head = nn.Linear(64, 256)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.head(self.layers(self.tokens(x) + self.places))
                return out

        return Model()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def classified(x: Tensor, classes: int) -> Splits:
    y = torch.randint(0, classes, (len(x),), generator=seeded())
    return Splits(Arrays(x, y), Arrays(x[:64], y[:64]))


CASES: dict[str, tuple[type[Task], int]] = {
    "mlp 32": (Mlp, 32),
    "mlp 128": (Mlp, 128),
    "lenet 32": (LeNet, 32),
    "normed 32": (Normed, 32),
    "transformer 16": (Transformer, 16),
}


def plain(task: Task, batch: int, device: str, *, fused: bool, compiled: bool) -> Callable[[], int]:
    """One epoch of an ordinary loop over one trial; its trial-samples."""
    data = task.data().train
    assert isinstance(data, Arrays)
    x, y = data.x.to(device), data.y.to(device)
    model = task.model({}).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused or None)
    run: Any = torch.compile(model) if compiled else model

    def epoch() -> int:
        order = torch.randperm(len(x)).to(device)
        for at in range(0, len(x), batch):
            chosen = order[at : at + batch]
            loss = task.loss(run(x[chosen]), y[chosen], {"label_smoothing": 0.0}).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return len(x)

    return epoch


def population(
    task: Task, batch: int, device: str, *, slots: int, engine: Any
) -> Callable[[], int]:
    """One epoch of a population; its trial-samples over all slots."""
    config = {"optimizer": "adamw", "lr": 1e-3, "batch_size": batch}
    pop = Population(task, config, slots, device=device, engine=engine, check=False)
    for slot in range(slots):
        pop.load(slot, {**config, "lr": 1e-3 / (1 + slot)}, slot, epochs=10_000)
    samples = len(pop.data.train)

    def epoch() -> int:
        pop.train(samples)
        return slots * samples

    epoch.population = pop  # type: ignore[attr-defined]  # for the explanation
    return epoch


def contender(kind: str, case: str, device: str) -> Callable[[], int]:
    task_type, batch = CASES[case]
    devices.prepare(torch.device(device))  # as a worker does, for all alike
    if kind.startswith("plain"):
        return plain(task_type(), batch, device, fused="fused" in kind, compiled="compiled" in kind)
    _, slots, *compiled = kind.split()
    epoch = population(task_type(), batch, device, slots=int(slots[1:]), engine="auto")
    if compiled:
        # As it becomes by itself after a minute of training.
        epoch.population.trainer.compiled_steps = True  # type: ignore[attr-defined]  # set above
    return epoch


def work(pipe: Any, kind: str, case: str, device: str, threads: int) -> None:
    """A process that times itself whenever it is told to."""
    torch.set_num_threads(threads)
    epoch = contender(kind, case, device)
    for _ in range(6):
        epoch()  # past every measurement, recording and compilation
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            done += epoch()
        pipe.send(done / (time.perf_counter() - start))
    owner = getattr(epoch, "population", None)
    memory = torch.cuda.max_memory_reserved() if device != "cpu" else peak_of_process()
    pipe.send((owner.engine.explanation if owner else "", memory))


def peak_of_process() -> int:
    """Bytes of memory that this process had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(
    kinds: list[tuple[str, int]], case: str, device: str, rounds: int, seconds: float
) -> dict[tuple[str, int], tuple[float, str, int]]:
    """Median trial-samples per second of each contender, its engine's explanation, and memory."""
    start = multiprocessing.get_context("spawn")
    rates: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    teams = {}
    for kind, processes in kinds:
        threads = 1 if processes > 1 or device != "cpu" else max(1, os.cpu_count() or 1)
        team = []
        for _ in range(processes):
            here, there = start.Pipe()
            child = start.Process(target=work, args=(there, kind, case, device, threads))
            child.start()
            team.append((child, here))
        for _, pipe in team:
            pipe.recv()
        teams[kind, processes] = team
    for _ in range(rounds):
        for key, team in teams.items():
            for _, pipe in team:
                pipe.send(seconds)
            rates[key].append(sum(pipe.recv() for _, pipe in team))
    found = {}
    for key, team in teams.items():
        explanation, memory = "", 0
        for child, pipe in team:
            pipe.send(None)
            explanation, memory = pipe.recv()
            child.join()
        found[key] = (statistics.median(rates[key]), explanation, memory)
    return found


def main() -> None:
    """Prints one Markdown table a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    parser.add_argument("--slots", default="", help="comma-separated K")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile the peers")
    arguments = parser.parse_args()
    cpu = arguments.device == "cpu"
    rounds, seconds = (3, 0.5) if arguments.quick else (7, 2.0)
    default = "1,4,8,16,64" if cpu else "1,4,16,64,128,256"
    slots = [int(k) for k in (arguments.slots or default).split(",")]
    cores = max(1, os.cpu_count() or 1) if cpu else 1
    cases = arguments.cases.split(",")
    if unknown := set(cases) - CASES.keys():
        parser.error(f"unknown cases {sorted(unknown)}; there are {', '.join(CASES)}")
    for case in cases:
        base = ("plain default", cores)
        kinds = [("plain default", 1), base, ("plain fused", cores)]
        if arguments.compiled:
            kinds.append(("plain compiled fused", cores))
        for k in slots:
            # A GPU is seldom lent for long: there only what a study comes to.
            kinds += [(f"ours K{k}{form}", cores) for form in ("", " compiled-steps")[not cpu :]]
        kinds = list(dict.fromkeys(kinds))
        found = measure(kinds, case, arguments.device, rounds, seconds)
        reference = found[base][0]
        print(f"\n**{case}** ({arguments.device}, torch {torch.__version__})\n")
        print("| contender | processes | trial-samples/s | ratio | GB each | engine |")
        print("|---|---|---|---|---|---|")
        for (kind, processes), (rate, why, memory) in found.items():
            cells = [kind, f"{processes}", f"{rate:,.0f}", f"{rate / reference:.2f}"]
            print(f"| {' | '.join([*cells, f'{memory / 1e9:.2f}', why.split(' (')[0]])} |")


if __name__ == "__main__":
    main()
