"""What a registered model takes and refuses, in Python and over HTTP."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
import soundfile
import torch
from mlflow.exceptions import MlflowException
from werkzeug.serving import make_server

from vimss.errors import ConfigError
from vimss.media import read_audio, write_video, write_wav
from vimss.model.apply import separate_all
from vimss.model.contexts import Recording
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.model.vision_config import VisionConfig
from vimss.track import Tracking, register, request, set_alias

# MLflow's database is written.
pytestmark = pytest.mark.slow

RATE = 8000
BLANK = {"mixture": np.zeros((1, 1, 1), np.float32)}
SOUND = np.random.default_rng(0).uniform(-0.3, 0.3, (1, RATE)).astype(np.float32)


def base64_of(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


@pytest.fixture
def loaded(tracking: Tracking) -> Iterator[Callable[[Path], mlflow.pyfunc.PyFuncModel]]:
    """Registers a model's folder as the champion, and loads it as MLflow does."""
    client = tracking.client()
    run_id = client.create_run(client.create_experiment("all", str(tracking.artifacts))).info.run_id
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking.address)

    def load(folder: Path) -> mlflow.pyfunc.PyFuncModel:
        set_alias(tracking, "quickstart", "champion", register(tracking, "quickstart", folder, run_id, {}, {}))
        return mlflow.pyfunc.load_model("models:/quickstart@champion")

    yield load
    mlflow.set_tracking_uri(before)


@pytest.fixture
def duet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording in the folder that the server may read."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv(request.FOLDER, str(folder))
    write_wav(folder / "duet.wav", SOUND, RATE)
    return folder / "duet.wav"


def test_a_recording_gives_what_its_samples_give(
    loaded: Callable[[Path], mlflow.pyfunc.PyFuncModel], small_model: Path, duet: Path
) -> None:
    model = loaded(small_model)
    expected = model.predict({"mixture": read_audio(duet, RATE)[None]}, params={"instruments": ["vc", "fl"]})
    for recording in ({"media": base64_of(duet)}, {"path": "duet.wav"}):
        stems = model.predict(BLANK, params={"instruments": ["vc", "fl", "vc"], **recording})
        assert list(stems) == ["vc", "fl"]
        np.testing.assert_allclose(list(stems.values()), list(expected.values()), atol=1e-6)
    assert model.predict(BLANK, params={"instruments": ["vc"], "path": "duet.wav", "sample_rate": 16000})[
        "vc"
    ].shape == (1, 1, 2 * RATE)


