"""Every corpus with stems once through the flow: a tree of chamber stems, its shards, a short training, evaluation."""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from vimss.evaluate import evaluate
from vimss.evaluations import evaluate_systems
from vimss.media import write_video, write_wav
from vimss.model.separator import Separator
from vimss.shards.recipe import load_recipe
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.read import read_clips
from vimss.systems import ModelSystem
from vimss.train.config import Settings, ValidationConfig
from vimss.train.loop import Training, train

RATE, SAMPLES = 8000, 12_000
SMALL = [
    f"sample_rate={RATE}",
    "clip_seconds=3",
    "clips_per_shard=2",
    "picture={size: 16, frame_rate: 5}",
    "expect=null",
]

Stems = dict[str, list[np.ndarray]]
"""Label to stems of one length, no two alike."""


@pytest.fixture(scope="module")
def stems(small_manifest) -> Stems:
    found = defaultdict(list)
    for split in small_manifest.splits:
        for clip in read_clips(small_manifest, split):
            for player in clip.players:
                if player.audio is not None:
                    found[player.instrument].append(player.audio[:, :SAMPLES] / np.float32(32768))
    return found


def urmp(folder: Path, stems: Stems) -> None:
    for name in ("08_Spring_fl_vn", "12_Spring_vn_vn_vc", "03_Dance_fl_cl", "10_March_tpt_sax", "01_Jupiter_vn_vc"):
        number, title, *codes = name.split("_")
        parts = [stems[code].pop() for code in codes]
        for part, (code, stem) in enumerate(zip(codes, parts, strict=True), 1):
            write_wav(folder / name / f"AuSep_{part}_{code}_{number}_{title}.wav", stem, RATE)
        write_wav(folder / name / f"AuMix_{name}.wav", sum(parts), RATE)
        write_video(folder / name / f"Vid_{name}.mp4", grey(16, 32 * len(parts)), 5.0, sum(parts), RATE)


def musdb18(folder: Path, stems: Stems) -> None:
    sounds = {"bass": "db", "drums": "tba", "other": "vn", "vocals": "sax"}
    for name in ("train/A - One", "train/B - Two", "train/C - Three", "train/Leaf - Summerghost", "test/D - Four"):
        parts = {sound: np.repeat(stems[code].pop(), 2, axis=0) for sound, code in sounds.items()}
        for sound, stem in {**parts, "mixture": sum(parts.values())}.items():
            write_wav(folder / name / f"{sound}.wav", stem, RATE)


def solos(folder: Path, stems: Stems) -> None:
    codes = {"Cello": "vc", "Flute": "fl", "Violin": "vn"}
    ids = {name: [f"{code}{number}" for number in range(5)] for name, code in codes.items()}
    folder.mkdir()
    (folder / "solos_ids.json").write_text(json.dumps(ids))
    (folder / "solos_timestamps.json").write_text(json.dumps({name: {one: [] for one in ids[name]} for name in ids}))
    for name, code in codes.items():
        for one in ids[name]:
            write_video(folder / name / f"{one}.mp4", grey(32, 32), 5.0, stems[code].pop(), RATE)


def music(folder: Path, stems: Stems) -> None:
    codes = {"cello": "vc", "clarinet": "cl", "violin": "vn"}
    videos = {name: [f"{code}{number}" for number in range(5)] for name, code in codes.items()}
    for file, content in (("MUSIC_solo_videos.json", videos), ("MUSIC_duet_videos.json", {"cello violin": ["both"]})):
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps({"version": "1.0", "videos": content}))
    for name, code in codes.items():
        for one in videos[name]:
            write_video(folder / name / f"{one}.mp4", grey(32, 32), 5.0, stems[code].pop(), RATE)
    both = stems["vc"].pop() + stems["vn"].pop()
    write_video(folder / "cello violin" / "both.mp4", grey(32, 64), 5.0, both, RATE)


