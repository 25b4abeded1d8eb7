"""What a separation is asked for: instruments as people write them, and true stems as people name them."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from vimss import media
from vimss.errors import ConfigError, StorageError
from vimss.media.disk import DiskAudio
from vimss.metrics import si_sdr_improvement
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator
from vimss.separate import scores
from vimss.separate.players import players_of
from vimss.separate.scores import find_references, improvement, read_reference, score

RATE = 8000
LABELS = ("vn", "va", "vc", "db", "sax")


def separator(*labels: str) -> Separator:
    config = WaveUNetConfig(levels=1, filters=2, down_kernel=3, up_kernel=3, site="output", outputs="queries")
    return Separator(config, labels or LABELS, RATE)


def noise(seconds: float, seed: int = 0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (channels, round(seconds * RATE))).astype(np.float32)


def on_disk(folder: Path, audio: np.ndarray) -> DiskAudio:
    spool = DiskAudio(folder, len(audio))
    spool.append(audio)
    return spool


@pytest.mark.parametrize(
    ("given", "players"),
    [
        ("vn,vc", ("vn", "vc")),
        ("VN, Vc", ("vn", "vc")),
        ("violin; cello", ("vn", "vc")),
        ("Violin,violin,VIOLA", ("vn", "vn", "va")),
        ("double bass, saxophone", ("db", "sax")),
        ("Double-Bass;double_bass", ("db", "db")),
        (" vn , ,vc, ", ("vn", "vc")),
        ("DoubleBass", ("db",)),
        ("violin 2, violin-1", ("vn", "vn")),
        ("vn2;VC_1", ("vn", "vc")),
        ("vn2", ("vn",)),
    ],
)
def test_instruments_are_labels_or_names_between_commas_or_semicolons(given, players):
    assert players_of(given, Path("a.wav"), separator()) == players


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("violin cello", "vn,vc"),
        ("vn vc", "vn,vc"),
        ("2 violins", "vn,vn"),
        ("2x violin and 1 cello", "vn,vn,vc"),
        ("violin (2)", "vn"),
        ("2 violin", "vn,vn"),
        ("vn x 2", "vn"),
        ("violin 1 cello 2", "vn,vc"),
        ("violins", "vn"),
        ("double basses viola", "db,va"),
        ("Violine", "vn"),
        ("violoncello", "vc"),
        ("vln", "vn"),
        ("vn/vc", "vn,vc"),
        ("vn+vc", "vn,vc"),
        ("vn|vc", "vn,vc"),
    ],
)
def test_other_ways_to_name_instruments_are_refused_with_what_was_probably_meant(given, meant):
    with pytest.raises(ConfigError) as caught:
        players_of(given, Path("a.wav"), separator())
    assert f"got {given!r}. To fix: did you mean '{meant}'? choose from vn, va, vc" in str(caught.value)


@pytest.mark.parametrize("given", ["kazoo", "1 2 3", "?", "violin kazoo", "violin 2 close"])
def test_what_nobody_knows_is_refused_without_a_guess(given):
    with pytest.raises(ConfigError, match=r"one of the model's labels; got .*To fix: choose from vn, va, vc, db, sax"):
        players_of(given, Path("a.wav"), separator())


@pytest.mark.parametrize("given", [",", " ; "])
def test_commas_alone_name_nobody(given):
    with pytest.raises(
        ConfigError, match=r"must say who plays: .*; got '.*'\. To fix: add --instruments with some of vn"
    ):
        players_of(given, Path("a.wav"), separator())


def test_a_number_that_is_part_of_a_label_is_not_another():
    guitars = separator("guitar_1", "vn")
    assert players_of("Guitar 1", Path("a.wav"), guitars) == ("guitar_1",)
    with pytest.raises(ConfigError, match="must be one of the model's labels; got 'guitar 7'"):
        players_of("guitar 7", Path("a.wav"), guitars)


def test_labels_that_differ_in_capitals_are_taken_as_they_are_written():
    assert players_of("Vn,vn", Path("a.wav"), separator("vn", "Vn")) == ("Vn", "vn")
    with pytest.raises(ConfigError, match="must be one of the model's labels; got 'VN'"):
        players_of("VN", Path("a.wav"), separator("vn", "Vn"))


def test_unknown_instruments_of_the_metadata_are_told_as_such(tmp_path):
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    media.write_video(tmp_path / "a.mp4", frames, 5.0, noise(1.0), RATE, {"instruments": "vn,kazoo"})
    with pytest.raises(ConfigError, match=r"got 'kazoo' in the metadata of .*a\.mp4"):
        players_of("", tmp_path / "a.mp4", separator())


def test_references_are_found_by_the_instrument_that_their_names_begin_with(tmp_path):
    names = ["violin.wav", "vc.flac", "Viola 1.AIFF", "viola-2.mp3", "mixture.wav", "kazoo.wav", "._vn.wav", "vn.txt"]
    for name in names:
        (tmp_path / name).touch()
    found, notes = find_references(tmp_path, ("vn", "va", "vc"), LABELS)
    assert {label: [path.name for path in paths] for label, paths in found.items()} == {
        "vn": ["violin.wav"],
        "va": ["Viola 1.AIFF", "viola-2.mp3"],
        "vc": ["vc.flac"],
    }
    assert notes == (
        "the reference of va is the sum of Viola 1.AIFF, viola-2.mp3",
        "references that are no stem of this separation: kazoo.wav",
    )


@pytest.mark.parametrize(
    "names", [("vn.wav", "vn.flac"), ("Violin 1.wav", "violin 1.mp3"), ("g\u00e9.WAV", "ge\u0301.wav")]
)
def test_one_reference_in_two_formats_is_not_added_to_itself(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        find_references(tmp_path, ("vn", "g\u00e9"), (*LABELS, "g\u00e9"))
    assert "names must differ in more than the ending; got " in str(caught.value)
    assert all(name in caught.value.got for name in names)
    assert "keep one of them if they are the same stem" in caught.value.fix


def test_a_failing_disk_of_references_is_told_with_what_leads_to_another(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(os, "listdir", fail)
    monkeypatch.setattr(os, "scandir", fail)
    rule = r"must be readable and writable; got Input/output error\. To fix: .* or set --references to another folder"
    with pytest.raises(StorageError, match=rule):
        find_references(tmp_path, ("vn",), LABELS)


def test_references_of_outputs_without_labels_have_their_names(tmp_path):
    for number in (1, 2):
        (tmp_path / f"slot_{number}.wav").touch()
    found, notes = find_references(tmp_path, ("slot_1", "slot_2"), LABELS)
    assert [paths[0].name for paths in found.values()] == ["slot_1.wav", "slot_2.wav"] and not notes


def test_a_folder_without_references_says_what_it_has(tmp_path):
    (tmp_path / "kazoo.wav").touch()
    with pytest.raises(ConfigError, match=r"true stems named by label; got none of vn\.wav, vc\.wav, but kazoo\.wav"):
        find_references(tmp_path, ("vn", "vc"), LABELS)


@pytest.mark.parametrize(("name", "got"), [("a.wav", "a file"), ("missing", "which does not exist")])
def test_references_must_be_a_folder(tmp_path, name, got):
    (tmp_path / "a.wav").touch()
    with pytest.raises(ConfigError, match=f"--references must be a folder of true stems; got .*{name}, {got}"):
        find_references(tmp_path / name, ("vn",), LABELS)


@pytest.mark.parametrize("seconds", [1.5, 1.94, 2.06, 3.0])
def test_a_reference_of_another_length_is_refused(tmp_path, seconds):
    media.write_wav(tmp_path / "vn.wav", noise(seconds), RATE)
    rule = (
        rf"vn\.wav must be as long as the recording, 2\.00 s, to be its true stem; got {seconds:.2f} s\. To fix: export"
    )
    with DiskAudio(tmp_path, 1) as spool, pytest.raises(ConfigError, match=rule):
        read_reference([tmp_path / "vn.wav"], spool, RATE, 2 * RATE)


@pytest.mark.parametrize("seconds", [1.96, 2.0, 2.04])
def test_what_codecs_round_is_cut_off_or_filled(tmp_path, seconds):
    media.write_wav(tmp_path / "vn.wav", noise(seconds), RATE)
    with DiskAudio(tmp_path, 1) as spool:
        sound = read_reference([tmp_path / "vn.wav"], spool, RATE, 2 * RATE).read(0, 3 * RATE)
    expected = np.pad(media.read_audio(tmp_path / "vn.wav", RATE), ((0, 0), (0, RATE)))[:, : 2 * RATE]
    assert np.array_equal(sound, expected)


def test_references_of_one_label_are_added(tmp_path):
    players = [noise(1.0, seed) for seed in (1, 2)]
    for number, player in enumerate(players):
        media.write_wav(tmp_path / f"vn{number}.wav", player, RATE)
    with DiskAudio(tmp_path, 1) as spool:
        total = read_reference([tmp_path / "vn0.wav", tmp_path / "vn1.wav"], spool, RATE, RATE).read(0, RATE)
    assert np.allclose(total, players[0] + players[1], atol=2 / 32768)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_improvement_of_signals_on_disk_is_that_of_signals_in_memory(tmp_path, channels):
    reference, other, error = (noise(9.3, seed, channels) for seed in (1, 2, 3))
    reference[:, 2 * RATE : 7 * RATE] *= 1e-4  # not active
    mixture, estimate = reference + other, 0.5 * reference + 0.1 * error
    found = improvement(*(on_disk(tmp_path, signal) for signal in (mixture, reference, estimate)), RATE)
    assert found == pytest.approx(si_sdr_improvement(mixture, reference, estimate, RATE), abs=1e-4)


def test_a_silent_reference_has_no_score(tmp_path):
    mixture, silence = on_disk(tmp_path, noise(1.0)), on_disk(tmp_path, np.zeros((1, RATE), np.float32))
    scored = score(mixture, {"vn": mixture}, {"vn": silence}, RATE)
    assert scored.improvements == {} and np.isnan(scored.tables[0].rows[0][1])


def test_bss_eval_of_a_long_recording_says_how_much_of_it_was_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "PAGE_SECONDS", 2.0)
    reference, other = noise(3.0, 1), noise(3.0, 2)
    reference[:, 2 * RATE :] = 0
    true = {"vn": on_disk(tmp_path, reference), "vc": on_disk(tmp_path, other)}
    stems = {"vn": on_disk(tmp_path, reference + 0.1 * other), "vc": on_disk(tmp_path, other + 0.1 * reference)}
    long = score(on_disk(tmp_path, reference + other), stems, true, RATE).tables[0]
    assert "of the first 2 s" in long.conventions[1] and long.rows[0][2] == pytest.approx(20, abs=1)
    monkeypatch.setattr(scores, "PAGE_SECONDS", 3.0)
    whole = score(on_disk(tmp_path, reference + other), stems, true, RATE).tables[0]
    assert "of the first" not in whole.conventions[1]
