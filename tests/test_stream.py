import dataclasses
import json
import shutil
import tarfile
from itertools import islice

import numpy as np
import pytest
from interfaces import LABELS, interface

from vimss.errors import ConfigError, DataError
from vimss.shards.clip import Clip, Player
from vimss.shards.corpora import cut_piece
from vimss.shards.manifest import open_manifest
from vimss.shards.recipe import Recipe
from vimss.stream import corpus as corpus_module
from vimss.stream.batch import Examples, Position, make_batch, whole_batch
from vimss.stream.config import MixingConfig
from vimss.stream.fixed import FixedSpec, fixed_set, mixtures_of
from vimss.stream.lazy import LazyClip, entry_of
from vimss.stream.mix import SOUND_ALONE, Pool, Window, _Take
from vimss.stream.read import join_clips, read_clips, read_pieces
from vimss.stream.stems import cut, equalise

WINDOW = Window(input_samples=1200, output_samples=800, sample_rate=8000)


def take(examples, count, **where):
    batches = examples.batches(4, where.pop("position", Position()), **where)
    return [next(batches) for _ in range(count)]


@pytest.fixture
def examples(small_manifest):
    mixing = MixingConfig(pool_clips=4, windows_per_clip=2)
    return Examples(small_manifest, "train", mixing, WINDOW, interface(labels=small_manifest.recipe.labels), seed=3)


def same(one, other) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))


# Reading


def test_clips_come_back_as_they_were_written(small_manifest):
    clip = next(read_clips(small_manifest, "train", parts=("audio", "picture", "masks")))
    player = clip.players[0]
    assert player.audio.shape == (1, clip.samples) and player.audio.any()
    assert player.picture.shape == (12, 32, 32, 3) and player.masks.shape == (2, 12, 32, 32)
    assert (player.boxes[:, :, 2:] >= player.boxes[:, :, :2]).all()


def test_every_clip_of_a_split_is_read_once(small_manifest):
    keys = [clip.key for clip in read_clips(small_manifest, "train")]
    assert len(keys) == len(set(keys)) == small_manifest.clips("train")


def test_what_is_not_asked_for_is_not_decoded(small_manifest):
    clip = next(read_clips(small_manifest, "train", parts=()))
    assert all(player.audio is None and player.picture is None for player in clip.players)


def test_a_damaged_shard_is_named_before_its_first_clip(small_manifest, tmp_path):
    folder = shutil.copytree(small_manifest.folder, tmp_path / "copy")
    with (folder / "train-000000.tar").open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff\x00\xff")
    with pytest.raises(
        DataError, match=r"train-000000.tar must have the SHA-256 .*delete .* and run `vimss shard small`"
    ):
        next(read_clips(open_manifest(folder), "train"))


