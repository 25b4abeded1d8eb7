import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import vimss

TOOLS = ("awk", "bash", "cat", "cksum", "dirname", "du", "env", "ls", "mkdir", "rm", "rmdir", "tail", "tee")
"""What the scripts may use of a machine besides Python: a PATH in these tests holds nothing else."""

START_SECONDS = 2.0

PYTHON = """#!/usr/bin/env bash
# Stands for a system Python: makes environments whose pip installs nothing.
case "$*" in
  *version_info*) exit "${OLD_PYTHON:-0}" ;;
  *'import venv'*) exit "${NO_VENV:-0}" ;;
  --version) echo Python 3.11.0 ;;
  '-m venv'*)
    folder=${@: -1}
    case $* in *--clear*) rm -rf "$folder" ;; esac
    mkdir -p "$folder/bin"
    echo made >"$folder/pyvenv.cfg"
    cat "$PIP" >"$folder/bin/python"
    chmod +x "$folder/bin/python"
    echo "venv $*" >>"$CALLS" ;;
esac
"""

PIP = """#!/usr/bin/env bash
# Stands for the Python of an environment: only its pip is ever called.
case "$*" in
  *--version*) echo pip 26.0 ;;
  *install*)
    printf '%s\\n' "pip in $TMPDIR" "$@" >>"$CALLS"
    echo 'Collecting torch'
    echo 'Installing collected packages: torch'
    if [ -n "${PIP_FAILS:-}" ]; then echo "ERROR: no network today"; exit 1; fi
    printf '#!/usr/bin/env bash\\necho "vimss $* in $VIRTUAL_ENV"\\n' >"${0%/python}/vimss"
    chmod +x "${0%/python}/vimss" ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A checkout with nothing but the scripts, on a machine with nothing but the tools, at a path with a space."""

    root: Path
    tools: Path
    calls: Path

    @property
    def environment(self) -> Path:
        return self.root / ".venv"

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        script = str(self.root / "platform" / "local" / "run")
        return subprocess.run(
            ["bash", script, *command],
            env={"PATH": str(self.tools), "CALLS": str(self.calls), "PIP": str(self.root / "pip"), **settings},
            cwd=self.root.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    def set_free_disk(self, gigabytes: int) -> None:
        """The disk of this machine, which may be nearly full, must not decide what the tests say."""
        lines = ("Filesystem 1024-blocks Used Available Capacity Mounted", f"/dev/a 9 9 {gigabytes << 20} 9% /")
        shown = "\n".join(f"echo '{line}'" for line in lines)
        make_program(self.tools / "df", f"#!/usr/bin/env bash\n{shown}\n")

    def called(self) -> str:
        return self.calls.read_text(encoding="utf-8") if self.calls.exists() else ""


def make_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    root, tools = tmp_path / "my music" / "vimss", tmp_path / "bin"
    shutil.copytree("platform", root / "platform")
    (root / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    tools.mkdir()
    for tool in (*TOOLS, "chmod"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    make_program(tools / "python3", PYTHON)
    (root / "pip").write_text(PIP, encoding="utf-8")
    checkout = Checkout(root, tools, tmp_path / "calls")
    checkout.set_free_disk(100)
    return checkout


def test_the_first_call_installs_the_project_as_tested_and_runs_the_command_in_it(checkout):
    done = checkout.run("vimss", "quickstart", "--seed", "1")
    assert (done.returncode, done.stdout) == (0, f"vimss quickstart --seed 1 in {checkout.environment}\n"), done.stderr
    assert "about 7.0 GB" in done.stderr and "1 packages found; installing them" in done.stderr
    arguments = checkout.called().splitlines()
    assert arguments[arguments.index("--constraint") + 1] == f"{checkout.root}/platform/local/constraints.txt"
    assert arguments[arguments.index("--editable") + 1] == f"{checkout.root}[dashboard,dev,login,networks]"


def test_the_second_call_starts_at_once_and_finds_the_environment_first(checkout):
    checkout.run("vimss")
    make_program(checkout.tools / "vimss", "#!/usr/bin/env bash\necho the wrong one\n")
    before, begin = checkout.called(), time.monotonic()
    done = checkout.run("vimss", "doctor")
    assert time.monotonic() - begin < START_SECONDS
    assert (done.stdout, done.stderr) == (f"vimss doctor in {checkout.environment}\n", "")
    assert checkout.called() == before


@pytest.mark.parametrize("file", ["pyproject.toml", "platform/local/constraints.txt"])
def test_a_changed_list_of_packages_is_installed(checkout, file):
    checkout.run("vimss")
    with (checkout.root / file).open("a", encoding="utf-8") as changed:
        changed.write("# changed\n")
    assert "Updating" in checkout.run("vimss").stderr
    assert (checkout.called().count("pip in"), checkout.called().count("venv --clear")) == (2, 1)


def test_a_moved_checkout_gets_a_new_environment(checkout):
    checkout.run("vimss")
    moved = Checkout(checkout.root.with_name("moved"), checkout.tools, checkout.calls)
    checkout.root.rename(moved.root)
    assert moved.run("vimss").stdout == f"vimss  in {moved.environment}\n"
    assert f"venv -m venv --clear {moved.environment}" in moved.called()


def test_the_environment_may_stand_elsewhere(checkout, tmp_path):
    done = checkout.run("vimss", VIMSS_VENV="elsewhere")
    assert done.stdout == f"vimss  in {checkout.root.parent}/elsewhere\n"
    assert not checkout.environment.exists()


def test_a_folder_that_holds_something_else_is_left_alone(checkout):
    done = checkout.run("vimss", VIMSS_VENV=str(checkout.root))
    assert done.returncode == 1
    assert f"must be a new folder; got {checkout.root}, which holds something else. To fix:" in done.stderr
    assert (checkout.root / "pyproject.toml").exists()


def test_a_call_without_a_command_says_what_to_write(checkout):
    done = checkout.run()
    assert done.returncode == 1 and "which command? For example: platform/local/run vimss quickstart" in done.stderr
    assert not checkout.environment.exists()


def test_ray_says_from_10_mb_how_much_it_sends_with_a_job(checkout):
    checkout.run("vimss")
    shown = ("bash", "-c", "echo $RAY_PACKAGE_SIZE_WARNING_MIB")
    assert (checkout.run(*shown).stdout, checkout.run(*shown, RAY_PACKAGE_SIZE_WARNING_MIB="50").stdout) == (
        "10\n",
        "50\n",
    )


def test_a_command_that_fails_gives_its_exit_code(checkout):
    checkout.run("vimss")
    assert checkout.run("bash", "-c", "exit 7").returncode == 7


def test_python_without_venv_is_told_before_anything_is_made(checkout):
    done = checkout.run("vimss", NO_VENV="1")
    assert done.returncode == 1
    assert "Python must have venv and pip; got Python 3.11.0, which lacks them. To fix: on Debian" in done.stderr
    assert not checkout.environment.exists()


@pytest.mark.parametrize("found", ["Python 3.11.0", "none"])
def test_an_old_python_or_none_is_told(checkout, found):
    if found == "none":
        (checkout.tools / "python3").unlink()
    done = checkout.run("vimss", OLD_PYTHON="1")
    assert done.returncode == 1 and f"needs Python 3.11 or newer; got {found}. To fix: install" in done.stderr


def test_too_small_a_disk_is_told_before_the_download(checkout):
    checkout.set_free_disk(4)
    done = checkout.run("vimss")
    assert done.returncode == 1 and not checkout.environment.exists()
    assert "needs 11 GB while it is made" in done.stderr and "has 4 GB free. To fix: free some space" in done.stderr


def test_a_failed_installation_shows_why_names_its_log_and_is_tried_again(checkout):
    done = checkout.run("vimss", PIP_FAILS="1")
    log = checkout.environment / "install.log"
    assert done.returncode == 1 and "ERROR: no network today" in done.stderr and str(log) in done.stderr
    assert "ERROR: no network today" in log.read_text(encoding="utf-8")
    assert checkout.run("vimss").returncode == 0 and checkout.called().count("pip in") == 2


def test_half_an_environment_is_made_anew(checkout):
    checkout.environment.mkdir()
    (checkout.environment / "pyvenv.cfg").touch()
    assert checkout.run("vimss").returncode == 0
    assert "venv -m venv --clear" in checkout.called()


def test_a_disk_check_counts_what_an_interrupted_installation_has_written(checkout):
    checkout.run("vimss", PIP_FAILS="1")
    checkout.set_free_disk(4)
    (checkout.tools / "du").unlink()
    make_program(checkout.tools / "du", "#!/usr/bin/env bash\necho 7340032\n")
    assert checkout.run("vimss").returncode == 0


def test_packages_are_unpacked_on_the_disk_that_was_checked(checkout):
    checkout.run("vimss")
    unpacked = checkout.environment / "tmp"
    assert f"pip in {unpacked}\n" in checkout.called() and not unpacked.exists()


def test_cdpath_does_not_lead_elsewhere(checkout):
    (checkout.root.parent / "platform" / "local").mkdir(parents=True)
    command = f'cd "{checkout.root}" && CDPATH="{checkout.root.parent}" bash platform/local/run vimss'
    environment = {"PATH": str(checkout.tools), "CALLS": str(checkout.calls), "PIP": str(checkout.root / "pip")}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"vimss  in {checkout.environment}\n"


def start_head(checkout: Checkout, home: Path, settings: Mapping[str, str], *arguments: str) -> list[str]:
    """What the script gives to `ray`: a line per call, the token mode first."""
    ray = """#!/usr/bin/env bash
        printf '%s %s\\n' "$RAY_AUTH_MODE" "$*" >>"$CALLS"
        if [ "$1" = get-auth-token ]; then mkdir -p "$HOME/.ray"; echo secret | tee "$HOME/.ray/auth_token"; fi
    """
    make_program(checkout.tools / "ray", ray)
    done = subprocess.run(
        ["bash", str(checkout.root / "platform/cluster/head"), *arguments],
        env={"PATH": str(checkout.tools), "CALLS": str(checkout.calls), "HOME": str(home), **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "secret" not in done.stdout + done.stderr
    return [*checkout.called().splitlines(), *done.stderr.splitlines()]


def test_a_head_makes_its_token_before_it_listens_on_loopback(checkout, tmp_path):
    first, second = start_head(checkout, tmp_path / "home", {}, "--num-cpus", "2")
    assert first == "token get-auth-token --generate"
    assert second.startswith("token start --head --node-ip-address 127.0.0.1 --dashboard-host 127.0.0.1")
    assert json.loads(second.partition("--resources ")[2].partition(" --num-cpus 2")[0]) == {"trial_slot": 1000}
    assert (tmp_path / "home/.ray/auth_token").stat().st_mode & 0o777 == 0o600


def test_a_head_keeps_the_token_that_it_is_given(checkout, tmp_path):
    (call,) = start_head(checkout, tmp_path, {"RAY_AUTH_TOKEN": "mine", "VIMSS_HEAD_ADDRESS": "10.0.0.1"})
    assert call.startswith("token start --head --node-ip-address 10.0.0.1 --dashboard-host 127.0.0.1")


def test_a_token_file_that_does_not_exist_stops_the_head(checkout, tmp_path):
    (message,) = start_head(checkout, tmp_path, {"RAY_AUTH_TOKEN_PATH": "/nowhere"})
    assert "RAY_AUTH_TOKEN_PATH must name a file with a token; got /nowhere. To fix: write one" in message


def test_the_image_installs_the_tested_set_and_is_not_root():
    text = Path("platform/Dockerfile").read_text(encoding="utf-8")
    instructions = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert all(line.split()[1].startswith("python:3.11-slim") for line in instructions if line.startswith("FROM"))
    assert "USER 1000" in instructions and "ENTRYPOINT" not in " ".join(instructions)
    installs = [line for line in instructions if "pip install" in line]
    assert installs and all("--constraint /constraints.txt" in line and "[dev" not in line for line in installs)
    assert any("[networks,places]" in line for line in installs)


def test_the_image_copies_only_what_exists():
    text = Path("platform/Dockerfile").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if line.startswith("COPY") and "--from" not in line]
    sources = [word for words in lines for word in words[1:-1] if not word.startswith("--")]
    assert sources and all(Path(source).exists() for source in sources)


def test_constraints_pin_every_package_exactly():
    lines = Path("platform/local/constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines and all(line.count("==") == 1 for line in lines)


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(tmp_path):
    """Built with the build tool of pyproject.toml, which stands in the environment: tests download nothing."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    build = [*pip, "--wheel-dir", str(tmp_path), "."]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"vimss", f"vimss-{vimss.__version__}.dist-info"}
    modules = {str(path) for path in Path("vimss").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in names if name.startswith("vimss/")} == modules and "vimss/py.typed" in names


MACHINES = r"(?<![\w.])/(?:root|home|Users|work|mnt|opt)/(?!vimss\b)[\w.]+|(?:pypi|pythonhosted|conda\.anaconda)\.org"
"""Paths of a machine, but for the user in our image; and hosts that packages come from."""


def test_committed_files_name_no_folder_of_a_machine_and_no_host_of_packages():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
    kept = [Path(name) for name in listed if name and Path(name).exists()]
    # Of files that are not text, such as weights, what can be read.
    texts = {str(path): path.read_text(encoding="utf-8", errors="replace") for path in kept}
    found = {name: re.findall(MACHINES, text) for name, text in texts.items()}
    assert len(texts) > 50 and {name: hits for name, hits in found.items() if hits} == {}


@pytest.mark.parametrize("text", ["see /" + "root/x", "(/" + "home/me)", "https://py" + "pi.org/simple"])
def test_such_a_name_would_be_noticed(text):
    assert re.search(MACHINES, text)
