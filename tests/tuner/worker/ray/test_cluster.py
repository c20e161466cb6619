"""What is said where there is no cluster, or no Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.installation import PATIENCE_SECONDS
from tuner.cli import main
from tuner.errors import InvalidInput
from tuner.worker.ray import kind_of


def test_without_ray_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    assert main(["worker", "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "tuner: engine: Ray is not installed: pip install ray\n"


def test_nothing_imports_ray_before_it_is_asked_for() -> None:
    program = "import sys, tuner.worker.ray, tuner.cli.main; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("device", ["cuda:1", "tpu", ""])
def test_ray_decides_which_gpu(device: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        kind_of(None, device)
    assert caught.value.field == "device"


@pytest.mark.parametrize(
    ("option", "field"), [("--address", "address"), ("--cpus-per-worker", "cpus_per_worker")]
)
def test_options_of_a_cluster_are_refused_without_one(
    option: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", option, "1"]) == 2
    assert f"tuner: {field}: is of use with --engine ray only" in capsys.readouterr().err
