"""MLflow's pages for other machines: after a login, whose password stands in one file of the store alone."""

import base64
import configparser
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from free_ports import free_ports
from servers import START_SECONDS
from test_track import bring, three

from vimss.errors import PlaceError
from vimss.storage import Store
from vimss.track import Tracking, serve_ui, ui
from vimss.track.login import PASSWORD_FILE, make_login, web_address

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is tested
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"


@dataclass(frozen=True)
class Pages:
    """The pages that `vimss ui` serves to other machines, and what it has printed."""

    tracking: Tracking
    port: int
    printed: str

    @property
    def password(self) -> str:
        return (self.tracking.folder / PASSWORD_FILE).read_text(encoding="utf-8").strip()

    def status(self, path: str, password: str = "", host: str = "127.0.0.1", origin: str = "", **headers: str) -> int:
        """HTTP's code for a request, a change where it comes from a page."""
        body = json.dumps({"max_results": 1}).encode() if origin else None
        request = urllib.request.Request(f"http://{host}:{self.port}{path}", body, headers)
        if password:
            request.add_header("Authorization", f"Basic {base64.b64encode(f'admin:{password}'.encode()).decode()}")
        if origin:
            request.add_header("Origin", origin)
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our server
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Pages]:
    tracking = Tracking(Store(tmp_path_factory.mktemp("login") / "store"))
    shutil.copytree(empty_database, tracking.folder)
    (port,) = free_ports(1)
    patient = f"import vimss.track.ui as ui; ui.START_SECONDS = {START_SECONDS}; from vimss.cli import main; main()"
    command = [sys.executable, "-c", patient, "ui", "--host", EVERYWHERE, "--port", port]
    # As a user may have it who runs a server of their own.
    settings = {"VIMSS_STORE": str(tracking.store.root), "MLFLOW_AUTH_ADMIN_PASSWORD": "of another server"}
    with subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        while "stop with" not in printed:
            line = process.stdout.readline()
            assert line, (tracking.folder / "ui.log").read_text()
            printed += line
        yield Pages(tracking, int(port), printed)
        process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        *("/", "/version", SEARCH, "/get-artifact?path=a&run_uuid=b", "/graphql", "/signup"),
        *("/ajax-api/3.0/mlflow/assistant/config", "/api/2.0/mlflow-artifacts/artifacts", "/v1/traces"),
    ],
)
def test_nothing_is_answered_without_the_password(pages: Pages, path: str) -> None:
    assert pages.status(path) == pages.status(path, "wrong") == pages.status(path, "of another server") == 401


@pytest.mark.slow
def test_the_password_opens_the_pages_by_every_name_of_this_machine(pages: Pages) -> None:
    assert pages.status("/", pages.password) == 200
    for name in ("127.0.0.1", "localhost", socket.gethostname()):
        called = f"{name}:{pages.port}"
        assert pages.status(SEARCH, pages.password, origin=f"http://{called}", Host=called) == 200
    for found in psutil.net_if_addrs().values():
        for own in (each.address for each in found if each.family == socket.AF_INET):
            assert pages.status(SEARCH, pages.password, own, f"http://{own}:{pages.port}") == 200


@pytest.mark.slow
def test_a_page_of_another_site_changes_nothing_with_the_login_that_a_browser_remembers(pages: Pages) -> None:
    assert pages.status(SEARCH, pages.password, origin="http://another.example") == 403
    assert pages.status("/", pages.password, Host="another.example") == 403


@pytest.mark.slow
def test_where_the_password_is_gets_printed_and_the_password_nowhere(pages: Pages) -> None:
    file = pages.tracking.folder / PASSWORD_FILE
    assert f"http://{socket.gethostname()}:{pages.port}/#/experiments" in pages.printed
    assert f"log in as admin with the password in {file}\n" in pages.printed
    assert "unencrypted" in pages.printed and f"`ssh -L {pages.port}:127.0.0.1:{pages.port}`" in pages.printed
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert any("basic-auth" in command for command in commands)
    log = (pages.tracking.folder / "ui.log").read_text(encoding="utf-8")
    assert "admin" in log and all(pages.password not in text for text in (pages.printed, log, *commands))


