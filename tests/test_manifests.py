"""What describes places that cannot run here: every file is checked offline, and mistakes are caught by name."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from kubernetes_rules import KUBERNETES, SCHEMA_VARIABLE
from manifest_files import PLATFORM, our_tag, pinned, read_manifest
from manifests import commands, manifest_errors
from test_readme import USAGE_ERROR, parse
from yamllint import linter
from yamllint.config import YamlLintConfig

MANIFESTS = sorted(path for path in PLATFORM.rglob("*.yaml") if path.name != "runtime.yaml")
SCRIPTS = [
    *sorted(PLATFORM.glob("*/make-secrets")),
    Path("platform/local/run"),
    Path("platform/cluster/head"),
    Path(".ci/run"),
]
LINT = """
extends: default
rules:
  braces: {max-spaces-inside: 0}
  comments: {min-spaces-from-content: 1}
  document-start: disable
  line-length: {max: 130}
  truthy: {check-keys: false}
"""

NEEDS_SCHEMA = pytest.mark.skipif(
    SCHEMA_VARIABLE not in os.environ,
    reason=f"{SCHEMA_VARIABLE} must name the JSON schema in the CRD of KubeRay v1.7's RayJob, which lies in no package",
)


@pytest.mark.parametrize("path", MANIFESTS, ids=str)
def test_every_manifest_is_what_reads_it_expects(path):
    assert manifest_errors(path, read_manifest(path)) == []


@NEEDS_SCHEMA
def test_the_schema_of_kuberay_is_that_of_a_rayjob():
    assert "backoffLimit" in Path(os.environ[SCHEMA_VARIABLE]).read_text(encoding="utf-8")


def test_the_files_of_every_place_are_checked():
    assert {path.parent.name for path in MANIFESTS} == {"cluster", "compose", "kubernetes"} and len(MANIFESTS) >= 9


@pytest.mark.parametrize("path", sorted(PLATFORM.rglob("*.yaml")), ids=str)
def test_every_yaml_is_tidy(path):
    problems = linter.run(path.read_text(encoding="utf-8"), YamlLintConfig(LINT))
    assert [str(problem) for problem in problems] == []


def run_tool(name: str, *arguments: str) -> str:
    """The output of a linter that came with the environment; empty where it found nothing."""
    program = Path(sys.executable).with_name(name)
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False).stdout


def test_the_dockerfile_has_no_known_mistake():
    assert run_tool("hadolint", "platform/Dockerfile") == ""


def test_no_script_has_a_known_mistake():
    assert all(path.exists() for path in SCRIPTS) and run_tool("shellcheck", *map(str, SCRIPTS)) == ""


def test_one_version_of_ray_is_in_the_image_and_in_every_manifest():
    """Their tags are checked with each manifest."""
    (wanted,) = re.findall(r'"ray\[.*\]>=([\d.]+)"', Path("pyproject.toml").read_text(encoding="utf-8"))
    assert pinned("ray").startswith(f"{wanted}.")
    texts = {path: path.read_text(encoding="utf-8") for path in [*MANIFESTS, PLATFORM / "Dockerfile"]}
    tags = {path: set(re.findall(r"\bvimss:([\w.-]+)", text)) for path, text in texts.items()}
    assert {path: found for path, found in tags.items() if found - {our_tag()}} == {}
    assert sum(map(bool, tags.values())) == 5


@pytest.mark.parametrize(
    ("tool", "name", "text", "message"),
    [
        ("hadolint", "Dockerfile", "FROM python:latest\n", "DL3007"),
        ("hadolint", "Dockerfile", "FROM python:3.11-slim\nCOPPY a b\n", "unexpected 'C'"),
        ("shellcheck", "start", "#!/usr/bin/env bash\nrm -rf $1/secrets\n", "SC2086"),
    ],
)
def test_a_mistake_is_caught_by_a_linter(tmp_path, tool, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert message in run_tool(tool, str(tmp_path / name))


def test_a_repeated_key_and_an_odd_indentation_are_caught():
    found = linter.run("services:\n  head: {}\n  head: {}\n   tail: 1\n", YamlLintConfig(LINT))
    assert {"key-duplicates", None} <= {problem.rule for problem in found}


# Commands


def vimss_commands(text: str) -> list[tuple[str, ...]]:
    """The arguments of every `vimss` in commands and comments; not where it is the name of something."""
    found = re.findall(r"(?<![\w/:.=-])(?<!namespace )(?<!COPY )vimss ((?:[a-z]+)\b[^\n\"'`#&|;]*)", text)
    return [tuple(shlex.split(arguments)) for arguments in found]


@pytest.mark.parametrize("path", [*MANIFESTS, PLATFORM / "Dockerfile", *SCRIPTS[:-1]], ids=str)
def test_every_command_of_vimss_parses(path):
    for arguments in vimss_commands(path.read_text(encoding="utf-8").replace("\\\n", " ")):
        parse(arguments)


def test_commands_of_vimss_are_found_and_a_wrong_one_is_noticed():
    found = {path: vimss_commands(path.read_text(encoding="utf-8")) for path in MANIFESTS}
    assert (
        sum(map(bool, found.values())) == 4
        and ("quickstart", "--on", "kubernetes") in found[KUBERNETES / "search.yaml"]
    )
    (wrong,) = vimss_commands("entrypoint: vimss quickstart --at kubernetes\n")
    with pytest.raises(USAGE_ERROR):
        parse(wrong)


def programs() -> dict[str, click.Command]:
    from mlflow.cli import cli as mlflow
    from ray.scripts.scripts import cli as ray

    models = mlflow.commands["models"]
    return {
        "ray start": ray.commands["start"],
        "mlflow server": mlflow.commands["server"],
        "mlflow models serve": models.commands["serve"],
    }


@pytest.mark.slow  # Ray's command line imports Ray Serve
def test_every_command_of_ray_and_mlflow_parses():
    called = dict.fromkeys(programs(), 0)
    for path in MANIFESTS:
        for name, command in programs().items():
            for arguments in commands(read_manifest(path), name):
                command.make_context(name, arguments)
                called[name] += 1
    assert called == {"ray start": 7, "mlflow server": 1, "mlflow models serve": 1}
    with pytest.raises(click.NoSuchOption, match="--adress"):
        programs()["ray start"].make_context("start", ["--adress=head:6379"])


# Secrets


def test_compose_gets_secrets_once_which_git_and_the_image_leave_out(tmp_path):
    shutil.copytree(PLATFORM / "compose", tmp_path / "compose", ignore=shutil.ignore_patterns("secrets"))
    written = []
    for _ in range(2):
        subprocess.run(["bash", str(tmp_path / "compose/make-secrets")], check=True)
        folder = tmp_path / "compose/secrets"
        written.append({path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()})
    assert written[0] == written[1] and all(written[0].values())
    files = {
        Path(secret["file"]).name for secret in read_manifest(PLATFORM / "compose/compose.yaml")["secrets"].values()
    }
    assert files == set(written[0]) and folder.stat().st_mode & 0o777 == 0o700
    (identity,) = json.loads(written[0]["objects.json"])["identities"]
    keys = configparser.ConfigParser()
    keys.read_string(written[0]["aws_credentials"])
    assert list(identity["credentials"][0].values()) == list(keys["default"].values())
    for ignored in (Path(".gitignore"), PLATFORM / "Dockerfile.dockerignore"):
        assert "platform/compose/secrets" in ignored.read_text(encoding="utf-8")


def test_kubernetes_gets_secrets_once_and_none_is_an_argument(tmp_path):
    kubectl = """#!/usr/bin/env bash
        case $* in
          *get*vimss-postgres*) exit 0 ;;
          *get*) exit 1 ;;
        esac
        echo "called $*"
        for argument in "$@"; do case $argument in --from-*=*) cat "${argument##*=}"; echo ;; esac; done
    """
    (tmp_path / "kubectl").write_text(kubectl, encoding="utf-8")
    (tmp_path / "kubectl").chmod(0o755)
    keys = {"AWS_ACCESS_KEY_ID": "shown-id", "AWS_SECRET_ACCESS_KEY": "shown-key"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = ["bash", str(KUBERNETES / "make-secrets")]
    done = subprocess.run(script, env={"PATH": path, **keys}, capture_output=True, text=True, check=True)
    assert "vimss-postgres exists" in done.stdout and "AWS_SECRET_ACCESS_KEY=shown-key" in done.stdout
    calls = [line for line in done.stdout.splitlines() if line.startswith("called ")]
    assert len(calls) == 2 and not any("shown" in call for call in calls)
    assert re.search(r"^[0-9a-f]{64}$", done.stdout, re.MULTILINE)
    without = subprocess.run(script, env={"PATH": path}, capture_output=True, text=True, check=False)
    assert without.returncode == 1 and "AWS_ACCESS_KEY_ID: must be set" in without.stderr


def test_no_committed_file_of_a_place_holds_a_long_random_word():
    listed = subprocess.run(["git", "ls-files", "platform"], capture_output=True, text=True, check=True).stdout.split()
    texts = {name: Path(name).read_text(encoding="utf-8") for name in listed}
    random = r"\b(?=\w*\d)(?=\w*[A-Za-z])[0-9A-Za-z]{20,}\b"
    assert (
        len(texts) >= 15 and {name: found for name, text in texts.items() if (found := re.findall(random, text))} == {}
    )
    assert re.search(random, "token: 2419126585f1e0b3e54c5e253775e67c")
