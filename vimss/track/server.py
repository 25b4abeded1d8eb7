"""A tracking server before its use: whether MLflow answers there, and in a version that our own can talk to.

    check_server("http://mlflow:5000")

A server of another major version lacks what runs and models are written with, and would fail in the middle of a sync.
"""

import functools
import re
from urllib.parse import urlsplit

import mlflow
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from vimss.errors import PlaceError


@functools.lru_cache
def check_server(address: str) -> None:
    """Ask for the server's version; a server that is found right is not asked again by this process.

    An address without HTTP, such as that of a database, has nobody to ask.

    Raises:
        PlaceError: Another program answers, or an MLflow of another major version.
        MlflowException: Nothing answers.

    """
    if urlsplit(address).scheme not in {"http", "https"}:
        return
    answer = http_request(get_default_host_creds(address), "/version", "GET")
    found = " ".join(answer.text.split())
    version = re.match(r"(\d+)\.\d+", found)
    if answer.status_code != 200 or version is None:
        raise PlaceError(
            f"MLflow must answer at {address}",
            got=f"{found[:60]!r}, HTTP {answer.status_code}, for {address.rstrip('/')}/version",
            fix="correct tracking_uri, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD if it asks",
        )
    major = mlflow.__version__.partition(".")[0]
    if version[1] != major:
        raise PlaceError(
            f"MLflow at {address} must be of version {major}, as the installed {mlflow.__version__} is",
            got=f"version {found[:60]}",
            fix=f"start a server of MLflow {major}, or correct tracking_uri",
        )
