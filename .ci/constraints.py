"""Prints ``constraints.txt``: the whole closure as pip resolves it today, torch kept where it is.

Nothing is installed: pip resolves into a report. Move torch by editing its line first.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """\
# Every package of the whole closure (extras dev and ray included), so that two installs a month
# apart are the same. `make constraints` writes this file anew. torch carries no local version:
# the build for the CPU or for CUDA is a matter of the index that the machine uses.
"""


def main() -> None:
    """Resolves and prints."""
    torch = re.search(r"^torch==.+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if torch is None:
        raise SystemExit("constraints.txt pins no torch")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    wanted = [f"{ROOT}[dev,ray]", torch[0]]
    report = subprocess.run(
        [*command, "--report", "-", *wanted], check=True, capture_output=True, text=True
    )
    rows = [item["metadata"] for item in json.loads(report.stdout)["install"]]
    pins = {
        re.sub(r"[-_.]+", "-", row["name"].lower()): row["version"].partition("+")[0]
        for row in rows
        if row["name"] != "tuner"
    }
    sys.stdout.write(HEAD + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))


if __name__ == "__main__":
    main()
