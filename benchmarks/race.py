"""A whole study, end to end: ``tuner run`` beside Optuna with a process for each core.

    python benchmarks/race.py [--seeds 5] [--trials 64] [--epochs 20]

The same task (scikit-learn's digits, the same split and MLP), space, number of trials and epochs;
TPE and asynchronous halving on both sides. Optuna runs as its documentation recommends: a process a
core, sharing a study in SQLite, each training one trial at a time with torch's AdamW. Wall seconds
are of whole commands, imports included; the best validation loss is what a user takes home.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SPACE = {
    "optimizer": "adamw",
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
    "beta1": {"type": "float", "low": 0.8, "high": 0.99},
    "beta2": {"type": "float", "low": 0.9, "high": 0.9999},
    "eps": {"type": "float", "low": 1e-10, "high": 1e-6, "log": True},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
    "schedule": {"type": "categorical", "choices": ["constant", "cosine", "linear"]},
    "warmup_fraction": {"type": "float", "low": 0.0, "high": 0.2},
}


def optuna_worker(url: str, seed: int, trials: int, epochs: int) -> None:
    """One of Optuna's processes: trains trials until the study has enough."""
    import optuna  # noqa: PLC0415  (only the peer's process loads it)
    import torch  # noqa: PLC0415
    from optuna.study import MaxTrialsCallback  # noqa: PLC0415
    from optuna.trial import TrialState  # noqa: PLC0415

    from tuner import tasks  # noqa: PLC0415

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = tasks.get("digits")()
    data = task.data()
    x, y, vx, vy = data.train.x, data.train.y, data.valid.x, data.valid.y

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        batch = trial.suggest_categorical("batch_size", [16, 32, 64, 128])
        betas = (trial.suggest_float("beta1", 0.8, 0.99), trial.suggest_float("beta2", 0.9, 0.9999))
        eps = trial.suggest_float("eps", 1e-10, 1e-6, log=True)
        decay = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
        schedule = trial.suggest_categorical("schedule", ["constant", "cosine", "linear"])
        warm = trial.suggest_float("warmup_fraction", 0.0, 0.2)
        torch.manual_seed(seed)
        model = task.model({})
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, betas=betas, eps=eps, weight_decay=decay
        )
        total = epochs * math.ceil(len(x) / batch)
        warmup = round(warm * total)

        def multiplier(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            p = (step - warmup) / max(1, total - warmup)
            shapes = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * p))}
            return shapes.get(schedule, 1 - p)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)
        value = math.inf
        for epoch in range(epochs):
            order = torch.randperm(len(x))
            for at in range(0, len(x), batch):
                chosen = order[at : at + batch]
                loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            with torch.no_grad():
                value = float(torch.nn.functional.cross_entropy(model(vx), vy))
            if not math.isfinite(value):
                raise optuna.TrialPruned
            trial.report(value, epoch + 1)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study = optuna.load_study(
        study_name="race",
        storage=url,
        sampler=optuna.samplers.TPESampler(seed=seed + os.getpid() % 1000, constant_liar=True),
        pruner=optuna.pruners.SuccessiveHalvingPruner(),
    )
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    study.optimize(objective, callbacks=[MaxTrialsCallback(trials, states=states)])


def race_optuna(folder: Path, seed: int, trials: int, epochs: int) -> tuple[float, float]:
    """Wall seconds and best loss of Optuna's study."""
    url = f"sqlite:///{folder}/optuna.sqlite"
    start = time.perf_counter()
    create = f"import optuna; optuna.create_study(study_name='race', storage={url!r})"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", create], check=True, **quiet)
    command = [sys.executable, __file__, "--peer", url, "--seed", str(seed)]
    command += ["--trials", str(trials), "--epochs", str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    team = [subprocess.Popen(command, env=environment, **quiet) for _ in range(os.cpu_count() or 1)]
    codes = [process.wait() for process in team]
    spent = time.perf_counter() - start
    if any(codes):
        raise RuntimeError(f"Optuna's processes ended with {codes}")
    import optuna  # noqa: PLC0415

    study = optuna.load_study(study_name="race", storage=url)
    return spent, study.best_value


def race_tuner(folder: Path, seed: int, trials: int, epochs: int) -> tuple[float, float]:
    """Wall seconds and best loss of ``tuner run``."""
    file = folder / "study.yaml"
    study = {
        "name": f"race-{seed}",
        "task": {"name": "digits"},
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "space": SPACE,
        "sampler": {"name": "tpe", "seed": seed},
        "pruner": {"name": "asha"},
        "budget": {"trials": trials, "epochs": epochs},
        "seed": seed,
    }
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    command = [sys.executable, "-m", "tuner", "run", str(file), "--home", str(folder), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    spent = time.perf_counter() - start
    return spent, json.loads(done.stdout)["best"][0]["value"]


def main() -> None:
    """Prints a Markdown table: a row a seed, then medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        optuna_worker(arguments.peer, arguments.seed, arguments.trials, arguments.epochs)
        return
    print("| seed | Optuna s | ours s | faster | Optuna best | ours best |")
    print("|---|---|---|---|---|---|")
    ratios, theirs, mine = [], [], []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            first = race_optuna(Path(folder), seed, arguments.trials, arguments.epochs)
        with tempfile.TemporaryDirectory() as folder:
            second = race_tuner(Path(folder), seed, arguments.trials, arguments.epochs)
        ratios.append(first[0] / second[0])
        theirs.append(first[1])
        mine.append(second[1])
        print(
            f"| {seed} | {first[0]:.1f} | {second[0]:.1f} | {ratios[-1]:.1f}x "
            f"| {first[1]:.4f} | {second[1]:.4f} |",
            flush=True,
        )
    print(
        f"| median | | | {statistics.median(ratios):.1f}x "
        f"| {statistics.median(theirs):.4f} | {statistics.median(mine):.4f} |"
    )


if __name__ == "__main__":
    main()
