"""Your own training loop: the server suggests, your code trains whatever it likes, and tells.

Here: boosted trees of scikit-learn on its breast cancer data, with early stopping by the pruner.

    tuner serve --no-auth     (in another shell)
    python own_loop.py
"""

from __future__ import annotations

import argparse

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from tuner.client import Client

STUDY = {
    "name": "boosted-trees",
    "objective": {"metric": "loss", "direction": "minimize"},
    "space": {
        "learning_rate": {"type": "float", "low": 0.01, "high": 1.0, "log": True},
        "max_depth": {"type": "int", "low": 1, "high": 6},
        "subsample": {"type": "float", "low": 0.3, "high": 1.0},
    },
    "sampler": {"name": "tpe", "seed": 0},
    "pruner": {"name": "median"},
    "budget": {"trials": 12, "epochs": 5},  # here an epoch is twenty trees
}


def main() -> None:
    """Runs the study to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="the server; TUNER_URL unless given")
    x, y = load_breast_cancer(return_X_y=True)
    parts = train_test_split(x, y, test_size=0.3, random_state=0)
    with Client(parser.parse_args().url) as client:
        study = client.submit(STUDY)
        while asked := client.ask(study.id, 2):
            with client.held(asked):  # nobody else is handed them while this process lives
                for trial in asked:
                    train(client, trial, *parts)
        best = client.best(study.id)[0]
        print(f"best of {client.study(study.id).counts.finished}: {best.value:.4f} {best.params}")


def train(client, trial, x, x_valid, y, y_valid) -> None:
    """Grows trees twenty at a time, reports after each batch, and stops when told to."""
    model = GradientBoostingClassifier(**trial.config, warm_start=True, random_state=0)
    for step in range(1, trial.max_step + 1):
        model.set_params(n_estimators=20 * step).fit(x, y)
        verdict = client.report(trial, step, loss=log_loss(y_valid, model.predict_proba(x_valid)))
        if verdict.action != "continue":  # it was pruned, or this was the last step
            return


if __name__ == "__main__":
    main()
