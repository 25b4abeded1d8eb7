import importlib.util
import io
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import soundfile

from vimss import media
from vimss.errors import MediaError, StorageError

RATE = 8000


def tone(seconds: float, rate: int = RATE, frequency: float = 300.0, channels: int = 1) -> np.ndarray:
    wave = 0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[None], channels, axis=0).astype(np.float32)


def click(seconds: float, at: float, rate: int = RATE) -> np.ndarray:
    audio = np.zeros((1, round(seconds * rate)), np.float32)
    audio[0, round(at * rate)] = 0.9
    return audio


def film(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Pictures whose brightness tells their number: 8 more each."""
    return np.repeat(np.arange(count, dtype=np.uint8) * 8, height * width * 3).reshape(count, height, width, 3)


def brightness(pictures: np.ndarray) -> list[int]:
    return [round(float(picture.mean()) / 8) for picture in pictures]


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "duet.mp4"
    media.write_video(path, film(25), 12.5, click(2.0, 0.5), RATE, {"instruments": "vn,cl"})
    return path


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_encoded_audio_comes_back_bit_for_bit(kind: Literal["wav", "flac"]) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, (2, 1001)).astype(np.int16)
    decoded, rate = media.decode_audio(media.encode_audio(samples, RATE, kind))
    assert rate == RATE and decoded.dtype == np.int16 and np.array_equal(decoded, samples)


def test_a_written_wav_reads_as_the_same_floats(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, (2, 999)).astype(np.float32) / 32768
    assert media.write_wav(tmp_path / "a.wav", samples * 0.9, RATE) == 1.0
    assert np.abs(media.read_audio(tmp_path / "a.wav", RATE, 2) - samples * 0.9).max() <= 0.5 / 32768


def test_a_loud_signal_is_turned_down_and_not_clipped(tmp_path: Path) -> None:
    loud = tone(1.0) * 5
    gain = media.write_wav(tmp_path / "a.wav", loud, RATE)
    assert gain == pytest.approx(0.5, abs=1e-3)
    assert np.allclose(media.read_audio(tmp_path / "a.wav", RATE), loud * gain, atol=1e-4)


def test_stems_that_share_the_fitting_gain_do_not_clip_and_still_sum_to_the_mix() -> None:
    stems = [tone(0.1) * 4, tone(0.1, frequency=500) * -4]
    gain = media.fitting_gain(*stems, stems[0] + stems[1])
    assert max(np.abs(stem * gain).max() for stem in stems) <= 1
    first, second, mix = (media.quantise(signal * gain).astype(int) for signal in (*stems, stems[0] + stems[1]))
    assert np.abs(first + second - mix).max() <= 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_compressed_files_read_at_another_rate_and_keep_their_pitch(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", tone(2.0, 44100, 1000).T, 44100)
    audio = media.read_audio(tmp_path / f"a.{suffix}", RATE)
    spectrum = np.abs(np.fft.rfft(audio[0, 2000:14000]))
    assert abs(audio.shape[1] - 2 * RATE) < 300
    assert spectrum.argmax() * RATE / 12000 == pytest.approx(1000, abs=1)
    assert np.abs(audio[0, 2000:14000]).max() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(
    ("rate", "kind"), [(8000, "WAV"), (48000, "FLAC"), (44100, "OGG"), (44100, "MP3"), (44100, "AIFF")]
)
def test_a_click_stays_where_it_was_through_resampling_and_codec_delay(tmp_path: Path, rate: int, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, click(2.0, 1.0, rate).T, rate, format=kind)
    audio = media.read_audio(path, 22050)
    assert abs(int(np.abs(audio[0]).argmax()) - 22050) <= 2


@pytest.mark.parametrize("rate", [8000, 11000, 22050, 44100])
def test_sound_in_an_mp4_keeps_its_length_and_its_place_to_the_sample(rate: int) -> None:
    audio = click(2.03, 1.0, rate)
    decoded = media.read_audio(media.encode_video(film(25), 12.5, audio, rate), rate)
    assert decoded.shape == audio.shape
    assert abs(int(np.abs(decoded[0]).argmax()) - rate) <= 1


@pytest.mark.parametrize("late", [0.5, 0.05, -0.25])
def test_sound_that_starts_apart_from_the_picture_is_aligned_with_it(late: float) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        picture, sound = (
            container.add_stream("mjpeg", rate=10),
            container.add_stream("pcm_s16le", rate=RATE, layout="mono"),
        )
        picture.width, picture.height, picture.pix_fmt = 48, 32, "yuvj420p"
        for index, pixels in enumerate(film(20)):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = index + 10, 1 / picture.codec_context.framerate
            container.mux(picture.encode(frame))
        block = av.AudioFrame.from_ndarray(media.quantise(click(1.5, 0.5)), format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = (
            RATE,
            round((1 + late) * RATE),
            Fraction(1, RATE),
        )
        container.mux(sound.encode(block))
    audio = media.read_audio(buffer.getvalue(), RATE)
    assert abs(int(np.abs(audio[0]).argmax()) / RATE - (0.5 + late)) < 0.002
    assert brightness(media.read_video(buffer.getvalue(), (32, 48), 10.0)) == list(range(20))


def test_stereo_becomes_mono_by_its_mean_and_mono_stands_on_both_sides(tmp_path: Path) -> None:
    stereo = np.concatenate([tone(0.5), tone(0.5, frequency=900)])
    soundfile.write(tmp_path / "a.wav", stereo.T, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", stereo[0], RATE, subtype="FLOAT")
    assert np.allclose(media.read_audio(tmp_path / "a.wav", RATE, 1), stereo.mean(axis=0), atol=1e-6)
    assert np.allclose(media.read_audio(tmp_path / "b.wav", RATE, 2), stereo[[0, 0]], atol=1e-6)


def test_surround_sound_becomes_left_and_right_without_the_low_frequency_effects(tmp_path: Path) -> None:
    surround = np.array([[0.3], [0.1], [0.2], [0.9], [0.6], [0.4]]) * np.ones((6, 100))  # FL FR FC LFE BL BR
    soundfile.write(tmp_path / "a.flac", surround.T, RATE)
    stereo = media.read_audio(tmp_path / "a.flac", RATE, 2)
    assert np.allclose(stereo[:, 0], [(0.3 + 0.2 + 0.6) / 3, (0.1 + 0.2 + 0.4) / 3], atol=1e-3)


@pytest.mark.parametrize(
    ("subtype", "kind"), [("PCM_U8", "WAV"), ("PCM_24", "WAV"), ("DOUBLE", "WAV"), ("PCM_S8", "AIFF")]
)
def test_every_sample_format_reads_at_the_same_level(tmp_path: Path, subtype: str, kind: str) -> None:
    soundfile.write(tmp_path / "a", tone(0.5)[0], RATE, format=kind, subtype=subtype)
    assert np.allclose(media.read_audio(tmp_path / "a", RATE), tone(0.5), atol=0.01)


def test_a_real_music_file_with_several_streams_reads_as_its_first() -> None:
    package = importlib.util.find_spec("stempeg")  # importing it would ask for ffmpeg
    path = next(Path(str(package and package.origin)).parent.glob("data/*.stem.mp4"))
    audio = media.read_audio(path, 44100, 2)
    assert audio.shape[0] == 2 and 5 < audio.shape[1] / 44100 < 8 and 0.1 < np.abs(audio).max() <= 1.2
    assert media.probe(path).channels == 2


def test_pictures_come_back_in_order_and_nearly_the_same() -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 255, (20, 6, 6, 3)), 16, axis=1), 16, axis=2).astype(np.uint8)
    decoded = media.decode_video(media.encode_video(frames, 12.5))
    grey = np.abs(decoded.mean(axis=-1) - frames.mean(axis=-1))
    assert decoded.shape == frames.shape and grey.mean() < 6


def test_pictures_of_odd_size_keep_their_size() -> None:
    assert media.decode_video(media.encode_video(film(3, 33, 47), 25.0)).shape == (3, 33, 47, 3)


def test_equal_input_gives_equal_bytes() -> None:
    first = media.encode_video(film(25), 12.5, tone(2.0), RATE, {"instruments": "vn,cl"})
    assert first == media.encode_video(film(25), 12.5, tone(2.0), RATE, {"instruments": "vn,cl"})
    assert b"Lavf" not in first


def test_there_is_a_key_frame_each_second() -> None:
    with av.open(io.BytesIO(media.encode_video(film(26), 12.5))) as container:
        keys = [frame.time for frame in container.decode(video=0) if frame.key_frame]
    assert keys == pytest.approx([0, 0.96, 1.92])


def test_sound_and_picture_stand_side_by_side_in_the_file() -> None:
    data = media.encode_video(np.zeros((150, 16, 16, 3), np.uint8), 5.0, tone(30.0), RATE)
    with av.open(io.BytesIO(data)) as container:
        # PyAV's packets must not be asked for their stream after the container is closed.
        packets = [
            (int(packet.pos or 0), packet.stream.type, float((packet.dts or 0) * packet.time_base))
            for packet in container.demux()
            if packet.size
        ]
    reached = {"audio": 0.0, "video": 0.0}
    for _, kind, seconds in sorted(packets):
        reached[kind] = seconds
        assert abs(reached["audio"] - reached["video"]) < 1


def test_a_video_tells_its_length_streams_and_instruments(movie: Path) -> None:
    found = media.probe(movie)
    assert found.seconds == pytest.approx(2.0, abs=0.15)
    assert (found.sample_rate, found.channels, found.size, found.frame_rate) == (RATE, 1, (32, 48), 12.5)
    assert found.instruments == ("vn", "cl")


@pytest.mark.parametrize(
    ("comment", "instruments"),
    [
        ("instruments=violin, cello", ("violin", "cello")),
        ("instruments = vn ; double bass", ("vn", "double bass")),
        ("picture=3x4 instruments=violin, double bass camera=2", ("violin", "double bass")),
        ("Recorded in May.\ninstruments=vn, vc,\nat home", ("vn", "vc")),
        ("instruments=", ()),
        ("instruments= picture=3x4", ()),
    ],
)
def test_the_list_of_instruments_is_read_to_its_end(tmp_path: Path, comment: str, instruments: tuple[str, ...]) -> None:
    with av.open(tmp_path / "a.mkv", "w") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("pcm_s16le", rate=RATE)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert media.probe(tmp_path / "a.mkv").instruments == instruments


def test_a_file_without_metadata_names_no_instruments(tmp_path: Path) -> None:
    media.write_wav(tmp_path / "a.wav", tone(0.5), RATE)
    found = media.probe(tmp_path / "a.wav")
    assert found.instruments == () and found.size is None and found.frame_rate == 0


@pytest.mark.parametrize(
    ("rate", "expected"), [(12.5, list(range(25))), (25.0, [n // 2 for n in range(50)]), (6.25, list(range(1, 25, 2)))]
)
def test_pictures_are_those_on_screen_at_the_middle_of_each_period(
    movie: Path, rate: float, expected: list[int]
) -> None:
    assert brightness(media.read_video(movie, (32, 48), rate))[: len(expected)] == expected


def test_players_side_by_side_are_read_in_one_pass() -> None:
    frames = np.concatenate([film(5, 32, 40), 200 - film(5, 32, 40)], axis=2)
    both = media.read_video(media.encode_video(frames, 10.0), (16, 32), 10.0)
    assert np.abs(both[:, :, :15].mean(axis=(1, 2, 3)) - np.arange(5) * 8).max() < 4
    assert np.abs(both[:, :, 17:].mean(axis=(1, 2, 3)) - (200 - np.arange(5) * 8)).max() < 4


def test_the_cover_of_an_album_is_no_picture(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=RATE), container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 48, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(film(1)[0])))
        block = av.AudioFrame.from_ndarray(tone(0.1), format="fltp", layout="mono")
        block.sample_rate = RATE
        container.mux(sound.encode(block) + sound.encode())
    assert media.probe(tmp_path / "a.mp4").size is None


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"a\.mp4 must be a media file; got no such file\. To fix: check the path"):
        media.read_audio(tmp_path / "a.mp4", RATE)
    with pytest.raises(MediaError, match=r"must be a media file; got a folder"):
        media.probe(tmp_path)


def test_a_video_without_sound_and_a_sound_without_picture_are_refused(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", film(3), 10.0)
    media.write_wav(tmp_path / "a.wav", tone(0.5), RATE)
    with pytest.raises(
        MediaError, match=r"a\.mp4 must have a sound stream; got none. To fix: give a recording with sound"
    ):
        media.read_audio(tmp_path / "a.mp4", RATE)
    with pytest.raises(
        MediaError, match=r"a\.wav must have a video stream; got none. To fix: give a recording with picture"
    ):
        media.read_video(tmp_path / "a.wav", (8, 8), 5.0)


def test_a_stream_of_an_unknown_codec_is_refused(movie: Path) -> None:
    data = movie.read_bytes()
    with pytest.raises(MediaError, match=r"must have a video stream; got 1 of an unknown codec"):
        media.read_video(data.replace(b"avc1\0", b"zzzz\0"), (8, 8), 5.0)
    with pytest.raises(MediaError, match=r"must have a sound stream; got 1 of an unknown codec"):
        media.read_audio(data.replace(b"mp4a\0", b"zzzz\0").replace(b"\x40\x15", b"\x00\x15"), RATE)


def test_empty_sound_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    with pytest.raises(MediaError, match=r"a\.wav must hold sound|can be decoded"):
        media.read_audio(tmp_path / "a.wav", RATE)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_video_is_an_error_and_no_shorter_recording(movie: Path, tmp_path: Path, share: float) -> None:
    with (
        av.open(str(movie)) as source,
        av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                target.mux(packet)
    data = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(MediaError, match=r"must be whole; got|must be a sound or video file|must have a sound stream"):
        media.read_audio(data[: int(len(data) * share)], RATE)
    with pytest.raises(MediaError, match=r"must be whole; got|must be a sound or video file|must have a video stream"):
        media.read_video(data[: int(len(data) * share)], (8, 8), 10.0)


def test_a_small_file_that_decodes_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(RATE * 20), RATE)
    for module in ("sound", "container", "read"):
        monkeypatch.setattr(f"vimss.media.{module}.MAX_SECONDS", 9.0)
    with pytest.raises(
        MediaError, match=r"must be shorter than 0\.0025 hours; got a longer recording\. To fix: cut it"
    ):
        media.read_audio(tmp_path / "a.flac", RATE)
    with pytest.raises(MediaError, match="must be shorter than"):
        media.decode_audio((tmp_path / "a.flac").read_bytes())


def test_too_many_or_too_large_pictures_are_refused(movie: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimss.media.container.MAX_PICTURE_BYTES", 20 << 20)
    with pytest.raises(MediaError, match=r"at most 20 MB of pictures; got more than 6 pictures of 1000x1000"):
        media.read_video(movie, (1000, 1000), 12.5)
    monkeypatch.setattr("vimss.media.picture.MAX_PIXELS", 1000)
    with pytest.raises(MediaError, match=r"must have pictures of at most 1000 pixels; got 48x32\. To fix: scale"):
        media.decode_video(movie.read_bytes())


def test_memory_that_is_no_sound_is_refused() -> None:
    with pytest.raises(MediaError, match=r"sound in memory must be WAV or FLAC; got .* write it with encode_audio"):
        media.decode_audio(b"RIFF nothing")


def test_a_video_needs_pictures_and_plain_metadata() -> None:
    with pytest.raises(MediaError, match=r"a video must have pictures; got shape \(0, 32, 48, 3\)"):
        media.encode_video(film(0), 10.0)
    with pytest.raises(MediaError, match=r"must be words of letters, digits .* got 'instruments=vn cl'"):
        media.encode_video(film(1), 10.0, metadata={"instruments": "vn cl"})


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file, not a folder")
    with pytest.raises((StorageError, OSError)):
        media.write_wav(tmp_path / "folder" / "a.wav", tone(0.1), RATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_boxes_are_cut_out_of_the_picture_and_a_short_video_keeps_its_last(tmp_path: Path) -> None:
    pictures = np.zeros((5, 40, 64, 3), np.uint8)
    pictures[:, 10:30, 32:52] = 255
    pictures[3:, :, :32] = 100
    path = tmp_path / "two.mp4"
    media.write_video(path, pictures, 5.0)
    left, square = media.read_crops(path, [(0, 0, 32, 40), (32, 10, 52, 30)], 16, 5.0, 2.0, begin=0.4)
    assert left.shape == square.shape == (10, 16, 16, 3)
    assert [round(float(picture.mean()) / 10) for picture in left] == [0, *[10] * 9]
    assert square.mean() > 235
    assert media.columns(path, 2) == [(0, 0, 32, 40), (32, 0, 64, 40)]
    assert media.middle_square(path) == (12, 0, 52, 40)
    with pytest.raises(MediaError, match=r"a box must lie in the picture of .*64x40 pixels; got left 32, .* right 65"):
        media.read_crops(path, [(32, 10, 65, 30)], 16, 5.0, 1.0)
    with pytest.raises(MediaError, match=r"must hold pictures; got none after 9 s"):
        media.read_crops(path, [(32, 10, 52, 30)], 16, 5.0, 1.0, begin=9.0)


def streams_of(sounds: list[np.ndarray], kind: str, codec: str, begins: list[int] | None = None) -> bytes:
    """A file with several sound streams and no picture, each beginning at a sample of its own."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        streams = [container.add_stream(codec, rate=RATE, layout="mono") for _ in sounds]
        for stream, sound, begin in zip(streams, sounds, begins or [0] * len(sounds), strict=True):
            form = "fltp" if codec == "aac" else "s16"
            block = av.AudioFrame.from_ndarray(
                sound if form == "fltp" else media.quantise(sound), format=form, layout="mono"
            )
            block.sample_rate, block.pts, block.time_base = RATE, begin, Fraction(1, RATE)
            container.mux(stream.encode(block) + stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [RATE, 22050])
def test_several_compressed_streams_come_out_aligned_and_in_their_order(rate: int) -> None:
    pitches = [300.0, 500.0, 700.0, 900.0, 1100.0]
    marked = [click(2.0, 1.0) + 0.2 * tone(2.0, frequency=pitch) for pitch in pitches]
    data = streams_of(marked, "mp4", "aac")
    for number, pitch in enumerate(pitches):
        audio = media.read_audio(data, rate, stream=number)
        assert audio.shape == (1, 2 * rate)
        assert abs(int(np.abs(audio[0]).argmax()) - rate) <= 1
        spectrum = np.abs(np.fft.rfft(audio[0, : rate // 2]))
        assert 2 * int(spectrum.argmax()) == pytest.approx(pitch, abs=2)


@pytest.mark.parametrize(("begins", "number"), [([0, 400], 1), ([800, 400], 1), ([0, 0], 1), ([800, 400], 0)])
def test_a_stream_that_begins_apart_from_the_first_keeps_its_place(begins: list[int], number: int) -> None:
    sounds = [tone(1.0), click(1.0, 0.5)] if number else [click(1.0, 0.5), tone(1.0)]
    audio = media.read_audio(streams_of(sounds, "matroska", "pcm_s16le", begins), RATE, stream=number)
    late = begins[number] - begins[0]
    assert audio.shape == (1, RATE + late) and int(np.abs(audio[0]).argmax()) == RATE // 2 + late


def test_probe_tells_the_length_of_each_sound_stream(tmp_path: Path, movie: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(streams_of([tone(1.0), tone(2.5)], "mp4", "aac"))
    assert media.probe(tmp_path / "a.mp4").sound_seconds == pytest.approx((1.0, 2.5), abs=0.01)
    (tmp_path / "a.mkv").write_bytes(streams_of([tone(1.0), tone(2.5)], "matroska", "pcm_s16le"))
    assert media.probe(tmp_path / "a.mkv").sound_seconds == pytest.approx((2.5, 2.5), abs=0.01)
    assert media.probe(movie).sound_seconds == pytest.approx((2.0,), abs=0.01)
    media.write_video(tmp_path / "b.mp4", film(3), 10.0)
    assert media.probe(tmp_path / "b.mp4").sound_seconds == ()


def test_a_sound_stream_that_is_not_there_is_an_error() -> None:
    data = streams_of([tone(0.5), tone(0.5)], "mp4", "aac")
    with pytest.raises(
        MediaError, match=r"at least 5 sound streams, to read stream 4; got 2\. To fix: choose one up to stream 1, or"
    ):
        media.read_audio(data, RATE, stream=4)