def rewrite(folder, name, change):
    """A shard with one member changed, and a manifest that agrees with it."""
    path = folder / name
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            content = change(member.name, content)
            member.size = len(content)
            import io

            tar.addfile(member, io.BytesIO(content))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    import hashlib

    for shard in manifest["shards"]:
        if shard["name"] == name:
            shard["size"] = path.stat().st_size
            shard["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return open_manifest(folder)


def test_a_clip_without_a_member_of_its_json_is_an_error(small_manifest, tmp_path):
    folder = shutil.copytree(small_manifest.folder, tmp_path / "copy")
    changed = rewrite(
        folder,
        "train-000000.tar",
        lambda name, content: content.replace(b"player0.wav", b"player7.wav") if name.endswith("json") else content,
    )
    with pytest.raises(DataError, match="must hold the members that its JSON lists, and no more in them; got KeyError"):
        next(read_clips(changed, "train"))


def test_a_pickle_in_a_shard_is_not_opened(small_manifest, tmp_path):
    folder = shutil.copytree(small_manifest.folder, tmp_path / "copy")
    changed = rewrite(
        folder,
        "train-000000.tar",
        lambda name, content: b"cos\nsystem\n(S'exit 7'\ntR." if name.endswith("player0.boxes.npy") else content,
    )
    with pytest.raises(DataError, match="train-000000.tar"):
        next(read_clips(changed, "train", parts=("masks",)))


def clip(offset, samples, players) -> Clip:
    return Clip("p", offset, samples, 8000, tuple(players))


def test_clips_of_a_piece_are_joined_and_a_rest_is_silence():
    sounding = Player("vn", "1", np.ones((1, 4), np.int16))
    whole = join_clips([clip(0, 4, [sounding]), clip(4, 3, [Player("vn", "1", silent=True)])])
    assert whole.samples == 7
    assert whole.players[0].audio[0].tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert not whole.players[0].silent


def test_whole_pieces_are_those_of_the_manifest(small_manifest):
    names = {piece.name for piece in small_manifest.pieces if piece.split == "test"}
    assert {piece.piece for piece in read_pieces(small_manifest, "test")} == names


# Mixing


def fixed(manifest, *kinds):
    spec = FixedSpec("test", WINDOW.output_samples, kinds, margin=WINDOW.margin)
    return mixtures_of(fixed_set(manifest, spec), manifest, WINDOW, interface())


def test_mixture_is_the_sum_of_its_stems(small_manifest):
    (mixture,) = fixed(small_manifest, (3, False))
    assert len({source.label for source in mixture.sources}) == 3
    np.testing.assert_allclose(mixture.sound, sum(source.stem for source in mixture.sources), atol=1e-7)


def test_targets_are_the_middle_of_the_stems(small_manifest):
    whole = interface(labels=small_manifest.recipe.labels)
    (mixture,) = fixed(small_manifest, (2, True))
    batch = whole_batch(mixture, WINDOW, whole)
    assert batch.mixture.shape == (1, 1, 1200) and batch.targets.shape == (1, 2, 1, 800)
    np.testing.assert_allclose(batch.targets.sum(1), batch.mixture[:, :, 200:1000], atol=1e-6)


def test_the_same_seed_gives_the_same_batches(examples):
    for (one, _), (other, _) in zip(take(examples, 3), take(examples, 3), strict=True):
        assert same(one, other)


def test_another_seed_gives_other_batches(examples, small_manifest):
    other = Examples(small_manifest, "train", examples.mixing, WINDOW, examples.interface, seed=4)
    assert not np.array_equal(take(examples, 1)[0][0].mixture, take(other, 1)[0][0].mixture)


def test_resuming_at_a_position_gives_the_batches_that_would_have_come(examples):
    straight = take(examples, 12)
    for start in (1, 5, 7):
        resumed = take(examples, 12 - start, position=straight[start - 1][1])
        assert all(same(one, other) for (one, _), (other, _) in zip(straight[start:], resumed, strict=True))


def test_epochs_differ(examples):
    count = examples.batches_per_epoch(0, 4, 1)
    batches = take(examples, count + 1)
    assert [position.epoch for _, position in batches[-2:]] == [0, 1]
    assert not np.array_equal(batches[0][0].mixture, batches[-1][0].mixture)


def test_every_clip_is_an_anchor_in_every_epoch(examples):
    count = examples.manifest.clips("train") * examples.mixing.windows_per_clip
    mixtures = examples._mixtures(0, 0, 1, range(count), count)
    anchors = [next(mixtures).draw().sources for _ in range(count)]
    named = {source.clip for sources in anchors for source in sources}
    assert named == {clip.key for clip in read_clips(examples.manifest, "train")}


def test_ranks_read_different_shards_and_get_equally_many_batches(examples):
    shards = [{shard.name for shard in examples.corpus.shards(0, rank, 2)} for rank in range(2)]
    assert not shards[0] & shards[1]
    assert shards[0] | shards[1] == {shard.name for shard in examples.manifest.of_split("train")}
    positions = [[position for _, position in take(examples, 9, rank=rank, world_size=2)] for rank in range(2)]
    assert positions[0] == positions[1]


def test_batches_that_are_made_in_another_order_are_the_same(examples):
    whole = take(examples, 14, position=Position(0, 1))
    planned = list(islice(examples.plan(4, Position(0, 1)), 14))
    made = {number: examples.make(planned[number]) for number in np.random.default_rng(0).permutation(14)}
    for number, (batch, position) in enumerate(whole):
        assert same(batch, made[number]) and position == planned[number].after
    assert whole[-1][1].epoch == 2


@pytest.fixture
def blended(small_manifest, examples):
    """Two corpora: the splits valid and promote are called train, as if they were another one."""
    shards = tuple(
        shard.model_copy(update={"split": "train"})
        for shard in small_manifest.shards
        if shard.split in {"valid", "promote"}
    )
    other = small_manifest.model_copy(update={"shards": shards, "name": "other"})
    manifest = small_manifest.mixed_with([(other, 0.25)])
    return Examples(
        manifest, "train", MixingConfig(pool_clips=4, windows_per_clip=2), WINDOW, examples.interface, seed=3
    )


def test_corpora_are_mixed_by_their_shares_and_none_is_cut_short(blended, small_manifest):
    count = 4 * blended.batches_per_epoch(0, 4, 1)
    planned = [list(blended._mixtures(epoch, 0, 1, range(count), count)) for epoch in range(12)]
    drawn = [[mixture.draw() for mixture in mixtures] for mixtures in planned]
    own = {clip.key for clip in read_clips(small_manifest, "train")}
    firsts = [mix.sources[0].clip for mixtures in drawn for mix in mixtures]
    others = [clip for clip in firsts if clip not in own]
    assert 0.18 < len(others) / (12 * count) < 0.32
    assert len(set(others)) == sum(small_manifest.clips(split) for split in ("valid", "promote"))
    # Players of the own corpus join those of others, not the other way round; no two epochs are alike.
    kinds = {tuple(source.clip in own for source in mix.sources) for mixtures in drawn for mix in mixtures}
    assert kinds == {(True, True), (False, True), (False, False)}
    assert not np.array_equal(drawn[0][0].sound, drawn[1][0].sound)


def test_a_blend_of_corpora_resumes_and_is_made_in_any_order_like_one(blended):
    whole = take(blended, 9)
    resumed = take(blended, 4, position=whole[4][1])
    planned = list(islice(blended.plan(4, Position()), 9))
    made = [blended.make(one) for one in planned[::-1]]
    for (batch, position), plan, other in zip(whole, planned, made[::-1], strict=True):
        assert same(batch, other) and position == plan.after
    assert all(same(one, other) for (one, _), (other, _) in zip(whole[5:], resumed, strict=True))


def test_corpora_that_do_not_fit_together_are_refused(small_manifest):
    recipe = small_manifest.recipe.model_copy(update={"sample_rate": 16000})
    with pytest.raises(ConfigError, match=r"'small' must have the sample_rate of 'small', 8000; got 16000"):
        small_manifest.mixed_with([(small_manifest.model_copy(update={"recipe": recipe}), 0.5)])
    with pytest.raises(ConfigError, match=r"together below 1.*got small: 0.5, small: 0.5"):
        small_manifest.mixed_with([(small_manifest, 0.5), (small_manifest, 0.5)])
    # Features belong to the shards beside them, whatever else training hears.
    assert small_manifest.mixed_with([(small_manifest, 0.5)]).digest == small_manifest.digest


def test_clips_that_end_between_two_pictures_have_as_many_views_as_others():
    recipe = Recipe(
        corpus="folder", description="d", licence="l", obtain="o", sample_rate=8000, clip_seconds=2,
        picture={"size": 16, "frame_rate": 12.5},
    )  # fmt: skip

    def piece(samples, label):
        rows = np.zeros((max(1, round(samples / 640)), 8), np.float16)
        player = Player(label, label, np.full((1, samples), 3000, np.int16), features=rows)
        return list(cut_piece(Clip(label, 0, samples, 8000, (player,), 12.5), recipe))

    window = Window(15_000, 8000, 8000)
    for extra in range(0, 640, 40):
        clips = [*piece(16_000, "vn"), *piece(16_000 + extra, "vc")]
        pool = Pool(list(map(LazyClip.of, clips)), plain(), window, interface(context="features"))
        mixture = pool.draw(np.random.default_rng(0), pool.clips[0], 2, aligned=False)
        assert {len(source.view) for source in mixture.sources} == {round(15_000 / 640)}


def test_clips_without_stems_leave_their_places_to_others_of_their_pool(monkeypatch, examples):
    duet = Clip("duet", 0, 2000, 8000, (tone("vn", 3000), tone("fl", 5000)))
    bare = [Clip(f"bare{n}", 0, 2000, 8000, (Player("vn", "1"), Player("fl", "2"))) for n in range(4)]
    shard = examples.manifest.of_split("train")[0].model_copy(update={"clips": 13})
    examples.corpus.manifest = examples.manifest.model_copy(update={"shards": (shard,)})
    others = [Clip(f"other{n}", 0, 2000, 8000, duet.players) for n in range(4)]
    listed = tuple(entry_of(clip, shard.name) for clip in (*bare, duet, *bare, *others))
    lazy = {clip.key: LazyClip.of(clip) for clip in (duet, *others)}
    monkeypatch.setattr(corpus_module, "list_shard", lambda *_: listed)
    monkeypatch.setattr(corpus_module, "lazy_clips", lambda _, __, found, *rest: [lazy[clip.key] for clip in found])
    drawn = examples.corpus.mixtures(0, 0, 1, range(26), 2)
    mixtures = [next(drawn).draw() for _ in range(26)]
    # The first pool has the four bare clips and the duet, which is the anchor of all ten; the second has the others.
    assert [{source.clip for source in mixture.sources} for mixture in mixtures[:10]] == [{duet.key}] * 10
    assert all(source.clip.startswith("other") for mixture in mixtures[10:] for source in mixture.sources)


def test_more_ranks_than_shards_are_refused_with_the_remedy(examples):
    with pytest.raises(
        ConfigError, match="every worker must have at least one batch.*`vimss shard small --set clips_per_shard=1`"
    ):
        examples.batches_per_epoch(0, 4, 999)


def test_a_window_longer_than_the_clips_is_refused(small_manifest):
    long = Window(40_000, 30_000, 8000)
    with pytest.raises(
        ConfigError, match=r"the output window must fit into the clips of 'small', which have 24000 samples"
    ):
        Examples(small_manifest, "train", MixingConfig(), long, interface(), seed=0)


def tone(label, value, samples=2000, **more) -> Player:
    return Player(label, label, np.full((1, samples), value, np.int16), **more)


def plain(**more) -> MixingConfig:
    return MixingConfig(gain_db=0, flip_polarity=False, **more)


def test_two_players_of_one_label_are_one_target_for_who_asks_by_label():
    duo = Clip("p", 0, 2000, 8000, (tone("vn", 3000), tone("vn", 5000), tone("fl", 7000)))
    pool = Pool([LazyClip.of(duo)], plain(), WINDOW, SOUND_ALONE)
    mixture = pool.draw(np.random.default_rng(0), pool.clips[0], 3, aligned=True)
    batch = make_batch([mixture], 1, WINDOW, interface("instruments"), plain(), np.random.default_rng(0))
    levels = batch.targets[0, :, 0, 400] * 32768
    np.testing.assert_allclose(levels, [7000, 0, 8000], atol=0.01)
    assert batch.present.tolist() == [[True, False, True]]
    assert batch.context.tolist() == [[[1, 0, 1]]]


def test_an_absent_query_has_silence_as_its_target():
    duet = Clip("p", 0, 2000, 8000, (tone("vn", 3000), tone("fl", 5000)))
    pool = Pool([LazyClip.of(duet)], plain(), WINDOW, SOUND_ALONE)
    mixture = pool.draw(np.random.default_rng(0), pool.clips[0], 2, aligned=True)
    batch = make_batch(
        [mixture], 1, WINDOW, interface(), plain(queries=2, absent_probability=1.0), np.random.default_rng(0)
    )
    assert batch.context.argmax(-1).tolist() == [[1, 1]]
    assert not batch.targets.any() and not batch.present.any()


def test_a_query_by_label_names_its_own_stem():
    duet = Clip("p", 0, 2000, 8000, (tone("vn", 3000), tone("fl", 5000)))
    pool = Pool([LazyClip.of(duet)], plain(), WINDOW, SOUND_ALONE)
    mixture = pool.draw(np.random.default_rng(1), pool.clips[0], 2, aligned=True)
    batch = whole_batch(mixture, WINDOW, interface())
    level = {"fl": 5000, "vn": 3000}
    for query, target in zip(batch.context[0], batch.targets[0], strict=True):
        np.testing.assert_allclose(target[0, 400] * 32768, level[LABELS[query.argmax()]], atol=0.01)


def test_pictures_lie_at_the_time_of_their_sound():
    # The picture's brightness is the number of its frame; frame 10 of 25 a second is on from 0.40 to 0.44 s.
    picture = np.arange(50, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    film = Clip(
        "p", 0, 16000, 8000, (tone("vn", 3000, 16000, picture=picture), tone("fl", 1, 16000, picture=picture)), 25.0
    )
    pool = Pool([LazyClip.of(film)], plain(), Window(3200, 800, 8000), interface(context="frames"))
    view = pool._view(np.random.default_rng(0), _Take(film, 0, start=3200 + 1200, speed=1.0))
    # The input window begins 1200 samples before the output: at 0.4 s, and lasts 0.4 s, ten frames.
    assert view[:, 0, 0, 0].tolist() == list(range(10, 20))


def test_pictures_of_fewer_players_are_padded_and_marked():
    film = [tone(label, 3000, picture=np.ones((4, 2, 2, 3), np.uint8)) for label in LABELS]
    trio = Clip("p", 0, 2000, 8000, tuple(film), 16.0)
    pool = Pool([LazyClip.of(trio)], plain(), WINDOW, interface(context="frames"))
    drawn = [pool.draw(np.random.default_rng(0), pool.clips[0], count, aligned=True) for count in (2, 3)]
    batch = make_batch(drawn, 2, WINDOW, interface("instruments", "frames"), plain(), np.random.default_rng(0))
    assert batch.players.tolist() == [[True, True, False], [True, True, True]]
    assert not batch.context[0, 2].any() and batch.context[1, 2].any()


def test_a_model_that_looks_needs_pictures():
    deaf = Clip("p", 0, 2000, 8000, (tone("vn", 3000), tone("fl", 5000)))
    pool = Pool([LazyClip.of(deaf)], plain(), WINDOW, interface(context="frames"))
    with pytest.raises(DataError, match="model.context: frames needs a picture of every player; got none for vn"):
        pool.draw(np.random.default_rng(0), pool.clips[0], 2, aligned=True)


def test_slots_hold_the_stems_and_too_few_are_refused():
    trio = Clip("p", 0, 2000, 8000, (tone("vn", 3000), tone("fl", 5000), tone("vc", 7000)))
    pool = Pool([LazyClip.of(trio)], plain(max_sources=3), WINDOW, SOUND_ALONE)
    mixture = pool.draw(np.random.default_rng(0), pool.clips[0], 3, aligned=True)
    assert whole_batch(mixture, WINDOW, interface("slots", slots=4)).present.tolist() == [[True, True, True, False]]
    with pytest.raises(ConfigError, match="one for each source; got model.slots: 2 and a mixture of 3"):
        whole_batch(mixture, WINDOW, interface("slots", slots=2))


def test_a_pool_with_too_few_instruments_is_refused():
    solo = Clip("p", 0, 2000, 8000, (tone("vn", 3000),))
    with pytest.raises(DataError, match="must hold 2 different instruments that sound; got 1"):
        Pool([LazyClip.of(solo)], plain(), WINDOW, SOUND_ALONE)


def drawn_labels(clips, count=2, **settings) -> list[tuple[str, ...]]:
    """The labels of 40 independent mixtures."""
    pool = Pool([LazyClip.of(clip) for clip in clips], plain(max_sources=count, **settings), WINDOW, SOUND_ALONE)
    rng = np.random.default_rng(0)
    return [
        tuple(source.label for source in pool.draw(rng, pool.clips[0], count, aligned=False).sources) for _ in range(40)
    ]


DUO = Clip("p", 0, 2000, 8000, (tone("vn", 3000), tone("vn", 5000), tone("fl", 7000), tone("vc", 1000)))


def test_the_second_player_has_the_label_of_the_first_as_often_as_the_settings_say():
    found = drawn_labels([DUO], same_label_probability=0.5)
    both = sum(labels == ("vn", "vn") for labels in found)
    # Half of the mixtures begin with a violin, and only violins have another one.
    assert 5 < both < 15 and not any(one == other != "vn" for one, other in found)


def test_further_players_have_other_labels_than_the_equal_ones():
    found = drawn_labels([DUO], count=3, same_label_probability=1.0)
    assert {len(labels) for labels in found} == {3} and {("vn", "vn", "fl"), ("vn", "vn", "vc")} <= set(found)
    assert all(len(set(labels)) == 2 for labels in found if labels[0] == "vn")


def test_equal_players_are_two_players():
    pool = Pool([LazyClip.of(DUO)], plain(same_label_probability=1.0), WINDOW, SOUND_ALONE)
    rng = np.random.default_rng(0)
    for _ in range(20):
        levels = {float(source.stem[0, 400]) for source in pool.draw(rng, pool.clips[0], 2, aligned=False).sources}
        assert len(levels) == 2


def test_independent_players_are_drawn_as_ever_without_that_setting():
    with_default, without = drawn_labels([DUO]), drawn_labels([DUO], same_label_probability=0.0)
    assert with_default == without and all(one != other for one, other in without)


def test_cutting_beyond_the_ends_gives_silence():
    audio = np.arange(1, 6, dtype=np.int16)[None]
    assert (cut(audio, -2, 9, gain=1.0) * 32768)[0].tolist() == [0, 0, 1, 2, 3, 4, 5, 0, 0]


def test_gain_stays_within_its_bound():
    duet = Clip("p", 0, 2000, 8000, (tone("vn", 3000), tone("fl", 3000)))
    pool = Pool([LazyClip.of(duet)], MixingConfig(gain_db=6, flip_polarity=True), WINDOW, SOUND_ALONE)
    rng = np.random.default_rng(0)
    stems = [
        source.stem[0, 600] * 32768 / 3000
        for _ in range(50)
        for source in pool.draw(rng, pool.clips[0], 2, True).sources
    ]
    decibels = 20 * np.log10(np.abs(stems))
    assert np.abs(decibels).max() <= 6.01 and decibels.max() > 4 and decibels.min() < -4
    assert {bool(stem > 0) for stem in stems} == {True, False}


def test_the_equaliser_changes_bands_by_their_gain():
    times = np.arange(8000) / 8000
    low, high = (np.sin(2 * np.pi * hertz * times)[None].astype(np.float32) for hertz in (120, 3900))
    changed = equalise(low + high, np.array([-12.0, -12, -12, 0, 0, 0]))
    spectrum = np.abs(np.fft.rfft(changed[0])) / 4000
    np.testing.assert_allclose(20 * np.log10([spectrum[120], spectrum[3900]]), [-12, 0], atol=0.5)
