"""Slots of a recording become stems of players, named by their places in its picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clapping_duos import PICTURE, PICTURES, RATE, SIDE, save_alignment, write_duo
from small_separator import build

from vimss import media
from vimss.assign import Slots, alignment_scores, assign, load_alignment
from vimss.errors import ConfigError, MediaError, ModelError
from vimss.model.apply import separate_all
from vimss.model.contexts.motion import motion_of
from vimss.model.interface import names_by_place
from vimss.model.separator import load_separator, save_separator
from vimss.pages.of_recording import title_of
from vimss.separate import InstrumentsFrom, Options, separate_recording
from vimss.train.config import Settings
from vimss.train.objectives.instruments_network import InstrumentsNetwork
from vimss.train.objectives.saved import save_network

SECONDS = 6.0


def slots_model(folder: Path, slots: int = 2) -> Path:
    separator = build(torch.float32, outputs="slots", slots=slots)
    separator.labels = ("vn", "va")
    save_separator(folder, separator, {"data": "noise"})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return slots_model(tmp_path_factory.mktemp("models") / "slots")


@pytest.fixture(scope="module")
def certain(tmp_path_factory):
    """An alignment model whose scores are so large that every assignment is certain."""
    return save_alignment(tmp_path_factory.mktemp("models") / "alignment", scale=1e6)


@pytest.fixture(scope="module")
def duet(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "duet.mp4"
    write_duo(path, SECONDS)
    return path


def separate(file, model, alignment, out, instruments="", references=None, **options):
    options = Options(alignment=alignment, alignment_name="models:/alignment", **options)
    return separate_recording(file, model, out, instruments, references, options=options)


@pytest.fixture(scope="module")
def separated(duet, model, certain, tmp_path_factory):
    return separate(duet, model, certain, tmp_path_factory.mktemp("stems") / "out")


def test_each_stem_is_the_slot_that_is_in_step_with_the_column_of_its_player(separated, duet, model, certain):
    separator = load_separator(model)
    slots = separate_all(separator, torch.from_numpy(media.read_audio(duet, RATE))).numpy()
    picture = media.read_video(duet, (SIDE, 2 * SIDE), PICTURES)
    motion = np.stack([motion_of(column) for column in np.split(picture, 2, axis=2)])
    found = assign(alignment_scores(load_alignment(certain), Slots.of(slots, RATE), motion).sum(0))
    assert list(separated.stems) == ["vn-left", "vn-right"]
    for slot, path in zip(found.slots, separated.stems.values(), strict=True):
        np.testing.assert_allclose(media.read_audio(path, RATE), slots[slot] * separated.gain, atol=2**-15)


def test_page_json_and_record_have_the_confidence_and_the_places(separated):
    page = separated.page.read_text(encoding="utf-8")
    sentence = "stems are assigned to players by their motion, confidence 1.00, by models:/alignment"
    assert sentence in page and "violin, left" in page and "violin, right" in page
    assert "2 stems from one recording, by an unconditioned network, given to the players by their motion." in page
    assert sentence in separated.sentences
    about = separated.summary["assignment"]
    assert about["certain"] and about["confidence"] == 1 and sorted(about["slots"]) == ["vn-left", "vn-right"]
    record = json.loads((separated.page.parent / "separated.json").read_text(encoding="utf-8"))
    assert record["stems"] == ["vn-left", "vn-right"] and record["assignment"] == about


def test_an_assignment_that_is_not_certain_keeps_the_numbers_of_the_slots(duet, model, tmp_path):
    media.write_wav(tmp_path / "true" / "vn-left.wav", media.read_audio(duet, RATE), RATE)
    unsure = save_alignment(tmp_path / "alignment", scale=1e-6)
    found = separate(duet, model, unsure, tmp_path / "out", references=tmp_path / "true")
    assert list(found.stems) == ["slot_1", "slot_2"] and not found.scores
    assert found.notes[-2:] == (
        "it is not certain which stem is whose (confidence 0.50, below 0.9): stems keep the numbers of their slots",
        "no scores: references are of players",
    )
    assert not found.summary["assignment"]["certain"]
    assert "by an unconditioned network." in found.page.read_text(encoding="utf-8")


def test_references_are_named_by_player(duet, model, certain, tmp_path):
    media.write_wav(tmp_path / "true" / "vn-right.wav", 0.5 * media.read_audio(duet, RATE), RATE)
    found = separate(duet, model, certain, tmp_path / "out", references=tmp_path / "true")
    assert list(found.scores) == ["vn-right"]


def test_a_slot_without_a_player_keeps_its_number(duet, certain, tmp_path):
    found = separate(duet, slots_model(tmp_path / "three", slots=3), certain, tmp_path / "out")
    assert [*found.stems][:2] == ["vn-left", "vn-right"] and [*found.stems][2].startswith("slot_")


def test_instruments_of_the_command_line_go_before_the_metadata(duet, model, certain, tmp_path):
    found = separate(duet, model, certain, tmp_path / "out", instruments="violin, viola")
    assert list(found.stems) == ["vn-left", "va-right"]


def test_players_are_named_by_a_model_and_by_their_places(duet, model, certain, tmp_path):
    looking = {"objective": "instruments", "model": {"vision": {"network": "compact", "weights": "random"}}}
    torch.manual_seed(0)
    namer = InstrumentsNetwork(Settings.model_validate(looking), ("va", "db"), RATE)
    save_network(tmp_path / "namer", namer, {"picture": PICTURE})
    named = InstrumentsFrom("models:/instruments", tmp_path / "namer", players=2)
    found = separate(duet, model, certain, tmp_path / "out", named)
    assert list(found.stems) == ["va-left", "va-right"], "the only label that both models know"
    assert found.notes[0] == (
        "named from the pictures by models:/instruments, with probabilities: viola (1.00), viola (1.00)"
    )
    assert found.assigned.assignment.is_certain


@pytest.mark.parametrize(
    ("players", "names", "title"),
    [
        (("vn", "vn"), ("vn-left", "vn-right"), "violin, left"),
        (("va", "vn", "vn"), ("va-left", "vn-middle", "vn-right"), "viola, left"),
        (
            ("fl",) * 4,
            tuple(f"fl-{one}-from-the-left" for one in ("1st", "2nd", "3rd", "4th")),
            "flute, 1st from the left",
        ),
    ],
)
def test_players_are_named_by_their_places_from_left_to_right(players, names, title):
    assert names_by_place(players) == names and title_of(names[0]) == title


@pytest.mark.parametrize(
    ("instruments", "error"),
    [
        ("vn", "are assigned to players where two or more of them play; got vn. To fix: name all players"),
        ("vn,vn,va", "a model with 2 slots separates at most 2 players; got 3: vn, vn, va. To fix: use a model with"),
    ],
)
def test_other_numbers_of_players_are_refused(duet, model, certain, tmp_path, instruments, error):
    with pytest.raises(ConfigError, match=error):
        separate(duet, model, certain, tmp_path / "out", instruments)


def test_a_recording_without_a_picture_is_refused(model, certain, tmp_path):
    media.write_wav(tmp_path / "duet.wav", np.zeros((1, RATE), np.float32), RATE)
    with pytest.raises(
        MediaError, match="must be a video of its players, .*; got no picture. To fix: leave --alignment"
    ):
        separate(tmp_path / "duet.wav", model, certain, tmp_path / "out", "vn,vn")


def test_too_few_pictures_a_second_are_refused_with_the_least(model, certain, tmp_path):
    write_duo(tmp_path / "slow.mp4", SECONDS, rate=5.0)
    with pytest.raises(
        MediaError, match="must have at least 10 pictures a second, .*; got 5. To fix: use a video with"
    ):
        separate(tmp_path / "slow.mp4", model, certain, tmp_path / "out")


def test_a_picture_that_stops_before_the_sound_is_refused(model, certain, tmp_path):
    film = np.zeros((50, SIDE, 2 * SIDE, 3), np.uint8)
    sound = np.zeros((1, 5 * RATE), np.float32)
    media.write_video(tmp_path / "stops.mp4", film, PICTURES, sound, RATE, {"instruments": "vn,vn"})
    with pytest.raises(MediaError, match="must last as long as its sound, .*; got 2.0 s of picture and 5.0 s of sound"):
        separate(tmp_path / "stops.mp4", model, certain, tmp_path / "out")


def test_a_picture_without_room_for_the_players_is_refused(model, certain, tmp_path):
    film = np.zeros((50, SIDE, 14, 3), np.uint8)
    media.write_video(tmp_path / "thin.mp4", film, PICTURES, np.zeros((1, 2 * RATE), np.float32), RATE)
    with pytest.raises(MediaError, match="a column of 8 or more pixels for each of 2 players; got 14 pixels"):
        separate(tmp_path / "thin.mp4", model, certain, tmp_path / "out", "vn,vn")


def test_a_separator_is_no_alignment_model(duet, model, tmp_path):
    with pytest.raises(
        ModelError, match="--alignment must be a model of the objective 'alignment', .*; got a separator"
    ):
        separate(duet, model, model, tmp_path / "out")


def test_a_model_whose_outputs_have_names_is_not_assigned(duet, certain, tmp_path):
    save_separator(tmp_path / "labels", build(torch.float32, outputs="instruments"), {})
    with pytest.raises(
        ModelError, match="--alignment assigns the outputs of a slots model, .*; got a model with outputs"
    ):
        separate(duet, tmp_path / "labels", certain, tmp_path / "out", "va,vc")


def test_without_an_alignment_model_a_slots_model_takes_no_instruments(duet, model, tmp_path):
    with pytest.raises(
        ConfigError, match="leave --instruments out, or add --alignment to assign the outputs to players"
    ):
        separate_recording(duet, model, tmp_path / "out", "vn,vn")
