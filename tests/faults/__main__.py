"""``make faults``: every fault, many times; prints what was lost, which must be nothing.

python -m tests.faults --rounds 20
python -m tests.faults --only frozen --rounds 5 --seed 7
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.faults.cluster import Cluster
from tests.faults.run import played, table
from tests.faults.scenes import SCENES


def main() -> int:
    """Plays the scenes that were asked for; exit code 1 if anything was lost or came twice."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--rounds", type=int, default=10, help="times the few rounds that a test plays"
    )
    parser.add_argument("--only", default="", help="scenes whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = [scene for scene in SCENES if arguments.only in scene.name]
    cluster = Cluster() if any(scene.database == "postgresql" for scene in chosen) else None
    outcomes = []
    try:
        for scene in chosen:
            print(f"{scene.name} on {scene.database} ...", file=sys.stderr, flush=True)
            rounds = scene.quick * arguments.rounds
            outcomes.append(played(scene, rounds, arguments.seed, cluster))
            found = outcomes[-1].audit
            for line in (*found.lost, *found.duplicated, *found.missing):
                print(f"    {line}", file=sys.stderr)
    finally:
        if cluster is not None:
            cluster.close()
    print("\n".join(table(outcomes)))
    return 0 if all(outcome.audit.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
