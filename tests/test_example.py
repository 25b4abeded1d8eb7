"""The context `example`: which passage of a player is shown, and what a network makes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interfaces import LABELS, interface

from vimss.cli.checks import parse_examples
from vimss.errors import ConfigError, MediaError, ModelError
from vimss.evaluate.records import PIECE_FIGURES
from vimss.evaluate.scores import evaluate_piece
from vimss.media import read_audio, write_wav
from vimss.model.apply import separate_all
from vimss.model.example import ExampleEncoder
from vimss.model.interface import Interface
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.separate import Options, separate_recording
from vimss.shards.clip import Clip, Player
from vimss.stream.config import MixingConfig
from vimss.stream.fixed import FixedSpec, fixed_set, mixtures_of
from vimss.stream.lazy import LazyClip
from vimss.stream.mix import Pool, Window
from vimss.stream.passages import passage_beside
from vimss.stream.read import read_pieces
from vimss.stream.scene import Scene, pieces_of
from vimss.systems import ModelSystem

RATE = 1000
WINDOW = Window(1200, 800, RATE)
SECONDS = 3.0
SHOWN = interface(context="example")


def player(label: str, number: int) -> Player:
    """Whose samples say who plays, and when."""
    return Player(label, f"{label}{number}", (450 * number + np.arange(6000) // 20)[None].astype(np.int16))


def clips() -> list[Clip]:
    first = [player("vn", 1), player("vc", 2), player("vn", 3)]
    second = [player("fl", 4), player("vn", 5), player("vc", 6)]
    return [Clip(piece, 0, 6000, RATE, tuple(players), 16.0) for piece, players in (("p", first), ("q", second))]


def drawn(context="example", count=16, **mixing) -> list:
    settings = MixingConfig(gain_db=0, flip_polarity=False, **mixing)
    pool = Pool(list(map(LazyClip.of, clips())), settings, WINDOW, interface(context=context))
    rngs = (np.random.default_rng((7, number)) for number in range(count))
    return [pool.draw(rng, pool.clips[n % 2], 2, aligned=bool(n % 2)) for n, rng in enumerate(rngs)]


def label_and_sound(view) -> tuple[str, np.ndarray]:
    """Those of a row, the sound as in the stem."""
    assert view.shape == (1, len(LABELS) + round(SECONDS * RATE))
    return LABELS[int(view[0, : len(LABELS)].argmax())], np.rint(view[0, len(LABELS) :] * 32768).astype(int)


@pytest.mark.parametrize(("first", "last"), [(0, 800), (2000, 2800), (3200, 4000), (5200, 6000)])
def test_a_passage_never_overlaps_what_is_separated(first, last):
    stem = np.arange(6000, dtype=np.int16)[None]
    starts = [passage_beside(np.random.default_rng(seed), stem, 1500, first, last)[0, 0] for seed in range(200)]
    assert all(start + 1500 <= first or start >= last for start in starts)
    # On both sides where there is room, at any place.
    assert (
        len(set(starts)) > 50 and (min(starts) < first) == (first >= 1500) and (max(starts) >= last) == (last <= 4500)
    )


def test_where_neither_side_is_long_enough_the_longer_one_is_followed_by_silence():
    stem = np.arange(1, 6001, dtype=np.int16)[None]
    rng = np.random.default_rng(0)
    for first, last, kept in ((1000, 4000, stem[:, 4000:]), (2500, 5000, stem[:, :2500]), (0, 6000, stem[:, :0])):
        passage = passage_beside(rng, stem, 3000, first, last)
        np.testing.assert_array_equal(passage, np.pad(kept, ((0, 0), (0, 3000 - kept.shape[1]))))


def short_examples(labels) -> Interface:
    """Of half a second, for the short pieces of the small corpus."""
    shown = interface(context="example", labels=labels)
    return replace(shown, config=shown.config.model_copy(update={"example_seconds": 0.5}))


def whole(sound) -> np.ndarray:
    """Samples as in the stem."""
    return np.rint(sound * 32768).astype(int)


def test_a_player_is_shown_with_the_label_and_a_passage_of_the_own_stem_outside_of_the_window():
    for mixture in drawn():
        for source in mixture.sources:
            label, sound = label_and_sound(source.view)
            mixed = whole(source.stem[0, 200:1000])
            assert label == source.label and len(sound) == 3000
            # Silence follows where the window lies in the middle of the clip.
            assert set(sound[sound > 0] // 450) == set(mixed // 450)
            assert not set(sound[sound > 0]) & set(mixed[20:-20])


def test_the_passage_is_as_fast_as_the_stem_that_is_mixed():
    speeds = []
    for mixture in drawn(pitch_semitones=5):
        for source in mixture.sources:
            _, sound = label_and_sound(source.view)
            if sound.min() > 0 and source.stem[0].min() > 0:
                slopes = [np.polyfit(np.arange(500), part[100:600], 1)[0] for part in (sound, whole(source.stem[0]))]
                speeds.append(slopes[0])
                assert slopes[0] == pytest.approx(slopes[1], rel=0.1)
    assert min(speeds) < 0.045 and max(speeds) > 0.055


def test_the_mixtures_are_those_of_a_network_that_is_conditioned_on_labels():
    for one, other in zip(drawn(), drawn("labels"), strict=True):
        np.testing.assert_array_equal(one.sound, other.sound)


def test_a_shuffled_example_is_of_another_player_under_the_right_label():
    for right, wrong in zip(drawn(), drawn(shuffle_pictures=True), strict=True):
        np.testing.assert_array_equal(right.sound, wrong.sound)
        for one, other in zip((*right.sources, *right.distractors), (*wrong.sources, *wrong.distractors), strict=True):
            (label, own), (same, others) = label_and_sound(one.view), label_and_sound(other.view)
            assert label == same == one.label
            assert not set(own[own > 0] // 450) & set(others[others > 0] // 450)


def test_a_fixed_mixture_always_shows_the_same_passages_outside_of_its_excerpts(small_manifest):
    spec = FixedSpec("test", 4000, ((2, False), (2, True)) * 2, seed=1, distractors=True)
    shown, window = short_examples(small_manifest.recipe.labels), Window(5000, 4000, 8000)
    kept = fixed_set(small_manifest, spec)
    one, other = (list(mixtures_of(kept, small_manifest, window, shown, numbers)) for numbers in (None, range(4)))
    pieces = {piece.piece: piece for piece in read_pieces(small_manifest, "test")}
    for mixture, again, drawn in zip(one, other, kept.drawn, strict=True):
        players = zip((*mixture.sources, *mixture.distractors), (*drawn.sources, *drawn.distractors), strict=True)
        for player, excerpt in players:
            stem = pieces[excerpt.piece].players[excerpt.player].audio[0].astype(int)
            sound = whole(player.view[0, len(small_manifest.recipe.labels) :])
            place = place_of(sound, stem)
            assert place + len(sound) <= excerpt.start or place >= excerpt.start + 4000
        for player, same in zip(mixture.sources, again.sources, strict=True):
            np.testing.assert_array_equal(player.view, same.view)


def place_of(part: np.ndarray, whole: np.ndarray) -> int | None:
    """Where the one begins in the other; None where it is no part of it."""
    loudest = int(np.abs(part).argmax())
    (places,) = np.nonzero(whole == part[loudest])
    starts = [place - loudest for place in places if place >= loudest]
    return next((start for start in starts if np.array_equal(whole[start : start + len(part)], part)), None)


def test_a_whole_piece_shows_passages_of_other_pieces_with_the_same_timbre(small_manifest):
    shown = short_examples(small_manifest.recipe.labels)
    stems: dict[str, dict[str, np.ndarray]] = {}
    for piece in read_pieces(small_manifest, "train"):
        for player in piece.players:
            if player.audio is not None:
                stems.setdefault(f"{player.instrument} {player.timbre}", {})[piece.piece] = player.audio[0].astype(int)
    timbres = {name.partition(" ")[0]: name for name in stems}
    assert len(timbres) == len(stems)
    for scene in pieces_of(small_manifest, "train", shown):
        for label, views in scene.views.items():
            (view,) = views
            sound, pieces = whole(view[0, len(small_manifest.recipe.labels) :]), stems[timbres[label]]
            assert np.abs(sound).max() > 100 and view[0, small_manifest.recipe.labels.index(label)] == 1
            others = [stem for name, stem in pieces.items() if name != scene.name]
            assert any(place_of(sound, stem) is not None for stem in others)


def test_sources_without_a_timbre_in_another_piece_have_no_figures(small_manifest, caplog):
    shown = short_examples(small_manifest.recipe.labels)
    plain, scenes = (list(pieces_of(small_manifest, "test", *views)) for views in ((), (shown,)))
    for scene, whole_scene in zip(scenes, plain, strict=True):
        assert not scene.references and set(scene.without_example) == set(whole_scene.references)
    assert "no example of bn in test-000-bwv" in caplog.text and "no other piece of the split has its" in caplog.text


def test_a_piece_of_which_one_source_has_no_example_is_scored_on_the_others(files):
    system = ModelSystem(load_separator(files / "example"), "a")
    stems, view = (
        {label: noise(4.0, seed) for seed, label in enumerate(("va", "vc", "vn"))},
        np.ones((1, 4003), np.float32),
    )
    whole_scene = Scene("p", sum(stems.values()), stems, {"va": [view], "vn": [view]})
    scene = replace(whole_scene.restricted(["va", "vn"]), unscored={}, without_example={"vc": stems["vc"]})
    found = {score.label: score for score in evaluate_piece(system, scene, 8000)}
    assert list(found) == ["vc", "va", "vn"] and {score.sources for score in found.values()} == {3}
    assert all(np.isnan(getattr(found["vc"], name)) for name in PIECE_FIGURES)
    assert np.isfinite(found["vn"].si_sdr_improvement) and np.isfinite(found["vn"].sdr)
    assert [score.label for score in found.values() if not score.has_example] == ["vc"]
    assert scene.restricted(["va"]).without_example == {} and set(scene.restricted(["va"]).unscored) == {"vn", "vc"}


def test_a_cut_scene_keeps_its_examples_whole():
    sound, view = np.ones((1, 800), np.float32), np.ones((1, 300), np.float32)
    scene = Scene("p", sound, {"vn": sound, "vc": sound}, {"vn": [view], "vc": [view]})
    beginning, (around, begin) = scene.beginning(200), scene.around(300, 100)
    assert beginning.mixture.shape == (1, 200) and around.mixture.shape == (1, 100) and begin == 300
    assert all(cut.views["vn"][0] is view for cut in (beginning, around))


def test_an_encoder_does_not_hear_how_loud_an_example_is_and_learns():
    encoder, sound = ExampleEncoder(8000), torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0)) / 10
    vectors = encoder(sound)
    torch.testing.assert_close(encoder(sound / 4), vectors, atol=1e-3, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    vectors[0, 0].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


# Recordings


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (1, round(seconds * 8000))).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A duet, a file of each player alone with half a second of sound in its middle, and a model."""
    folder = tmp_path_factory.mktemp("recording")
    write_wav(folder / "duet.wav", noise(1.0, 0), 8000)
    for name, seed in (("one", 1), ("two", 2)):
        write_wav(folder / f"{name}.wav", np.pad(noise(0.5, seed), ((0, 0), (4000, 4000))), 8000)
    write_wav(folder / "short.wav", noise(0.4, 3), 8000)
    write_wav(folder / "silent.wav", 0 * noise(1.0, 3), 8000)
    for context in ("example", "labels"):
        config = WaveUNetConfig(levels=3, filters=4, outputs="queries", site="decoder", context=context)
        config = config.model_copy(update={"example_seconds": 0.5, "initial_output": "mixture"})
        torch.manual_seed(0)
        save_separator(folder / context, Separator(config, LABELS, 8000), {})
    return folder