def test_players_of_a_recording_are_shown_to_a_model_that_looks(
    loaded: Callable[[Path], mlflow.pyfunc.PyFuncModel], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    vision = VisionConfig(network="compact", weights="random")
    config = WaveUNetConfig(context="frames", site="decoder", outputs="queries", levels=2, filters=4, vision=vision)
    folder = tmp_path / "looks"
    save_separator(
        folder, Separator(config, ("vn", "vc"), RATE), {"picture": {"size": 32, "frame_rate": 5.0}, "any_level": True}
    )
    pictures = np.random.default_rng(1).integers(0, 255, (5, 32, 64, 3), np.uint8)
    write_video(tmp_path / "duet.mp4", pictures, 5.0, SOUND, RATE)
    model = loaded(folder)
    blank = BLANK | {"frames": np.zeros((1, 1, 1, 1, 1, 3), np.uint8)}
    given = {"media": base64_of(tmp_path / "duet.mp4")}
    stems = model.predict(blank, params={"instruments": ["vn", "vn"], **given})

    separator = load_separator(folder)
    card = {"picture": {"size": 32, "frame_rate": 5.0}}
    rows = separator.interface.of_recording(Recording(tmp_path / "duet.mp4", ("vn", "vn"), card))
    mixture = read_audio(tmp_path / "duet.mp4", RATE)
    outputs = separate_all(separator, torch.from_numpy(mixture), torch.from_numpy(rows)).numpy()
    assert list(stems) == ["player_1", "player_2"]
    for stem, output in zip(stems.values(), outputs, strict=True):
        # The card says that the network may give any level.
        fitted = output * np.vdot(mixture, output) / np.vdot(output, output)
        np.testing.assert_allclose(stem[0], fitted, atol=1e-5)
    with pytest.raises(MlflowException, match="needs the instruments that play, from left to right"):
        model.predict(blank, params=given)


def test_a_model_that_is_asked_by_example_takes_the_players_alone_beside_samples_or_a_recording(
    loaded: Callable[[Path], mlflow.pyfunc.PyFuncModel], tmp_path: Path, duet: Path
) -> None:
    config = WaveUNetConfig(context="example", site="decoder", outputs="queries", levels=2, filters=4)
    torch.manual_seed(0)
    save_separator(tmp_path / "asked", Separator(config, ("vn", "vc"), RATE), {})
    rows = np.random.default_rng(2).normal(0, 0.1, (1, 2, 1, 2 + 4000)).astype(np.float32)
    rows[0, :, 0, :2] = np.eye(2)
    expected = separate_all(
        load_separator(tmp_path / "asked"), torch.from_numpy(read_audio(duet, RATE)), torch.from_numpy(rows[0])
    ).numpy()
    model = loaded(tmp_path / "asked")
    for mixture, params in ((read_audio(duet, RATE)[None], {}), (BLANK["mixture"], {"path": "duet.wav"})):
        stems = model.predict({"mixture": mixture, "example": rows}, params=params)
        assert list(stems) == ["player_1", "player_2"]
        np.testing.assert_allclose([stem[0] for stem in stems.values()], expected, atol=1e-5)
    assert list(model.predict(model.input_example)) == ["player_1"]
    with pytest.raises(
        MlflowException, match="must be 1 for one of the labels vn, vc and 0 for the others, then the samp"
    ):
        model.predict(BLANK | {"example": np.zeros((1, 1, 1, 1), np.float32)}, params={"path": "duet.wav"})


@pytest.mark.parametrize(
    "row", [[0, 0, 1, 1], [1, 1, 1, 1], [0.5, 0.5, 1, 1], [1, 0, 0, 0], [1, 0]],
    ids=["no label", "two labels", "parts of labels", "silence", "no samples"],
)  # fmt: skip
def test_an_example_names_one_label_and_holds_the_sound_of_its_player(row: list[float]) -> None:
    fine = np.array([[[[0.0, 1.0, *row[2:]]]]], np.float32)
    if fine[..., 2:].any():
        request.check_examples(fine, ("vn", "vc"))
    with pytest.raises(ConfigError, match="each row of example must be 1 for one of the labels vn, vc"):
        request.check_examples(np.array([[[row]]], np.float32), ("vn", "vc"))


def other_numbers(value: float) -> dict[str, np.ndarray]:
    return {"mixture": np.full((1, 1, 9), value, np.float32)}


@pytest.mark.parametrize(
    ("arrays", "params", "message"),
    [
        (BLANK, {"media": "!"}, "media must be the bytes of a file as base64; got"),
        (BLANK, {"media": base64.b64encode(b"#EXTM3U\n/etc/passwd").decode()}, "got a playlist, which holds no sound"),
        (BLANK, {"media": "AAAA", "path": "duet.wav"}, "a request has media or a path; got both"),
        (BLANK, {"path": "none.wav"}, "none.wav must be a media file; got no such file"),
        (BLANK, {"path": "../secret.wav"}, "a path must lead to a recording in the server's folder; got '../secret"),
        (BLANK, {"path": "link.wav"}, "must lead to a recording in the server's folder; got 'link.wav'"),
        (BLANK, {"path": "circle.wav"}, "must lead to a recording in the server's folder|got no such file"),
        (BLANK, {"path": "a\0b"}, "a path must lead to a recording in the server's folder"),
        (BLANK, {"path": "/etc/passwd"}, "a path must lead to a recording in the server's folder"),
        (other_numbers(0.5), {"path": "duet.wav"}, "mixture must be zeros beside media or a path"),
        (other_numbers(np.nan), {}, "mixture must hold finite numbers; got NaN or infinity"),
        ({"mixture": np.zeros((1, 1, 0), np.float32)}, {}, r"mixture must hold something; got the shape \(1, 1, 0\)"),
        (BLANK, {"sample_rate": 1}, "sample_rate must be 0, for the model's, or 1000 to 384000 Hz; got 1"),
    ],
)
def test_a_request_that_holds_what_it_must_not_is_refused(
    duet: Path, arrays: dict[str, np.ndarray], params: dict[str, object], message: str
) -> None:
    shutil.copyfile(duet, duet.parents[1] / "secret.wav")
    (duet.parent / "link.wav").symlink_to("../secret.wav")
    (duet.parent / "circle.wav").symlink_to("circle.wav")
    with pytest.raises(MlflowException, match=re.compile(message)) as error, request.refusals():
        request.rate_of(params, RATE)
        source = request.recording_of(params)
        request.check_arrays(arrays, source)
        if source is not None:
            request.read_sound(source, RATE, 1)
    assert error.value.get_http_status_code() == 400


def test_a_path_needs_a_folder_of_the_server(monkeypatch: pytest.MonkeyPatch, duet: Path) -> None:
    monkeypatch.delenv(request.FOLDER)
    with pytest.raises(MlflowException, match="a path needs a server with a folder of recordings"), request.refusals():
        request.recording_of({"path": str(duet)})


def test_a_recording_that_is_too_large_or_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, duet: Path) -> None:
    monkeypatch.setattr(request, "MOST_SECONDS", 0.5)
    with pytest.raises(MlflowException, match=r"must be at most 0\.5 s long; got a longer one"), request.refusals():
        request.read_sound(duet, RATE, 1)
    monkeypatch.setattr(request, "MOST_BYTES", 4000)
    for params in ({"media": base64_of(duet)}, {"path": "duet.wav"}):
        with pytest.raises(MlflowException, match="a recording must have at most 0 MB"), request.refusals():
            request.recording_of(params)


