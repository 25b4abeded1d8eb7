import json
import re
import resource
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from vimss import media
from vimss.errors import ConfigError, MediaError, ModelError, StorageError
from vimss.metrics import si_sdr_improvement
from vimss.model.apply import separate_all
from vimss.model.contexts import Recording
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.model.vision_config import VisionConfig
from vimss.namer import namer_folder
from vimss.pages import listening, of_recording
from vimss.separate import InstrumentsFrom, Options, Reports, Separated, separate_recording
from vimss.separate import folder as folders
from vimss.separate import scores as scoring
from vimss.shards.manifest import Manifest
from vimss.train.config import Settings
from vimss.train.loop import data_card
from vimss.train.objectives import open_objective

RATE = 8000
LABELS = ("vn", "va", "vc")
PICTURE = {"size": 32, "frame_rate": 5.0}
CARD = {"data": "quickstart: drawn players of recorded samples.", "licence": "CC0"}


def make_model(folder: Path, labels: tuple[str, ...] = LABELS, **settings: Any) -> Path:
    torch.manual_seed(0)
    settings = {
        "site": "decoder",
        "outputs": "queries",
        "levels": 3,
        "filters": 4,
        "initial_output": "mixture",
    } | settings
    save_separator(folder, Separator(WaveUNetConfig(**settings), labels, RATE), CARD | {"picture": PICTURE})
    return folder


def sound(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (1, round(seconds * RATE))).astype(np.float32)


def true_violin(recording: Path) -> np.ndarray:
    return media.read_audio(recording, RATE) * 0.5 + sound(seed=5)


def columns(*greys: int, count: int = 10) -> np.ndarray:
    """A film of players side by side, told apart by their brightness."""
    return np.concatenate([np.full((count, 32, 40, 3), grey, np.uint8) for grey in greys], axis=2)


def context_of(separator: Separator, *labels: str) -> torch.Tensor:
    return torch.from_numpy(separator.interface.context_of(labels))


