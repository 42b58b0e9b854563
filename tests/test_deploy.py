"""The image and the manifests: linted, validated, and done by hand as far as that goes here."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml

import runner
from runner.asking import SIGNALED
from runner.metrics import PATH
from runner.settings import Settings
from tests.commands import Stage
from tests.test_architecture import kept_files

ROOT = Path(__file__).resolve().parents[1]
CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")
MANIFESTS = sorted((ROOT / "docs" / "kubernetes").glob("*.yaml"))
VERSIONS = ("1.31", "1.34", "1.37")
"""Of Kubernetes: the oldest that all fields are stable in, and later ones."""
HADOLINT = Path(sys.executable).with_name("hadolint")


def objects(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a manifest."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


EVERY = [
    pytest.param(found, id=f"{path.stem}-{found['kind']}")
    for path in MANIFESTS
    for found in objects(path)
]
JOB = objects(ROOT / "docs" / "kubernetes" / "job.yaml")[0]


def pods() -> Iterator[dict[str, Any]]:
    """Yield the pod of each manifest that has one."""
    for path in MANIFESTS:
        for found in objects(path):
            if "template" in found["spec"]:
                yield found["spec"]["template"]["spec"]


# -------------------------------------------------------------------------------- manifests


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", EVERY)
def test_each_manifest_is_what_kubernetes_takes(manifest: dict[str, Any], version: str) -> None:
    """Every object passes the schema of Kubernetes, which here knows no field but its own."""
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("path", [("spec", "backofLimit"), ("spec", "template", "specs")])
def test_the_validator_bites(path: tuple[str, ...]) -> None:
    """A field that is misspelled is refused, so passing means something."""
    wrong = copy.deepcopy(JOB)
    place: Any = wrong
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = 1

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_no_pod_is_more_than_it_has_to_be() -> None:
    """Every pod runs as nobody, writes to its volumes alone, and may not become more."""
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["image"] == f"syncshift:{runner.__version__}"


def test_the_key_is_a_file_that_others_cannot_read() -> None:
    """The signing key is a file of mode 0400; no secret stands in a manifest itself."""
    for pod in pods():
        (key,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
        variables = {v["name"]: v for c in pod["containers"] for v in c["env"]}

        assert key["defaultMode"] == 0o400
        assert variables["PARAGON_SIGNING_KEY_FILE"]["value"].endswith(key["items"][0]["path"])
        assert "PARAGON_SIGNING_KEY" not in variables
        for name in {"SYNCSHIFT_DSN", "PARAGON_PROJECT_ID"} & set(variables):
            assert "value" not in variables[name]


def test_a_pod_has_the_time_that_a_run_takes_to_end() -> None:
    """The grace period is longer than --drain, and leaves time for the result files."""
    assert JOB["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= (
        3 * Settings().drain_s
    )


def test_what_needs_a_person_fails_the_job() -> None:
    """Exit codes that another pod would end with again fail the Job; a signal never does."""
    (fails, ignores) = JOB["spec"]["podFailurePolicy"]["rules"]
    codes = fails["onExitCodes"]["values"]

    assert codes == [1, 2, 3, 4, 5]
    assert all(code < SIGNALED for code in codes)
    assert ignores["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert JOB["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_probes_ask_where_metrics_are() -> None:
    """Both probes of the Job ask for the metrics, at the port that the command is given."""
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]

    assert f"--metrics-port {port['containerPort']} " in container["args"][0]
    for name in ("startupProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": PATH, "port": port["name"]}
    assert "readinessProbe" not in container


def test_the_jobs_script_begins_applies_and_goes_on(tmp_path: Path) -> None:
    """The script of the Job runs what is new, applies what was planned, resumes what was begun."""
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    with Stage(tmp_path) as stage:
        script = (
            container["args"][0]
            .replace("/runs", str(stage.runs))
            .replace("syncshift ", f"{sys.executable} -m runner ")
            .replace("--metrics-port 9464 --metrics-host 0.0.0.0", "--metrics-port 0")
            .replace(" --quiet", " --json")
        )

        def pod(run: str) -> subprocess.CompletedProcess[str]:
            given = {"RUN": run, "JOB": "migrate-credentials", "INPUT": str(source)}
            return subprocess.run(
                [*container["command"], script],
                env={**stage.environment, **given},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )

        source = stage.moves(8)
        stage.run("plan", "migrate-credentials", source, "--run-id", "planned")
        ended = [pod("planned"), pod("planned"), pod("new"), pod("new")]
        verdicts = [json.loads(each.stdout)["counts"] for each in ended]

        assert [each.returncode for each in ended] == [0, 0, 0, 0]
        assert [counts["updated"] for counts in verdicts] == [8, 8, 0, 0]
        assert [counts["unchanged"] for counts in verdicts] == [0, 0, 8, 8]
        assert stage.patches() == 8
        assert stage.manifest("planned")["applied"] is not None


# ---------------------------------------------------------------------------------- the image


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    """Lint a Containerfile."""
    return subprocess.run(
        [HADOLINT, "-"], input=text, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_containerfile_is_clean() -> None:
    """hadolint finds nothing, and nothing is silenced."""
    said = hadolint(CONTAINERFILE)

    assert (said.returncode, said.stdout) == (0, "")
    assert "hadolint ignore" not in CONTAINERFILE


def test_the_linter_bites() -> None:
    """A step in the wrong way is found, so finding nothing means something."""
    assert "DL3003" in hadolint(CONTAINERFILE + "RUN cd /tmp && true\n").stdout


def instructions(word: str) -> list[str]:
    """Return what stands behind each *word* of the Containerfile, in one line."""
    joined = re.sub(r"\\\n\s*", "", CONTAINERFILE)
    return [
        line.removeprefix(f"{word} ") for line in joined.splitlines() if line.startswith(f"{word} ")
    ]


def test_the_image_runs_as_a_number() -> None:
    """The image runs as a user of its own, told by number, and as the one that the pods name."""
    assert instructions("USER") == ["10001:10001"]
    assert {pod["securityContext"]["runAsUser"] for pod in pods()} == {10001}


def allowed() -> list[str]:
    """Return the files that the ignore file lets into the build, as paths from the root."""
    lines = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    kept_out = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    return [
        name
        for name in (f.relative_to(ROOT).as_posix() for f in kept_files())
        if name.split("/")[0] in let_in
        and not any(fnmatch(part, rule) for part in name.split("/") for rule in kept_out)
    ]


def copied() -> set[str]:
    """Return what the Containerfile copies out of the checkout."""
    whole = (line for line in instructions("COPY") if not line.startswith("--from"))
    return {source for line in whole for source in line.split()[:-1]}


def test_the_build_sees_what_it_copies_and_no_more() -> None:
    """What is copied is let in, what is let in is copied, and no key is either."""
    tops = {name.split("/")[0] for name in allowed()}

    assert tops == {source.split("/")[0] for source in copied()}
    for source in copied():
        assert (ROOT / source).exists()
        assert any(name == source or name.startswith(f"{source}/") for name in allowed())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder that holds what the build copies."""
    place = tmp_path / "src"
    for name in allowed():
        if any(name == source or name.startswith(f"{source}/") for source in copied()):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    return place


