"""`vimss separate` as it is called: outputs, exit codes, names and folders."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from vimss import cli, media
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator


def small_model(folder: Path, loud: float = 1.0) -> Path:
    torch.manual_seed(0)
    config = WaveUNetConfig(
        levels=2,
        filters=2,
        down_kernel=5,
        site="decoder",
        outputs="queries",
        padding="same",
        output_activation="linear",
    )
    separator = Separator(config, ("vn", "va", "vc"), 8000)
    with torch.no_grad():
        separator.unet.head.weight.mul_(loud)
    save_separator(folder / "model", separator, {})
    return folder / "model"


def recorded(path: Path, seconds: float = 1.0) -> Path:
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1, round(8000 * seconds))).astype(np.float32)
    media.write_wav(path, sound, 8000)
    return path


def test_a_gpu_that_is_not_there_is_refused_before_a_recording_is_read(vimss_says, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_separator(tmp_path / "tiny", Separator(WaveUNetConfig(levels=3, filters=4), ("vn", "vc"), 8000), {})
    (tmp_path / "a.wav").touch()  # reading it would be the error
    code, _, err = vimss_says("separate", tmp_path / "a.wav", "--model", tmp_path / "tiny", "--device", "cuda")
    assert code == 2 and "--device cuda needs an NVIDIA or AMD GPU that PyTorch finds; got only" in err


def test_a_recording_that_does_not_exist_fails(vimss_says, tmp_path):
    code, out, err = vimss_says(
        "separate", tmp_path / "none.wav", "--model", small_model(tmp_path), "--instruments", "vn"
    )
    assert (code, out) == (1, "") and "none.wav must be a media file; got no such file" in err


def test_json_is_all_that_goes_to_the_output(vimss_says, tmp_path):
    recording = recorded(tmp_path / "duet.wav")
    arguments = ["--model", small_model(tmp_path), "--instruments", "vn,vc", "--out", tmp_path / "out", "--json"]
    code, out, err = vimss_says("separate", recording, *arguments)
    found = json.loads(out)
    heard = found.pop("heard")
    assert code == 0 and found == {
        "page": str(tmp_path / "out" / "page.html"),
        "stems": {label: str(tmp_path / "out" / f"{label}.wav") for label in ("vn", "vc")},
        "gain_db": 0.0,
        "scores": {},
        "notes": [],
    }
    assert (
        heard["stream"] == 0
        and heard["seconds"] == pytest.approx(1)
        and heard["level_db"] == pytest.approx(-15.2, abs=0.2)
    )
    assert "separate duet.wav" in err and "read mono, 8 kHz, 1.0 s, -15.2 dBFS" in err


def test_gain_and_scores_are_told(vimss_says, tmp_path):
    recording = recorded(tmp_path / "duet.wav")
    recorded(tmp_path / "true" / "violin.wav")
    model = small_model(tmp_path, loud=100.0)
    arguments = ["--model", model, "--instruments", "vn,vc", "--references", tmp_path / "true"]
    code, out, _ = vimss_says("separate", recording, *arguments)
    assert code == 0
    assert re.search(r"^the gain of all stems is reduced by \d+\.\d dB, so that none clips$", out, re.MULTILINE)
    assert re.search(r"^vn: SI-SDR improvement [+-]\d+\.\d dB$", out, re.MULTILINE)
    found = json.loads(vimss_says("separate", recording, *arguments, "--json")[1])
    assert found["gain_db"] < -1 and list(found["scores"]) == ["vn"]


def test_recordings_of_one_name_have_folders_of_their_own(vimss_says, tmp_path):
    common = ["--model", small_model(tmp_path), "--instruments", "vn", "--json"]
    for number, seconds in enumerate((1.0, 1.5, 2.0)):
        recorded(tmp_path / str(number) / "take.wav", seconds)
    order = (0, 1, 2, 0, 1)
    found = [json.loads(vimss_says("separate", tmp_path / str(n) / "take.wav", *common)[1])["page"] for n in order]
    assert [Path(page).parent.name for page in found] == ["take", "take-2", "take-3", "take", "take-2"]


def test_another_recording_needs_leave_to_replace_stems(vimss_says, tmp_path):
    common = ["--model", small_model(tmp_path), "--instruments", "vn", "--out", tmp_path / "out"]
    for number, seconds in enumerate((1.0, 1.5)):
        recorded(tmp_path / str(number) / "take.wav", seconds)
    assert vimss_says("separate", tmp_path / "0" / "take.wav", *common)[0] == 0
    code, out, err = vimss_says("separate", tmp_path / "1" / "take.wav", *common)
    assert (code, out) == (2, "") and "or add --overwrite to replace them" in err
    assert vimss_says("separate", tmp_path / "1" / "take.wav", *common, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        "a" * 251,
        "弦" * 80,
        "two\nlines",
        "-dash",
        "dots..",
        "esc\x1b[31m",
        os.fsdecode(b"latin\xe9"),
        "[red]a[/red]",
        "'\"",
    ],
)
def test_a_recording_may_have_any_name(vimss_says, tmp_path, name):
    recording = recorded(tmp_path / f"{name}.wav")
    code, out, err = vimss_says("separate", recording, "--model", small_model(tmp_path), "--instruments", "vn")
    assert code == 0 and "Traceback" not in err and "\x1b" not in out + err
    lines = out.splitlines()
    assert len(lines) == 2 and lines[1].endswith("page.html")
    (page,) = (tmp_path / "store" / "stems").glob("*/page.html")
    assert page.read_text(encoding="utf-8")


@pytest.mark.parametrize("out", ["x" * 300, "duet.wav/stems", "duet.wav", "loop", ".", ""])
def test_a_folder_that_cannot_be_is_refused_before_the_work(vimss_says, tmp_path, monkeypatch, out):
    recording, model = recorded(tmp_path / "duet.wav"), small_model(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    code, printed, err = vimss_says("separate", recording, "--model", model, "--instruments", "vn", "--out", out)
    assert code in (1, 2) and printed == "" and "dBFS" not in err and len(err.splitlines()) == 1
    assert err.startswith("error: ") and "To fix: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "-1"], "Invalid value for '--stream'"),
        (["--stream", "3"], "4 sound streams, to read stream 3; got 1. To fix: choose one up to stream 0"),
        (
            ["--channel", "centre"],
            "'centre' is not one of 'all', 'left', 'right', 'mid', 'side'",
        ),
        (["--channel", "side"], "must have two channels for their difference; got mono"),
        (["--instruments", "2 violins"], "got '2 violins'. To fix: did you mean 'vn,vn'?"),
        (["--references", "nowhere"], "--references must be a folder of true stems; got nowhere, which does not exist"),
    ],
)
def test_bad_arguments_of_a_separation_are_explained(vimss_says, tmp_path, arguments, message):
    common = ["--model", small_model(tmp_path), "--instruments", "vn", "--out", tmp_path / "out"]
    code, out, err = vimss_says("separate", recorded(tmp_path / "duet.wav"), *common, *arguments)
    assert code in (1, 2) and out == "" and message in err and not (tmp_path / "out").exists()


def test_the_channels_of_the_command_line_are_those_of_media():
    channel = cli.separate.__annotations__["channel"].__origin__
    assert get_args(channel) == get_args(media.Channel)


@pytest.mark.slow
def test_a_full_disk_ends_the_verb_with_one_line_and_exit_code_1(tmp_path):
    recording, model = recorded(tmp_path / "in" / "take.wav", 3.0), small_model(tmp_path)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "vimss", "separate", recording, "--model", model, "--instruments", "vn,vc"]
    ran = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out" / "take")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and ran.stderr.count("\n") == ran.stderr.count("  heard") + 1
    assert "take must fit on the disk; got File too large" in ran.stderr and list((tmp_path / "out").iterdir()) == []