@pytest.mark.slow
def test_all_files_of_the_login_are_the_owners_alone(pages: Pages) -> None:
    found = {path.name: path.stat().st_mode & 0o777 for path in pages.tracking.folder.glob("ui-*")}
    assert found == {PASSWORD_FILE: 0o600, "ui-login.ini": 0o600, "ui-login.db": 0o600}
    assert len(pages.password) >= 24


@pytest.mark.slow
def test_runs_are_written_while_the_pages_are_served(pages: Pages, tmp_path: Path, small_manifest) -> None:
    synced = bring(pages.tracking, three(tmp_path / "quickstart-3f9c2a1b07"), small_manifest)
    assert pages.status(f"/ajax-api/2.0/mlflow/runs/get?run_id={synced.run_ids['search', 'a1']}", pages.password) == 200


@pytest.mark.slow
@pytest.mark.parametrize("host", ["192.0.2.1", "no name"])
def test_an_address_of_another_machine_is_refused(tmp_path: Path, host: str) -> None:
    with (
        pytest.raises(PlaceError, match=rf"--host must be an address of this machine; got {host}, .*write --host 0"),
        serve_ui(Tracking(Store(tmp_path)), int(free_ports(1)[0]), host=host),
    ):
        pass


@pytest.mark.rare
@pytest.mark.parametrize("host", ["::", "::1"])
def test_pages_are_served_by_ipv6(tmp_path: Path, empty_database: Path, host: str, monkeypatch) -> None:
    own = {each.address for found in psutil.net_if_addrs().values() for each in found}
    if "::1" not in own:
        pytest.skip("this machine has no IPv6")
    monkeypatch.setattr(ui, "START_SECONDS", START_SECONDS)
    tracking = Tracking(Store(tmp_path / "store"))
    shutil.copytree(empty_database, tracking.folder)
    (port,) = map(int, free_ports(1))
    with serve_ui(tracking, port, host=host) as address:
        pages = Pages(tracking, port, "")
        assert address.removeprefix("http://[").removesuffix(f"]:{port}") in (own if host == "::" else {"::1"})
        for name in {"[::1]", address.removeprefix("http://").rpartition(":")[0]}:
            assert (pages.status("/", host=name), pages.status("/", pages.password, name)) == (401, 200)
            assert pages.status(SEARCH, pages.password, name, f"http://{name}:{port}") == 200


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000"),
        ("::1", "http://[::1]:5000"),
        (EVERYWHERE, f"http://{socket.gethostname()}:5000"),
    ],
)
def test_the_address_of_pages_is_one_that_a_browser_opens(host: str, address: str) -> None:
    assert web_address(host, 5000) == address


def settings_of(folder: Path) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(make_login(folder))
    return dict(parser["mlflow"])


def test_the_password_stays_until_its_file_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "100 %"
    folder.mkdir()
    first = settings_of(folder)
    assert first["admin_password"] == (folder / PASSWORD_FILE).read_text(encoding="utf-8").strip()
    with sqlite3.connect(folder / "ui-login.db") as database:
        database.execute("CREATE TABLE users (username TEXT)")
        database.execute("INSERT INTO users VALUES ('admin')")
    assert settings_of(folder) == first and (folder / "ui-login.db").stat().st_size
    (folder / PASSWORD_FILE).unlink()
    again = settings_of(folder)
    assert again["admin_password"] != first["admin_password"] and again["database_uri"].endswith("/100 %25/ui-login.db")
    # The old one would be good for the user who is there.
    assert not (folder / "ui-login.db").stat().st_size


def test_a_login_that_is_not_installed_is_asked_for(vimss_says, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "flask_wtf", None)
    code, out, err = vimss_says("ui", "--host", EVERYWHERE)
    assert (code, out) == (2, "")
    assert "--host needs the login of MLflow's pages; got " in err and "run `pip install 'vimss[login]'`" in err