def test_what_is_copied_makes_the_wheel(checkout: Path, tmp_path: Path) -> None:
    """Out of the files that the build sees comes a wheel that runs, sample inputs included."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=checkout,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", wheel],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    for name in ("runner/cli/__init__.py", "jobs/update_syncs.py", "runner/sample_inputs/"):
        assert name in listed


@pytest.mark.long
def test_the_steps_of_the_image_can_be_taken(checkout: Path, tmp_path: Path) -> None:
    """Every RUN step of the build does its work here, with its paths in a folder; it needs a net.

    What comes of it carries a run, with metrics, as the image would.
    """
    venv.EnvBuilder(with_pip=False).create(tmp_path / "base")
    path = f"{tmp_path / 'base' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    steps = instructions("RUN")
    assert len(steps) == 3
    for step in steps[:2]:
        moved = re.sub(r"(?<![\w.-])/(build|app|dist)\b", rf"{tmp_path}/\1", step)
        subprocess.run(
            ["/bin/sh", "-ec", moved],
            cwd=checkout,
            check=True,
            env={**os.environ, "PATH": path},
            timeout=600,
        )
    with Stage(tmp_path) as stage:
        words = ["run", "migrate-credentials", stage.moves(5), "--yes", "--metrics-port", "0"]
        words += ["--traces", "100%"]
        said = subprocess.run(
            ["/bin/sh", "-c", shlex.join([f"{tmp_path}/app/bin/syncshift", *map(str, words)])],
            cwd=tmp_path,
            env={
                **{name: v for name, v in stage.environment.items() if name != "PYTHONPATH"},
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

        assert said.returncode == 0, said.stderr
        assert "metrics  http://127.0.0.1:" in said.stderr
        assert stage.moved() == 5