@contextmanager
def serving(tracking: Tracking, folder: Path) -> Iterator[str]:
    """`mlflow models serve` of the champion; its VIMSS is the content of the wheel, and no model may hold a pickle."""
    shutil.copytree("vimss", folder / "wheel" / "vimss", ignore=shutil.ignore_patterns("__pycache__"))
    free = make_server("127.0.0.1", 0, lambda _environ, _start: [])
    free.server_close()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/quickstart@champion"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow looks for uvicorn there
    variables = {
        "PATH": path,
        "PYTHONPATH": str(folder / "wheel"),
        "MLFLOW_TRACKING_URI": tracking.address,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(free.port)],
            env=os.environ | variables,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while not answers(f"http://127.0.0.1:{free.port}/ping"):
                assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{free.port}"
        finally:
            os.killpg(process.pid, 15)  # uvicorn is a child of it
            process.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310 - our own address
            return True
    except OSError:
        return False


def ask(address: str, params: dict[str, object]) -> tuple[int, dict[str, object]]:
    body = json.dumps({"inputs": {"mixture": [[[0]]]}, "params": params}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/invocations", body, headers)) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_server_answers_ten_requests_at_once_and_the_client_of_the_readme(
    tracking: Tracking,
    loaded: Callable[[Path], mlflow.pyfunc.PyFuncModel],
    small_model: Path,
    duet: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded(small_model)
    sounds = [np.random.default_rng(number).uniform(-0.3, 0.3, (1, RATE // 2)) for number in range(10)]
    for number, sound in enumerate(sounds):
        write_wav(duet.with_name(f"{number}.wav"), sound.astype(np.float32), RATE)
    requests = [{"media": base64_of(duet.with_name(f"{number}.wav")), "instruments": ["vn"]} for number in range(10)]
    requests[4]["media"] = base64.b64encode(b"no sound").decode()
    with serving(tracking, duet.parent) as address:
        with ThreadPoolExecutor(10) as pool:
            replies = list(pool.map(lambda params: ask(address, params), requests))
        text = Path("README.md").read_text(encoding="utf-8")
        (client,) = [
            block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "/invocations" in block
        ]
        monkeypatch.chdir(duet.parent)
        shutil.copyfile(duet, "quartet.wav")
        exec(client.replace("http://127.0.0.1:5001", address), {})  # noqa: S102 - our own page
    status, broken = replies.pop(4)
    assert status == 400 and "media in memory must be a sound or video file" in str(broken["message"])
    assert "stack_trace" not in broken
    for (status, answer), params in zip(replies, requests[:4] + requests[5:], strict=True):
        assert status == 200
        expected = model.predict(BLANK, params=params)["vn"]
        np.testing.assert_allclose(answer["predictions"]["vn"], expected, atol=1e-4)
    expected = model.predict(BLANK, params={"path": "duet.wav", "instruments": ["vn", "vc"]})
    for name in ("vn", "vc"):
        np.testing.assert_allclose(soundfile.read(f"{name}.wav")[0], expected[name][0, 0], atol=1e-4)
