"""The login of MLflow's pages where other machines may open them: MLflow's own basic authentication, with one user.

    settings = make_login(tracking.folder)
    environment = login_environment(settings, "0.0.0.0", 5000)      # of a server with `--app-name basic-auth`
    (tracking.folder / PASSWORD_FILE).read_text()                   # of the user `admin`

The password is made once; it stands in files that their owner alone can read, and in no command, log or output. Where
its file is deleted, the next start makes another one.
"""

import fcntl
import os
import secrets
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil

from vimss.errors import ConfigError
from vimss.loopback import LOOPBACK
from vimss.runtime import sqlite_url
from vimss.storage import atomic_write, explain_os_errors

USER, PASSWORD_FILE = "admin", "ui-password"
"""Who logs in, and the file with the password, beside MLflow's database."""

EVERY_ADDRESS = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - what a user may ask for
"""Addresses to listen on that stand for all of a machine, of IPv4 or of IPv6, and by which it reaches itself then."""


def check_installed() -> None:
    """ConfigError where MLflow's authentication lacks the package that it needs."""
    try:
        import flask_wtf  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--host needs the login of MLflow's pages", got=str(error), fix="run `pip install 'vimss[login]'`"
        ) from error


def make_login(folder: Path) -> Path:
    """Write the settings of MLflow's authentication, and make password and database where they are missing.

    Returns the path of the settings.

    ConfigError where a package is missing, StorageError where the files cannot be written.
    """
    check_installed()
    settings, file, database = folder / "ui-login.ini", folder / PASSWORD_FILE, folder / "ui-login.db"
    with explain_os_errors(folder), (folder / "lock-login").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        password = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        # MLflow makes the user, from the settings, only in a database that does not have it yet.
        if not password or not _has_user(database):
            database.unlink(missing_ok=True)
            database.touch(mode=0o600)
        if not password:
            password = secrets.token_urlsafe(24)
            _write_private(file, f"{password}\n")
        entries = {
            "default_permission": "READ",
            "database_uri": sqlite_url(database),
            "admin_username": USER,
            "admin_password": password,
        }
        lines = [f"{name} = {value.replace('%', '%%')}" for name, value in entries.items()]
        _write_private(settings, "\n".join(["[mlflow]", *lines, ""]))
    return settings


def login_environment(settings: Path, host: str, port: int) -> dict[str, str]:
    """The environment of a server at a host that asks for the login. The user's own list of hosts wins."""
    names = sorted(_in_address(name) for name in _names(host))
    allowed = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*names, *(f"{name}:{port}" for name in names)]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names),
    }
    before_settings = ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD")  # MLflow would take them instead
    inherited = {name: value for name, value in os.environ.items() if name not in before_settings}
    return {
        **allowed,
        **inherited,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),  # signs its forms until it ends
    }


def web_address(host: str, port: int) -> str:
    """The address of pages served at a host; where that is every address of this machine, one for other machines.

    That is the machine's name, or, as names seldom lead to IPv6, an address of it.
    """
    if host == "::":
        host = min(_own_addresses(socket.AF_INET6) - {"::1"}, default="::1")
    return f"http://{_in_address(socket.gethostname() if host in EVERY_ADDRESS else host)}:{port}"


def _names(host: str) -> set[str]:
    """How browsers may call the server: MLflow answers no request, and takes no change, under any other name."""
    names = {host, LOOPBACK, "localhost", socket.gethostname(), socket.getfqdn()}
    return names | _own_addresses(socket.AF_INET, socket.AF_INET6) if host in EVERY_ADDRESS else names


def _own_addresses(*families: socket.AddressFamily) -> set[str]:
    """The addresses of this machine, without those of one cable alone (`fe80::1%eth0`), which no browser opens."""
    found = (each for addresses in psutil.net_if_addrs().values() for each in addresses)
    return {each.address for each in found if each.family in families and "%" not in each.address}


def _in_address(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _has_user(database: Path) -> bool:
    """Whether the database has the user, whom MLflow adds last: without, it was left by a server that was killed."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT 1 FROM users WHERE username = ?", (USER,)).fetchone()
    except sqlite3.Error:
        return False
    return found is not None


def _write_private(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(text, encoding="utf-8")
