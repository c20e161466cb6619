"""The wheel works on its own: built, installed into another environment, run from another folder.

The environment is new but sees this one's packages (a path file), so that nothing is downloaded;
the package itself comes from the wheel alone, which the test checks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.installation import PATIENCE_SECONDS
from tuner import __version__

ROOT = Path(__file__).parent.parent


def closure(name: str, extras: frozenset[str], seen: dict[str, str]) -> dict[str, str]:
    """Every package that ``name`` needs here, with its version."""
    for line in metadata.requires(name) or []:
        wanted = Requirement(line)
        environments = [{"extra": extra} for extra in (*extras, "")]
        if wanted.marker and not any(wanted.marker.evaluate(e) for e in environments):
            continue
        key = canonicalize_name(wanted.name)
        if key not in seen or wanted.extras:
            seen[key] = metadata.version(wanted.name).partition("+")[0]
            closure(wanted.name, frozenset(wanted.extras), seen)
    return seen


def test_every_package_is_pinned_as_it_is_installed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    installed = closure("tuner", frozenset({"dev"}), {})
    assert len(installed) > 100
    assert {name: pins.get(name) for name in installed} == installed
    assert "+" not in pins["torch"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=PATIENCE_SECONDS
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    here = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    ).stdout.strip()
    target = ["--target", here, "--no-deps", "--quiet", "--no-compile"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *target, str(wheel)],
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    # Behind the environment's own packages: the other environment's editable install comes last.
    (Path(here) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = folder / "venv" / "bin" / "tuner"
    script.write_text(f"#!{python}\nimport sys\nfrom tuner.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return folder


def run(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    elsewhere = installed / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TUNER_")}
    clean.pop("PYTHONPATH", None)
    return subprocess.run(
        [installed / "venv" / "bin" / "tuner", *arguments],
        cwd=elsewhere,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_the_wheel_carries_all_that_runs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "tuner/_migrations/env.py" in names
    assert any(name.startswith("tuner/_migrations/versions/0001") for name in names)
    assert "tuner/_examples/digits.yaml" in names
    source = {
        path.relative_to(ROOT).as_posix()
        for room in ("tuner", "api")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= set(names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_the_installed_package_is_the_wheels(installed: Path) -> None:
    python = installed / "venv" / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import tuner, api; print(tuner.__file__, api.__file__)"],
        cwd=installed,
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    ).stdout.split()
    assert all(Path(path).is_relative_to(installed) for path in found)


def test_the_version_is_told(installed: Path) -> None:
    told = run(installed, "--version")
    assert told.stdout == f"tuner {__version__}\n"
    assert told.returncode == 0


def test_the_database_is_made(installed: Path) -> None:
    told = run(installed, "db", "upgrade", "--json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer["revision"] == answer["head"]
    assert (installed / "elsewhere" / ".tuner" / "tuner.sqlite").is_file()


def test_a_study_runs_without_a_server(installed: Path) -> None:
    study = installed / "small.yaml"
    study.write_text(
        "name: small\ntask: {name: digits}\n"
        "space: {optimizer: adamw, lr: {type: float, low: 1.0e-3, high: 1.0e-2, log: true}}\n"
        "sampler: {name: random, seed: 0}\npruner: {name: none}\nbudget: {trials: 3, epochs: 1}\n"
    )
    told = run(installed, "run", str(study), "--json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer["study"]["state"] == "completed"
    assert answer["study"]["counts"]["complete"] == 3
