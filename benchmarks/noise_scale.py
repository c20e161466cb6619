"""What measuring the gradient noise scale costs: the same population with it and without.

    python benchmarks/noise_scale.py [--cases "mlp 32,lenet 32"] [--slots 8] [--rounds 15]

Both train in one process, a round of epochs each in turn; the cost is the median over rounds of one
time over the other, with its quartiles. In ``mixed``, half of the trials have four times the batch
size, so that their micro-batches are there anyway; elsewhere one batch in so many is cut in two.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from population import CASES

from tuner.training import Population
from tuner.training.trainer import NOISE_EVERY
from tuner.worker import device as devices

NEVER = 1 << 62


def trained(case: str, slots: int, every: int, *, mixed: bool) -> Population:
    """A population past every measurement and recording."""
    kind, batch = CASES[case]
    config = {"optimizer": "adamw", "lr": 1e-3, "batch_size": batch}
    population = Population(kind(), config, slots, check=False)
    population.trainer.noise_every = every
    for slot in range(slots):
        own = batch * (4 if mixed and slot % 2 else 1)
        population.load(slot, {**config, "batch_size": own}, slot, epochs=1e6)
    for _ in range(6):
        population.train(len(population.data.train))
    return population


def seconds(population: Population, epochs: int) -> float:
    """Wall time of so many epochs."""
    start = time.perf_counter()
    population.train(epochs * len(population.data.train))
    return time.perf_counter() - start


def main() -> None:
    """Prints a Markdown table: a row a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default="mlp 32,mlp 128,lenet 32")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one round of one of both")
    given = parser.parse_args()
    devices.prepare(torch.device("cpu"))
    torch.set_num_threads(1)
    print(f"one batch in {NOISE_EVERY}, {given.slots} slots, one thread\n")
    print("| case | batch sizes | cost of a step, median [quartiles] |")
    print("|---|---|---|")
    for case in given.cases.split(","):
        for mixed in (False, True):
            both = [trained(case, given.slots, n, mixed=mixed) for n in (NEVER, NOISE_EVERY)]
            epochs = max(1, round(given.seconds / seconds(both[0], 1)))
            ratios = []
            for turn in range(given.rounds):
                order = both if turn % 2 else both[::-1]
                spent = {id(p): seconds(p, epochs) for p in order}
                ratios.append(spent[id(both[1])] / spent[id(both[0])] - 1)
            low, middle, high = statistics.quantiles(ratios, n=4)
            sizes = "mixed" if mixed else "one"
            print(f"| {case} | {sizes} | {middle:+.1%} [{low:+.1%}, {high:+.1%}] |", flush=True)


if __name__ == "__main__":
    main()