def look(separator: Separator, file: Path, card: dict[str, Any] | None = None) -> np.ndarray:
    """What is shown of two players of a recording."""
    return separator.interface.of_recording(Recording(file, ("vn", "vn"), card or {"picture": PICTURE}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "labels")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "duet.mp4"
    media.write_video(path, columns(60, 180), 5.0, sound(), RATE, {"instruments": "vn,vc"})
    return path


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a vision network that nobody trained."""
    path = tmp_path_factory.mktemp("eyes") / "resnet18.safetensors"
    network = torchvision.models.resnet18(weights=None)
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory, model: Path, recording: Path) -> Separated:
    folder = tmp_path_factory.mktemp("stems")
    media.write_wav(folder / "true" / "vn.wav", true_violin(recording), RATE)
    media.write_wav(folder / "true" / "Cello 1.wav", sound(2.0, seed=3), RATE)
    return separate_recording(recording, model, folder / "out", references=folder / "true")


def test_every_label_gets_the_stem_that_the_network_gives(separated: Separated, model: Path, recording: Path) -> None:
    separator = load_separator(model)
    mixture = torch.from_numpy(media.read_audio(recording, RATE))
    expected = separate_all(separator, mixture, context_of(separator, "vn", "vc")).numpy()
    assert list(separated.stems) == ["vn", "vc"]
    for estimate, path in zip(expected, separated.stems.values(), strict=True):
        assert np.allclose(media.read_audio(path, RATE), estimate, atol=1 / 32768)


def test_the_folder_holds_stems_page_and_record_and_nothing_else(separated: Separated) -> None:
    assert sorted(path.name for path in separated.page.parent.iterdir()) == [
        "page.html",
        "separated.json",
        "vc.wav",
        "vn.wav",
    ]
    record = json.loads((separated.page.parent / "separated.json").read_text())
    assert record["stems"] == ["vn", "vc"] and record["scores"] == separated.scores


def test_a_picture_that_stops_before_the_sound_is_noted(tmp_path: Path) -> None:
    vision = VisionConfig(network="compact", weights="random")
    model = make_model(tmp_path / "model", context="frames", vision=vision)
    for count, said in ((10, ()), (4, ("the picture stops 1.2 s before the sound: players are shown as they are in",))):
        media.write_video(tmp_path / f"{count}.mp4", columns(60, 180, count=count), 5.0, sound(), RATE)
        found = separate_recording(tmp_path / f"{count}.mp4", model, tmp_path / f"{count}", "vn,vc")
        assert [note[: len(wanted)] for note, wanted in zip(found.notes, said, strict=True)] == list(said)


@pytest.mark.parametrize("named", [True, False])
def test_a_picture_too_narrow_for_the_players_is_refused(tmp_path: Path, named: bool) -> None:
    media.write_video(tmp_path / "thin.mp4", np.zeros((10, 32, 20, 3), np.uint8), 5.0, sound(), RATE)
    vision = VisionConfig(network="compact", weights="random")
    model = make_model(tmp_path / "model", **({} if named else {"context": "frames", "vision": vision}))
    players = InstrumentsFrom("chamber", namer_folder("chamber"), 3) if named else "vn,va,vc"
    fix = "count the players that are in the picture, or" if named else "name only the players that are in"
    rule = rf"must have a column of 8 or more pixels for each of 3 players; got 20 pixels. To fix: {fix}"
    with pytest.raises(MediaError, match=rule):
        separate_recording(tmp_path / "thin.mp4", model, tmp_path / "out", players)


def test_the_page_has_all_tracks_the_video_the_scores_and_the_limits(separated: Separated) -> None:
    html = separated.page.read_text()
    assert re.findall(r'<li class="track (\w+)">', html) == ["mix", "estimate", "reference", "estimate", "reference"]
    assert "data:video/mp4" in html and "SI-SDRi, dB" in html and "museval" in html
    assert len(re.findall(r'<p class="note">SI-SDRi [+−][\d.]+ dB</p>', html)) == 2
    assert (
        "nothing above 4 kHz" in html
        and "It was trained on quickstart: drawn players of recorded samples.</li>" in html
    )
    assert "has learned the timbres of its training data" in html and "<dd>violin, cello</dd>" in html


def test_the_page_names_the_model_as_it_was_asked_for_and_what_its_card_tells(
    tmp_path: Path, recording: Path, small_manifest: Manifest
) -> None:
    folder = make_model(tmp_path / "model")
    card = data_card(small_manifest, open_objective(Settings(), small_manifest).interface)
    save_separator(folder, load_separator(folder), card | {"picture": PICTURE})
    asked = separate_recording(recording, folder, tmp_path / "asked", options=Options(model_name="models:/small/3"))
    html = asked.page.read_text()
    assert "<dt>Model</dt><dd>models:/small/3</dd>" in html and "It was trained on small: Chamber music" in html
    assert small_manifest.recipe.licence[:30] in html
    assert json.loads((tmp_path / "asked" / "separated.json").read_text())["model"] == "models:/small/3"
    unnamed = separate_recording(recording, folder, tmp_path / "unnamed")
    assert f"<dt>Model</dt><dd>{folder}</dd>" in unnamed.page.read_text()


def test_the_score_is_the_improvement_over_the_recording(separated: Separated, recording: Path) -> None:
    mixture, stem = media.read_audio(recording, RATE), media.read_audio(separated.stems["vn"], RATE)
    assert separated.scores["vn"] == pytest.approx(
        si_sdr_improvement(mixture, true_violin(recording), stem, RATE), abs=0.05
    )


def test_instruments_on_the_command_line_go_before_the_metadata(tmp_path: Path, model: Path, recording: Path) -> None:
    found = separate_recording(recording, model, tmp_path / "out", "va, vn")
    assert list(found.stems) == ["va", "vn"] and found.scores == {}
    assert "reference" not in re.findall(r'<li class="track (\w+)">', found.page.read_text())


def test_two_players_of_one_label_share_a_stem(tmp_path: Path, model: Path, recording: Path) -> None:
    twice = separate_recording(recording, model, tmp_path / "twice", "vn,vn,vc")
    once = separate_recording(recording, model, tmp_path / "once", "vn,vc")
    assert list(twice.stems) == ["vn", "vc"]
    assert twice.stems["vn"].read_bytes() == once.stems["vn"].read_bytes()


def test_a_sound_file_at_another_rate_is_separated_at_the_rate_of_the_model(tmp_path: Path, model: Path) -> None:
    media.write_wav(tmp_path / "a b'c.wav", np.repeat(sound(1.0), 6, axis=1), 48000)
    found = separate_recording(tmp_path / "a b'c.wav", model, tmp_path / "out", "vc")
    assert media.probe(found.stems["vc"]).sample_rate == RATE
    assert media.read_audio(found.stems["vc"], RATE).shape == (1, RATE)
    assert "<video" not in found.page.read_text()


def test_a_model_with_one_output_per_label_writes_those_asked_for(tmp_path: Path, recording: Path) -> None:
    folder = make_model(tmp_path / "model", outputs="instruments", site="every_layer", initial_output="random")
    found = separate_recording(recording, folder, tmp_path / "out", "vc,va")
    separator = load_separator(folder)
    mixture = torch.from_numpy(media.read_audio(recording, RATE))
    expected = separate_all(separator, mixture, context_of(separator, "va", "vc")).numpy()
    assert np.allclose(media.read_audio(found.stems["vc"], RATE), expected[2], atol=1 / 32768)
    assert np.allclose(media.read_audio(found.stems["va"], RATE), expected[1], atol=1 / 32768)


def test_a_model_without_labels_names_its_outputs_by_number(tmp_path: Path, recording: Path) -> None:
    folder = make_model(tmp_path / "model", outputs="slots", site="none", slots=3)
    found = separate_recording(recording, folder, tmp_path / "out")
    assert list(found.stems) == ["slot_1", "slot_2", "slot_3"]
    with pytest.raises(
        ConfigError, match=r"outputs of this model have no labels; got --instruments vn\. To fix: leave"
    ):
        separate_recording(recording, folder, tmp_path / "again", "vn")


def test_players_are_the_columns_of_the_picture_from_left_to_right(tmp_path: Path, recording: Path) -> None:
    folder = make_model(tmp_path / "model", context="frames", vision=VisionConfig(weights="random"))
    pictures = look(load_separator(folder), recording)
    assert pictures.shape == (2, 10, 32, 32, 3)
    assert abs(pictures[0].mean() - 60) < 8 and abs(pictures[1].mean() - 180) < 8


@pytest.mark.parametrize("context", ["frames", "features"])
def test_players_with_one_label_who_are_shown_have_stems_named_by_their_places(
    tmp_path: Path, recording: Path, eyes: Path, context: str
) -> None:
    folder = make_model(tmp_path / "model", context=context, vision=VisionConfig(weights=str(eyes)))
    found = separate_recording(recording, folder, tmp_path / "out", "vn,vn")
    separator = load_separator(folder)
    shown = torch.from_numpy(look(separator, recording))
    expected = separate_all(separator, torch.from_numpy(media.read_audio(recording, RATE)), shown).numpy()
    assert list(found.stems) == ["vn-left", "vn-right"]
    for stem, output in zip(found.stems.values(), expected, strict=True):
        assert np.allclose(media.read_audio(stem, RATE), found.gain * output, atol=2 / 32768)
    page = found.page.read_text(encoding="utf-8")
    assert "violin, left" in page and "stay together in one stem" not in page


def test_outputs_of_labels_are_added_whatever_the_model_sees(tmp_path: Path, recording: Path, eyes: Path) -> None:
    folder = make_model(
        tmp_path / "model", context="features", outputs="instruments", vision=VisionConfig(weights=str(eyes))
    )
    found = separate_recording(recording, folder, tmp_path / "out", "vn,vn")
    assert list(found.stems) == ["vn"]
    assert "stay together in one stem" in found.page.read_text(encoding="utf-8")


def test_features_of_other_weights_are_refused(recording: Path, eyes: Path) -> None:
    config = WaveUNetConfig(context="features", site="output", levels=1, vision=VisionConfig(weights=str(eyes)))
    card = {"picture": PICTURE, "features": "resnet18-0000000000"}
    rule = r"needs the vision network of its features, resnet18-0000000000; got resnet18-\w{10}, with vision.weights: /"
    with pytest.raises(ModelError, match=rule):
        look(Separator(config, LABELS, RATE), recording, card)


def test_a_model_that_looks_needs_a_picture(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", context="frames", vision=VisionConfig(weights="random"))
    media.write_wav(tmp_path / "a.wav", sound(), RATE)
    with pytest.raises(MediaError, match="must have a video stream"):
        separate_recording(tmp_path / "a.wav", folder, tmp_path / "out", "vn")


@pytest.mark.parametrize("context", ["frames", "features"])
def test_a_video_whose_pictures_do_not_fit_is_refused_before_it_is_decoded(
    tmp_path: Path, recording: Path, eyes: Path, monkeypatch: pytest.MonkeyPatch, context: str
) -> None:
    monkeypatch.setattr("vimss.media.container.MAX_PICTURE_BYTES", 2 * 5 * 32 * 32 * 3)  # a second of two players
    folder = make_model(tmp_path / "model", context=context, vision=VisionConfig(weights=str(eyes)))
    rule = r"duet\.mp4 must be at most 1\.0 s long for a model that looks at 2 players; got 2\.0 s\. To fix: "
    with pytest.raises(MediaError, match=rule + "cut the recording into parts, or use a model .* on labels"):
        separate_recording(recording, folder, tmp_path / "out", "vn,vc")


def test_references_are_looked_for_before_pictures_are_decoded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", context="frames", vision=VisionConfig(weights="random"))
    media.write_wav(tmp_path / "a.wav", sound(), RATE)
    with pytest.raises(ConfigError, match="--references must be a folder of true stems"):
        separate_recording(tmp_path / "a.wav", folder, tmp_path / "out", "vn", tmp_path / "missing")


def test_features_of_another_width_are_refused(tmp_path: Path, recording: Path) -> None:
    folder = make_model(tmp_path / "model", context="features", feature_size=100, vision=VisionConfig(weights="random"))
    with pytest.raises(ModelError, match="needs features of 100 numbers per picture; got resnet18, which gives 512"):
        separate_recording(recording, folder, tmp_path / "out", "vn")


def test_stems_that_would_clip_share_one_gain_and_the_page_says_so(tmp_path: Path, recording: Path) -> None:
    folder = make_model(tmp_path / "model", outputs="instruments", site="none", output_activation="linear")
    separator = load_separator(folder)
    with torch.no_grad():
        separator.unet.head.weight.mul_(20.0)
    save_separator(folder, separator, CARD)
    found = separate_recording(recording, folder, tmp_path / "out", "vn,va")
    expected = separate_all(separator, torch.from_numpy(media.read_audio(recording, RATE))).numpy()[:2]
    gain = json.loads((tmp_path / "out" / "separated.json").read_text())["gain"]
    assert gain == pytest.approx(1 / np.abs(expected).max(), rel=1e-3)
    assert np.allclose(media.read_audio(found.stems["va"], RATE), expected[1] * gain, atol=2 / 32768)
    assert "the gain of all stems is reduced by" in found.page.read_text()
    assert found.gain == gain and found.sentences[0].startswith("the gain of all stems is reduced by")


def test_progress_is_told_in_seconds_of_the_recording(tmp_path: Path, model: Path, recording: Path) -> None:
    news: list[str] = []
    separate_recording(recording, model, tmp_path / "out", reports=Reports(progress=news.append))
    assert "2 of 2 s" in news


def test_a_recording_that_names_no_instruments_gets_the_list_of_labels(tmp_path: Path, model: Path) -> None:
    media.write_wav(tmp_path / "a.wav", sound(), RATE)
    with pytest.raises(
        ConfigError, match=r"a\.wav must say who plays: .* by --instruments; got neither.* some of vn, va, vc, sep"
    ):
        separate_recording(tmp_path / "a.wav", model, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "hint"), [("cellow", "did you mean 'vc'"), ("vn,vnn", "did you mean 'vn'"), ("kazoo", "To fix: ")]
)
def test_an_unknown_instrument_is_named_with_the_nearest_label(
    tmp_path: Path, model: Path, recording: Path, given: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=f"must be one of the model's labels; got .*{hint}.*choose from vn, va"):
        separate_recording(recording, model, tmp_path / "out", given)


def test_references_that_are_not_there_are_an_error(tmp_path: Path, model: Path, recording: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold true stems named by label; got none of vn\.wav, vc\.wav"):
        separate_recording(recording, model, tmp_path / "out", references=tmp_path)


def test_one_reference_of_two_scores_one_stem(tmp_path: Path, model: Path, recording: Path) -> None:
    media.write_wav(tmp_path / "vc.wav", sound(), RATE)
    found = separate_recording(recording, model, tmp_path / "out", references=tmp_path)
    assert list(found.scores) == ["vc"] and "museval" not in found.page.read_text()


def test_a_folder_that_holds_something_else_is_left_as_it_is(tmp_path: Path, model: Path, recording: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="must be a new folder, or one that `vimss separate` wrote; got some"):
        separate_recording(recording, model, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_same_command_again_replaces_what_it_wrote(tmp_path: Path, model: Path, recording: Path) -> None:
    separate_recording(recording, model, tmp_path / "out", "vn,va")
    found = separate_recording(recording, model, tmp_path / "out", "vc")
    assert (
        sorted(path.name for path in (tmp_path / "out").glob("*.wav"))
        == ["vc.wav"]
        == [path.name for path in found.stems.values()]
    )


def test_a_model_that_gives_nan_writes_nothing(tmp_path: Path, recording: Path) -> None:
    folder = make_model(tmp_path / "model")
    separator = load_separator(folder)
    with torch.no_grad():
        separator.unet.head.bias.fill_(torch.nan)
    save_separator(folder, separator, CARD)
    with pytest.raises(ModelError, match="a model must give finite samples; got NaN or infinite values after 0 s"):
        separate_recording(recording, folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_labels_that_are_no_names_of_files_are_refused(tmp_path: Path, recording: Path) -> None:
    folder = make_model(tmp_path / "model", labels=("../vn", "vc"))
    with pytest.raises(ModelError, match=r"labels must be words, for they become names of files; got \.\./vn"):
        separate_recording(recording, folder, tmp_path / "out", "../vn")


def peak_bytes(recording: Path, model: Path, out: Path, references: Path) -> int:
    tracemalloc.start()
    try:
        separate_recording(recording, model, out, "vn,vc", references)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (listening, of_recording, scoring):
        monkeypatch.setattr(module, "PAGE_SECONDS", 1.0)
    monkeypatch.setattr("vimss.model.apply.SMALLEST_BLOCK", 8192)
    peaks = []
    for number, seconds in enumerate((10, 10, 30)):  # the first pays for imports
        true = tmp_path / f"true{number}"
        for name in ("vn", "vc"):
            media.write_wav(true / f"{name}.wav", sound(seconds, seed=1), RATE)
        peaks.append(peak_bytes(true / "vn.wav", model, tmp_path / f"out{number}", true))
    # Less than one byte a sample: the sound itself would take four a signal.
    assert peaks[2] - peaks[1] < (30 - 10) * RATE


RESIDENT = """
import re, sys
from pathlib import Path
from vimss.pages import listening, of_recording
from vimss.separate import scores, separation
for module in (listening, of_recording, scores):
    module.PAGE_SECONDS = 1.0
folder = Path(sys.argv[1])
for name in ("short", "long"):
    separation.separate_recording(folder / f"{name}.wav", folder / "model", folder / name, "vn,vc")
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks of memory as Linux has them")
def test_no_library_holds_more_of_a_longer_recording(tmp_path: Path) -> None:
    """Tensors and FFmpeg's buffers are seen by the operating system alone."""
    make_model(tmp_path / "model", levels=1, filters=2)
    seconds = {"short": 20, "long": 800}
    for name in seconds:
        media.write_wav(tmp_path / f"{name}.wav", sound(seconds[name]), RATE)
    done = subprocess.run([sys.executable, "-c", RESIDENT, tmp_path], capture_output=True, text=True, check=True)
    short, long = (int(line) * 1024 for line in done.stdout.split())
    # Half of what a single signal of four bytes per sample would take; the allocators' own differences are 4 MB.
    assert long - short < 2 * (seconds["long"] - seconds["short"]) * RATE


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Sets the size beyond which no file grows, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("most", [1_000, 50_000, 97_000])
def test_a_full_disk_ends_a_separation_with_an_error_and_leaves_nothing(
    tmp_path: Path, model: Path, small_disk: Callable[[int], None], most: int
) -> None:
    """While the recording is read, while it is separated, and at the page, which is larger than any of these."""
    media.write_wav(tmp_path / "in" / "take.wav", sound(3.0), RATE)
    media.write_wav(tmp_path / "in" / "true" / "vn.wav", sound(3.0), RATE)
    (tmp_path / "out").mkdir()
    small_disk(most)
    rule = r"take must fit on the disk; got File too large with \d+ MB free. To fix: free some space or set --out to a "
    with pytest.raises(StorageError, match=rule):
        separate_recording(
            tmp_path / "in" / "take.wav", model, tmp_path / "out" / "new" / "take", "vn", tmp_path / "in" / "true"
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_before_the_work(
    tmp_path: Path, model: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimss.separate.folder.SPARE_BYTES", 2**60)
    said: list[str] = []
    with pytest.raises(StorageError, match=r"must have 1099511627776 MB free for this separation; got \d+ MB\. To fix"):
        separate_recording(recording, model, tmp_path / "out", reports=Reports(progress=said.append))
    assert said == [] and list(tmp_path.iterdir()) == []


def test_a_mixture_on_the_disk_needs_no_room_a_second_time(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.write_wav(tmp_path / "take.wav", sound(2.0), RATE)
    signal = 4 * 2 * RATE
    first = 3 * signal + signal // 2 + folders.SPARE_BYTES  # mixture, two stems, a WAV
    usage = shutil.disk_usage("/")
    for missing in (0, 1):
        free = iter((first, first - signal - missing))
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=next(free)))
        if missing:
            with pytest.raises(StorageError, match="MB free for this separation"):
                separate_recording(tmp_path / "take.wav", model, tmp_path / "out", "vn,vc")
        else:
            separate_recording(tmp_path / "take.wav", model, tmp_path / "out", "vn,vc")


def test_stems_last_as_long_as_the_recording_and_none_clips(tmp_path: Path, model: Path) -> None:
    media.write_wav(tmp_path / "loud.wav", np.sign(sound(1.7)).astype(np.float32), 11025)
    found = separate_recording(tmp_path / "loud.wav", model, tmp_path / "out", "vn,va,vc")
    (mix,) = {media.read_audio(tmp_path / "loud.wav", RATE).shape}
    for path in found.stems.values():
        stem = media.read_audio(path, RATE)
        assert stem.shape == mix and np.abs(stem).max() < 1


def test_a_silent_recording_gives_silent_stems_and_is_told(tmp_path: Path, model: Path) -> None:
    media.write_wav(tmp_path / "silent.wav", np.zeros((1, RATE), np.float32), RATE)
    told: list[str] = []
    found = separate_recording(
        tmp_path / "silent.wav", model, tmp_path / "out", "vn,vc", reports=Reports(note=told.append)
    )
    assert all(not media.read_audio(path, RATE).any() for path in found.stems.values())
    assert len(told) == 2 and "silent" in told[1] and told[1] in found.notes
    assert told[1].split(":")[0] in found.page.read_text()


def test_what_was_heard_stands_on_the_page_and_is_told_before_the_work(
    tmp_path: Path, model: Path, recording: Path
) -> None:
    told: list[str] = []
    found = separate_recording(recording, model, tmp_path / "out", reports=Reports(told.append, told.append))
    sound = found.sound.sentence
    assert told.index(sound) < told.index("2 of 2 s")
    assert f"<dt>Sound</dt><dd>{sound.removeprefix('read ')}</dd>" in found.page.read_text()


def test_one_channel_of_a_recording_can_be_separated(tmp_path: Path, model: Path) -> None:
    left, right = sound(1.0), sound(1.0, seed=9)
    media.write_wav(tmp_path / "both.wav", np.concatenate([left, right]), RATE)
    media.write_wav(tmp_path / "right.wav", right, RATE)
    one = separate_recording(tmp_path / "both.wav", model, tmp_path / "one", "vn", options=Options(channel="right"))
    other = separate_recording(tmp_path / "right.wav", model, tmp_path / "other", "vn")
    assert one.stems["vn"].read_bytes() == other.stems["vn"].read_bytes()
    assert one.sound.channel == "right"


def test_a_recording_that_was_cut_off_is_separated_where_that_is_asked_for(tmp_path: Path, model: Path) -> None:
    media.write_wav(tmp_path / "whole.wav", sound(3.0), RATE)
    whole = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"cut\.wav must be whole.*--allow-truncated"):
        separate_recording(tmp_path / "cut.wav", model, tmp_path / "out", "vn")
    found = separate_recording(
        tmp_path / "cut.wav", model, tmp_path / "out", "vn", options=Options(allow_truncated=True)
    )
    assert any("the file was cut off" in sentence for sentence in found.notes)
    assert "the file was cut off" in found.page.read_text()


def test_a_stream_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stream must be at least 0; got -1"):
        Options(stream=-1)
