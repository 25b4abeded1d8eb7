import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile

from vimss import media
from vimss.errors import MediaError
from vimss.media import SoundReport

RATE = 8000


def tone(seconds: float = 0.5, frequency: float = 300.0, level: float = 0.4) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def written(path: Path, *channels: np.ndarray, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, np.stack(channels).T, RATE, subtype=subtype)
    return path


def heard(path: Path, channels: int = 1, **wanted: object) -> SoundReport:
    report = SoundReport()
    media.read_audio(path, RATE, channels, report=report, **wanted)
    return report


@pytest.mark.parametrize(
    ("bad", "got"), [(np.nan, "NaN"), (np.inf, "an infinite value"), (1e30, "1e+30"), (-1001.0, "-1001")]
)
@pytest.mark.parametrize("rate", [RATE, 11025])
def test_a_sample_that_is_no_sound_is_refused_with_its_second(tmp_path: Path, bad: float, got: str, rate: int) -> None:
    left = tone()
    left[2000] = bad
    with pytest.raises(MediaError, match=rf"a\.wav must hold .*samples.*; got {re.escape(got)} at 0\.250 s\. To fix: "):
        media.read_audio(written(tmp_path / "a.wav", left, tone()), rate)


def test_64_bit_samples_that_32_bits_cannot_hold_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(100, 1e300), RATE, subtype="DOUBLE")
    with pytest.raises(
        MediaError, match=r"must hold finite samples; got an infinite value at 0\.000 s\. To fix: export"
    ):
        media.read_audio(tmp_path / "a.wav", RATE)


@pytest.mark.parametrize(("bits", "scale"), [("16-bit", 32768), ("24-bit", 8388608), ("32-bit", 2147483648)])
def test_whole_numbers_kept_as_floats_are_refused_with_their_scale(tmp_path: Path, bits: str, scale: int) -> None:
    path = written(tmp_path / "a.wav", tone(level=scale - 1))
    with pytest.raises(
        MediaError,
        match=rf"at most 1000 times full scale, which is 1; got .* look like {bits} .* divide them by {scale},",
    ):
        media.read_audio(path, RATE)


def test_a_float_mix_far_over_full_scale_reads_and_is_warned_of(tmp_path: Path) -> None:
    report = heard(written(tmp_path / "a.wav", tone(level=500.0)))
    assert report.peak == pytest.approx(500, rel=0.01)
    assert any("54 dB over full scale: if they are 16-bit numbers kept as floats" in text for text in report.warnings)
    assert not heard(written(tmp_path / "b.wav", tone(level=4.0))).warnings


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("channel", "weights"), [("left", (1, 0)), ("right", (0, 1)), ("mid", (0.5, 0.5)), ("side", (0.5, -0.5))]
)
def test_one_part_of_a_stereo_sound_can_be_heard_alone(
    tmp_path: Path, channel: Literal["left", "right", "mid", "side"], weights: tuple[float, float], channels: int
) -> None:
    left, right = tone(), tone(frequency=900.0)
    path = written(tmp_path / "a.wav", left, right)
    audio = media.read_audio(path, RATE, channels, channel=channel)
    assert audio.shape == (channels, len(left))
    assert np.allclose(audio, weights[0] * left + weights[1] * right, atol=1e-6)


def test_mono_has_a_left_and_a_right_but_no_side(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", tone())
    assert np.allclose(media.read_audio(path, RATE, channel="left"), tone())
    with pytest.raises(MediaError, match=r"two channels for their difference; got mono\. To fix: remove --channel"):
        media.read_audio(path, RATE, channel="side")


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8])
def test_surround_sound_without_names_is_taken_in_the_usual_order_and_said_so(tmp_path: Path, count: int) -> None:
    levels = np.array([0.3, 0.1, 0.2, 0.9, 0.6, 0.4, 0.5, 0.7])[:count]
    plain = written(tmp_path / "a.wav", *(levels[:, None] * np.ones((count, 100))))
    soundfile.write(tmp_path / "b.flac", levels * np.ones((100, 1)), RATE)
    stereo, named = SoundReport(), SoundReport()
    audio = media.read_audio(plain, RATE, 2, report=stereo)
    assert np.allclose(audio, media.read_audio(tmp_path / "b.flac", RATE, 2, report=named), atol=1e-3)
    assert audio[0, 50] != pytest.approx(audio[1, 50], abs=0.01)
    assert [text for text in stereo.notes if f"{count} channels that the file does not name: taken for FL FR" in text]
    assert named.notes == [] and len(named.channels) == len(stereo.channels) == count


