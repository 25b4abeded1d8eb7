"""Every network from its folder to stems: separated to files, registered, promoted and served, all in one store."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from test_networks import config_of

from vimss.media import read_audio, write_wav
from vimss.model import NETWORKS
from vimss.model.apply import separate_all
from vimss.model.separator import Separator, save_separator
from vimss.promote import decide, promote
from vimss.separate import separate_recording
from vimss.track import Tracking, model_folder, register

LABELS = ("fl", "va", "vc")
RATE = 8000

# MLflow's database is written.
pytestmark = pytest.mark.slow


def saved(name: str, folder: Path) -> Separator:
    torch.manual_seed(0)
    separator = Separator(config_of(name, outputs="queries", site="every_layer"), LABELS, RATE).eval()
    save_separator(folder, separator, {})
    return separator


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1, RATE // 2)).astype(np.float32)
    write_wav(tmp_path / "duet.wav", sound, RATE)
    return tmp_path / "duet.wav"


@pytest.fixture
def address(tracking: Tracking) -> Iterator[None]:
    """MLflow's default is the store, as a server has it."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking.address)
    yield
    mlflow.set_tracking_uri(before)


def test_every_network_separates_a_recording_and_is_registered_promoted_and_served(
    tmp_path: Path, tracking: Tracking, mixture: Path, address: None
) -> None:
    client = tracking.client()
    run_id = client.create_run(client.create_experiment("all", str(tracking.artifacts))).info.run_id
    items = [(f"piece {number}", "vc") for number in range(6)]
    better = decide(dict.fromkeys(items, 1.0), dict.fromkeys(items, 0.0), "the mixture")
    sound = torch.from_numpy(read_audio(mixture, RATE))
    for name, kind in NETWORKS.items():
        separator = saved(name, tmp_path / name)
        context = torch.from_numpy(separator.interface.context_of(["vc", "fl"]))
        expected = separate_all(separator, sound, context).numpy()

        found = separate_recording(mixture, tmp_path / name, tmp_path / "stems" / name, "vc,fl")
        for stem, path in zip(expected, found.stems.values(), strict=True):
            np.testing.assert_allclose(read_audio(path, RATE), found.gain * stem, atol=1e-3, err_msg=name)

        version = register(tracking, name, tmp_path / name, run_id, {}, {})
        assert promote(tracking, name, version, better)
        served = mlflow.pyfunc.load_model(f"models:/{name}@champion")
        stems = served.predict({"mixture": sound[None].numpy()}, params={"instruments": ["vc", "fl"]})
        np.testing.assert_allclose(np.concatenate(list(stems.values())), expected, atol=1e-6, err_msg=name)

        listed = model_folder(f"models:/{name}/{version}", tracking).parents[1] / "requirements.txt"
        required = {line.partition("==")[0] for line in listed.read_text(encoding="utf-8").split()}
        assert required == {"mlflow", "vimss", *kind.packages}