def separate(files, *given, model="example", instruments="vn,vn"):
    examples = tuple((label, files / f"{name}.wav") for label, name in given)
    out = files / f"stems-{len(given)}-{model}"
    return separate_recording(
        files / "duet.wav", files / model, out, instruments, options=Options(examples=examples, overwrite=True)
    )


def test_a_recording_is_separated_by_the_loudest_stretch_of_each_example(files):
    found = separate(files, ("violin", "one"), ("vn", "two"))
    rows = [
        np.concatenate([[0, 0, 1], read_audio(files / f"{name}.wav", 8000)[0, 4000:8000]]) for name in ("one", "two")
    ]
    context = torch.from_numpy(np.stack(rows)[:, None].astype(np.float32))
    mixture = torch.from_numpy(read_audio(files / "duet.wav", 8000))
    expected = found.gain * separate_all(load_separator(files / "example"), mixture, context).numpy()
    assert list(found.stems) == ["vn-left", "vn-right"]
    for path, stem in zip(found.stems.values(), expected, strict=True):
        np.testing.assert_allclose(read_audio(path, 8000), stem, atol=2e-4)
    page = found.page.read_text(encoding="utf-8")
    assert "a recording of each player alone" in page and "violin: one.wav, violin: two.wav" in page


@pytest.mark.parametrize(
    ("given", "options", "error", "text"),
    [
        ((), {}, ModelError, "needs 0.5 s of every player alone, .*; got none for players .* add --example vn=FILE"),
        ((("vn", "one"),), {}, ModelError, "got 1 of vn for players of vn, vn"),
        ((("vn", "one"), ("vc", "two")), {}, ConfigError, "of a player .* who has none yet; got vc=.*two.wav"),
        ((("vn", "one"), ("vn", "short")), {}, MediaError, "short.wav must be at least 0.5 s long, .*; got 0.4 s"),
        ((("vn", "one"), ("vn", "silent")), {}, MediaError, "must sound in .*silent.wav, .*; got silence in all"),
        ((("vn", "one"),), {"model": "labels"}, ConfigError, "--example is for a model whose context is ex"),
    ],
)  # fmt: skip
def test_examples_that_are_missing_or_of_no_use_are_refused(files, given, options, error, text):
    with pytest.raises(error, match=text):
        separate(files, *given, **options)


def test_an_example_without_its_label_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match=r"--example takes LABEL=FILE; got 'violin.wav'. To fix: write for example"):
        parse_examples(["violin.wav"])
    with pytest.raises(MediaError, match="nowhere.wav must be a media file; got no such file"):
        parse_examples(["vn=nowhere.wav"])
