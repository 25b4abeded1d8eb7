"""Optuna's dashboard on the searches of an experiment, made anew from their records.

with serve_dashboard(optuna_storage(experiment, study), port=8080) as address:
    ...

What is changed on its pages is not kept: the records are what counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from vimss.errors import ConfigError
from vimss.experiment import Experiment
from vimss.loopback import LOOPBACK, served
from vimss.search.sampler import Space, optuna_study
from vimss.search.study import Study


def optuna_storage(experiment: Experiment, study: Study) -> BaseStorage:
    """A study of Optuna for each cell that is searched, with the trials of its records in the order of their draws.

    ConfigError where the experiment tunes nothing.
    """
    if not experiment.tune:
        raise ConfigError(
            f"experiment {experiment.name}: Optuna's dashboard shows what `tune` searches",
            got="no axis to search",
            fix=f"run `vimss compare {experiment.name}`, which shows its cells",
        )
    storage = InMemoryStorage()
    space = Space(experiment.tune, experiment.figure, experiment.search, experiment.seed)
    for cell in experiment.cells():
        if cell.is_control:
            continue
        searched = optuna_study(space, study.of_cell(cell.name))
        found = optuna.create_study(storage=storage, study_name=cell.name, direction=searched.direction)
        found.add_trials(searched.trials)
    return storage


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """No line for each request."""


@contextmanager
def serve_dashboard(storage: BaseStorage, port: int) -> Iterator[str]:
    """Serve the dashboard on loopback while the block runs; yields its address.

    ConfigError where optuna-dashboard is not installed, PlaceError where the port is taken.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise ConfigError(
            "--optuna needs Optuna's dashboard", got=str(error), fix="run `pip install 'vimss[dashboard]'`"
        ) from error
    app = wsgi(storage)
    with served(lambda: make_server(LOOPBACK, port, app, _Server, _Silent), port) as address:
        yield f"{address}/dashboard/"