def test_more_channels_than_have_names_become_their_mean_and_are_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", *(np.full((10, 100), 0.1) * np.arange(10)[:, None]))
    report = SoundReport()
    assert np.allclose(media.read_audio(path, RATE, 2, report=report), 0.45, atol=1e-3)
    assert report.notes == ["10 channels that have no names: their mean goes to the left and to the right"]


@pytest.mark.parametrize("rate", [RATE, 22050])
def test_the_report_tells_what_was_heard(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path / "a.wav", tone(2.0), np.zeros(2 * RATE))
    report = SoundReport()
    media.read_audio(path, rate, report=report)
    assert (report.stream, report.streams, report.channels, report.sample_rate) == (0, 1, ("FL", "FR"), RATE)
    assert report.seconds == pytest.approx(2.0, abs=0.001) and report.peak == pytest.approx(0.2, abs=0.001)
    assert report.level_db == pytest.approx(20 * np.log10(0.2 / np.sqrt(2)), abs=0.02)
    levels = report.levels()
    assert levels["left"] == pytest.approx(20 * np.log10(0.4 / np.sqrt(2)), abs=0.02)
    assert levels["mid"] == levels["side"] == pytest.approx(levels["left"] - 6.02, abs=0.01)
    assert levels["right"] == -np.inf
    assert report.sentence == "read stereo, 8 kHz, 2.0 s, -17.0 dBFS" and report.warnings == [] == report.notes


def test_the_sentence_names_the_channel_and_the_layout(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", tone(), tone())
    assert heard(path, channel="left").sentence == "read the left of stereo, 8 kHz, 0.5 s, -11.0 dBFS"
    assert heard(written(tmp_path / "b.wav", tone())).sentence == "read mono, 8 kHz, 0.5 s, -11.0 dBFS"
    surround = SoundReport(stream=1, streams=3, channels=("FL", "FR", "FC"), sample_rate=44100, seconds=1.0)
    assert surround.sentence == "read stream 1 of 3, 3 channels (FL FR FC), 44.1 kHz, 1.0 s, no signal at all"


@pytest.mark.parametrize(("rest", "better"), [(0.0, "left"), (0.05, "left"), (-0.05, "right")])
def test_channels_that_cancel_out_are_warned_of_with_what_to_do(tmp_path: Path, rest: float, better: str) -> None:
    path = written(tmp_path / "a.wav", tone(), (rest - 1) * tone())
    (warning,) = heard(path).warnings
    assert "left and right cancel out: their mean has" in warning
    assert warning.endswith(f"Read one of them with --channel {better}")
    assert heard(path, channel=better).warnings == []


def test_stereo_that_does_not_cancel_out_is_not_warned_of(tmp_path: Path) -> None:
    assert heard(written(tmp_path / "a.wav", tone(), tone(frequency=900))).warnings == []
    assert heard(written(tmp_path / "b.wav", tone(), np.zeros(RATE // 2))).warnings == []


def test_silence_is_warned_of_with_what_may_be_heard_instead(tmp_path: Path) -> None:
    (warning,) = heard(written(tmp_path / "a.wav", tone(level=1e-4))).warnings
    assert warning.startswith("the sound is silent, -83.0 dBFS: check that the file is the right one")
    assert heard(written(tmp_path / "b.wav", tone(level=0.01))).warnings == []
    (warning,) = heard(written(tmp_path / "c.wav", tone(), np.zeros(RATE // 2)), channel="right").warnings
    assert warning == "the sound is silent, no signal at all: --channel left has -11.0 dBFS"
    assert "2 sound streams: --stream 0 reads another one" in SoundReport(stream=1, streams=2).warnings[0]
