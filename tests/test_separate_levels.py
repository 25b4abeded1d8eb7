"""Stems of a model that may give any level."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vimss import media
from vimss.media.disk import DiskAudio
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.separate import separate_recording
from vimss.separate.levels import fit_levels

RATE = 8000
ONE, TWO = np.random.default_rng(0).normal(0, 0.1, (2, 1, 20_000)).astype(np.float32)


def on_disk(folder: Path, sound: np.ndarray) -> DiskAudio:
    spool = DiskAudio(folder, len(sound))
    spool.append(sound)
    return spool


@pytest.mark.parametrize("level", [0.01, 1.0, 30.0, -1.0])
def test_a_stem_gets_the_level_of_its_source_whatever_it_had(tmp_path, level):
    stems = {"vn": on_disk(tmp_path, level * ONE), "vc": on_disk(tmp_path, TWO)}
    peak = fit_levels(on_disk(tmp_path, ONE + TWO), stems)
    found = stems["vn"].read(0, 20_000)
    assert np.abs(found - ONE).max() < 0.05 * np.abs(ONE).max()
    assert peak == pytest.approx(max(np.abs(stem.read(0, 20_000)).max() for stem in stems.values()), rel=1e-5)


def test_a_silent_stem_stays_silent(tmp_path):
    stems = {"vn": on_disk(tmp_path, np.zeros_like(ONE))}
    assert fit_levels(on_disk(tmp_path, ONE), stems) == 0.0
    assert not stems["vn"].read(0, 20_000).any()


@pytest.fixture
def recording(tmp_path) -> Path:
    media.write_wav(tmp_path / "duo.wav", ONE + TWO, RATE)
    return tmp_path / "duo.wav"


def stem_of(folder: Path, recording: Path, card: dict[str, object]) -> tuple[np.ndarray, str]:
    save(folder / "model", card)
    found = separate_recording(recording, folder / "model", folder / "out", "vn")
    return media.read_audio(found.stems["vn"], RATE).astype(np.float64), found.page.read_text(encoding="utf-8")


def save(folder: Path, card: dict[str, object], **settings: bool) -> None:
    torch.manual_seed(0)
    config = WaveUNetConfig(
        site="decoder", outputs="queries", levels=2, filters=4, initial_output="mixture", **settings
    )
    save_separator(folder, Separator(config, ("vn", "vc"), RATE), card)


def test_the_card_says_whether_levels_are_fitted_and_the_page_tells(tmp_path, recording):
    mixture = media.read_audio(recording, RATE)
    told, page = stem_of(tmp_path / "told", recording, {})
    fitted, other_page = stem_of(tmp_path / "any", recording, {"any_level": True})
    gain = np.vdot(mixture, told) / np.vdot(told, told)
    assert abs(gain - 1) > 0.01
    assert np.abs(fitted - gain * told).max() < 1e-4
    assert "how loud its stems are" not in page and "how loud its stems are" in other_page


def test_stems_that_share_the_recording_sum_to_it_and_the_page_tells(tmp_path, recording):
    save(tmp_path / "model", {}, share_mixture=True)
    found = separate_recording(recording, tmp_path / "model", tmp_path / "out", "vn,vc")
    total = sum(media.read_audio(path, RATE) for path in found.stems.values()) / found.gain
    assert np.abs(total - media.read_audio(recording, RATE)).max() < 3e-4
    assert "sum to the recording" in found.page.read_text(encoding="utf-8")
    alone = separate_recording(recording, tmp_path / "model", tmp_path / "alone", "vn")
    assert "sum to the recording" not in alone.page.read_text(encoding="utf-8")
