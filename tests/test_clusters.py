"""The manifest for Kubernetes and the script for Slurm name only what exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_docker import DOCKERFILE, SERVICES, parsed
from tuner.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it reads its own files in a way that Python has deprecated
    import kubernetes_validate

ROOT = Path(__file__).parent.parent
SLURM = ROOT / "docs" / "slurm.sh"
MANIFEST: list[dict[str, Any]] = list(
    yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text())
)
KNOWN = {f"TUNER_{name}".upper() for name in Settings.model_fields}


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [part for part in MANIFEST if part["kind"] == kind]
    return found


@pytest.mark.parametrize("part", MANIFEST, ids=lambda part: str(part["kind"]))
def test_kubernetes_own_schema_takes_it(part: dict[str, Any]) -> None:
    kubernetes_validate.validate(part, "1.31", strict=True)


def test_the_pod_runs_a_command_that_exists_with_settings_that_exist() -> None:
    spec = of_kind("Deployment")["spec"]["template"]["spec"]
    (worker,) = spec["containers"]
    parsed(worker["args"])
    assert worker["args"][0] == "worker"
    names = {variable["name"] for variable in worker["env"]}
    assert {"TUNER_URL", "TUNER_TOKEN", "TUNER_HOME"} <= names <= KNOWN
    assert worker["image"] == SERVICES["worker"]["image"]
    mounted = {mount["name"]: mount["mountPath"] for mount in worker["volumeMounts"]}
    assert {volume["name"] for volume in spec["volumes"]} == set(mounted)
    (home,) = [v["value"] for v in worker["env"] if v["name"] == "TUNER_HOME"]
    assert mounted["data"] == home
    claim = spec["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == of_kind("PersistentVolumeClaim")["metadata"]["name"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_pod_is_the_images_user_and_labels_fit() -> None:
    deployment = of_kind("Deployment")["spec"]
    security = deployment["template"]["spec"]["securityContext"]
    assert f"--uid {security['runAsUser']} " in DOCKERFILE
    assert security["runAsNonRoot"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels


def test_the_script_runs_a_command_that_exists_with_settings_that_exist() -> None:
    text = SLURM.read_text()
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    (line,) = re.findall(r"^exec srun tuner (.+)$", text, re.MULTILINE)
    parsed(shlex.split(line))
    assert set(re.findall(r"TUNER_[A-Z_]+", text)) <= KNOWN
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert options["signal"].startswith("TERM@"), "or a worker is killed with what it trains"
    assert text.index("#SBATCH") < text.index("set -"), "Slurm reads options before commands only"


@pytest.mark.parametrize("missing", ["TUNER_URL", "TUNER_TOKEN", "TUNER_HOME"])
def test_the_script_says_what_it_misses(missing: str) -> None:
    given = {"TUNER_URL": "http://x", "TUNER_TOKEN": "t", "TUNER_HOME": "/x", "PATH": "/usr/bin"}
    del given[missing]
    done = subprocess.run(
        ["/bin/bash", str(SLURM)], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"{missing}: " in done.stderr
