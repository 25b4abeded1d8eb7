"""Sound on disk: what is read is what was written, and WAVs are those that libraries write."""

import numpy as np
import pytest

from vimss import media
from vimss.errors import MediaError
from vimss.media.disk import DiskAudio, check_wav_size, write_wav_blocks


def noise(samples: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.3, 0.3, (channels, samples)).astype(np.float32)


def test_samples_are_read_at_any_place(tmp_path):
    audio = noise(1000)
    with DiskAudio(tmp_path, 2) as sound:
        for begin, end in ((0, 300), (300, 300), (300, 1000)):
            sound.append(audio[:, begin:end])
        assert sound.samples == 1000
        assert np.array_equal(sound.read(250, 777), audio[:, 250:777])
        assert np.array_equal(sound.read(900, 2000), audio[:, 900:])
        assert sound.read(0, 0).shape == sound.read(2000, 3000).shape == (2, 0)
        assert np.array_equal(np.concatenate(list(sound.blocks(300)), axis=1), audio)


def test_samples_are_added_to_those_that_are_there(tmp_path):
    with DiskAudio(tmp_path, 1) as sound:
        sound.add(0, noise(10, 1))
        sound.add(5, np.ones((1, 10), np.float32))
        expected = np.pad(noise(10, 1), ((0, 0), (0, 5)))
        expected[:, 5:] += 1
        assert np.array_equal(sound.read(0, 99), expected)
        sound.cut(7)
        assert np.array_equal(sound.read(0, 99), expected[:, :7])
        sound.cut(9)
        assert np.array_equal(sound.read(0, 99), np.pad(expected[:, :7], ((0, 0), (0, 2))))


def test_no_file_is_seen_nor_left(tmp_path):
    with DiskAudio(tmp_path, 1) as sound:
        sound.append(noise(10, 1))
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [0, 1, 1001])
def test_a_wav_written_in_blocks_is_one_written_at_once(tmp_path, samples, channels):
    audio = media.quantise(noise(samples, channels))
    blocks = (audio[:, begin : begin + 100] for begin in range(0, samples, 100))
    write_wav_blocks(tmp_path / "a.wav", blocks, samples, channels, 22050)
    assert (tmp_path / "a.wav").read_bytes() == media.encode_audio(audio, 22050)


@pytest.mark.parametrize(("samples", "channels"), [(2**31, 1), (2**30, 2)])
def test_what_a_wav_file_cannot_hold_is_refused(samples, channels):
    check_wav_size(samples - 100, channels, 44100)
    with pytest.raises(
        MediaError, match=r"less than 4 GB, which is \d+\.\d hours of this sound; got .*cut the recording"
    ):
        check_wav_size(samples, channels, 44100)