def sopjfm(folder: Path, stems: Stems) -> None:
    for letters, code in (("c", "vc"), ("f", "fl"), ("v", "vn")):
        for number in range(5):
            part = "train" if number < 4 else "test"
            write_wav(folder / "wav" / part / f"{letters}{number}.wav", stems[code].pop(), RATE)


def folder(folder: Path, stems: Stems) -> None:
    for number in range(5):
        for code in ("vn", "vc", "cl"):
            write_wav(folder / f"piece {number}" / f"{code}.wav", stems[code].pop(), RATE)


def small_settings(channels: int) -> Settings:
    return Settings.model_validate(
        {
            "model": {
                "levels": 4, "filters": 4, "down_kernel": 5, "up_kernel": 3, "outputs": "queries", "context": "labels",
                "site": "decoder", "op": "concat", "channels": channels, "initial_output": "mixture",
            },
            "mixing": {"windows_per_clip": 4},
            "training": {
                "output_samples": 4099, "batch_size": 2, "audio_seconds": 40, "report_seconds": 20, "optimizer": "muon",
                "learning_rate": 3e-3,
            },
        }
    )  # fmt: skip


def grey(height: int, width: int) -> np.ndarray:
    return np.full((8, height, width, 3), 90, np.uint8)


def clarinets(folder: Path, stems: Stems) -> None:
    lines = ["video,player,piece"]
    for number in range(5):
        write_video(folder / f"{number}.mp4", grey(32, 32), 5.0, stems["fl"].pop(), RATE)
        lines.append(f"{number}.mp4,player,work {number}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_a_corpus_of_one_instrument_joins_another(stems, tmp_path):
    left, store = {label: list(found) for label, found in stems.items()}, Store(tmp_path / "store")
    folder(tmp_path / "own", left)
    clarinets(tmp_path / "clarinets", left)
    own = write_shards(load_recipe("folder", SMALL), "folder", store, tmp_path / "own")
    other = write_shards(load_recipe("clarinet4science", SMALL), "cl", store, tmp_path / "clarinets")
    manifest = own.mixed_with([(other, 0.4)])
    reports = []
    separator = train(
        Training(small_settings(1), manifest, ValidationConfig(mixtures=6, seconds=0.5)),
        lambda metrics, _: reports.append(metrics),
    )
    assert math.isfinite(reports[-1]["valid_loss"])
    assert evaluate(ModelSystem(separator, "joined"), manifest, "test").count() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "tree"),
    [
        ("urmp", urmp),
        ("musdb18hq", musdb18),
        ("solos", solos),
        ("music", music),
        ("sopjfm", sopjfm),
        ("folder", folder),
    ],
)
def test_a_corpus_goes_through_the_whole_flow(stems, tmp_path, recipe, tree):
    tree(tmp_path / "source", {label: list(found) for label, found in stems.items()})
    manifest = write_shards(load_recipe(recipe, SMALL), recipe, Store(tmp_path / "store"), tmp_path / "source")
    settings = small_settings(manifest.recipe.channels)
    reports = []
    validation = ValidationConfig(mixtures=6, seconds=0.5)
    separator: Separator = train(Training(settings, manifest, validation), lambda metrics, _: reports.append(metrics))
    first, last = reports[0]["valid_loss"], reports[-1]["valid_loss"]
    assert math.isfinite(first) and last < first + 0.5
    evaluation = evaluate(ModelSystem(separator, recipe), manifest, "test")
    assert math.isfinite(evaluation.two_sources.si_sdr_improvement)
    # Solos have no whole pieces to separate.
    assert (evaluation.count() > 0) == (recipe in {"urmp", "musdb18hq", "folder"})
    # Rows that need no training, also where train lacks most of the recipe's labels.
    for row in evaluate_systems(manifest, {}, "test"):
        # Methods that separate two sources have no whole pieces.
        pieces = 0 if row.truth == "order" else evaluation.count()
        assert math.isfinite(row.two_sources.si_sdr_improvement) and row.count() == pieces
