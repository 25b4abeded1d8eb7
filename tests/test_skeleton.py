"""Skeletons from the shards to the network and its scores; what every context must do is in test_contexts.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vimss.baselines import BASELINES
from vimss.errors import ConfigError, DataError, ModelError
from vimss.evaluate import evaluate_piece, score_mixtures
from vimss.model.contexts import CONTEXTS, Recording
from vimss.model.fit import check_seen
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.separator import Separator, load_separator, save_separator
from vimss.runtime import Place
from vimss.search.checks import check_settings
from vimss.shards.corpora.chamber.skeleton import JOINTS
from vimss.stream.read import read_clips
from vimss.stream.scene import pieces_of
from vimss.systems import model_system
from vimss.train.config import Settings, ValidationConfig
from vimss.train.loop import Training, train

MODEL = {
    "context": "skeleton", "outputs": "queries", "site": "decoder", "levels": 3, "filters": 4, "max_filters": 8,
    "down_kernel": 5, "output_activation": "linear", "initial_output": "mixture",
}  # fmt: skip
PLACE = Place(name="here")


def settings(**model) -> Settings:
    training = {"batch_size": 4, "output_samples": 2005, "audio_seconds": 4, "report_seconds": 4}
    return Settings.model_validate({"model": {**MODEL, **model}, "training": training})


@pytest.fixture(scope="module")
def trained(small_manifest, tmp_path_factory):
    """The folder of a network after four steps, and the metrics of its report."""
    folder, reports = tmp_path_factory.mktemp("trained"), []

    def report(metrics, checkpoint):
        checkpoint.rename(folder / "last")
        checkpoint.mkdir()
        reports.append(metrics)

    train(Training(settings(), small_manifest, ValidationConfig(mixtures=6, seconds=0.25)), report, None)
    return folder / "last" / "model", reports[-1]


def test_the_default_size_is_that_of_the_embedded_corpus(small_manifest):
    clip = next(read_clips(small_manifest, "train", parts=("skeleton",)))
    size = WaveUNetConfig().skeleton_size
    assert size == 3 * len(JOINTS) and {player.skeleton.shape[1] for player in clip.players} == {size}


def test_a_network_is_trained_and_scored_on_mixtures_and_whole_pieces(small_manifest, trained):
    folder, metrics = trained
    assert np.isfinite(metrics["valid_loss"])
    system = model_system(folder, small_manifest, "posture")
    mixtures = score_mixtures(system, small_manifest, "test", numbers=range(3))
    assert all(np.isfinite([*each.si_sdr_improvement, *each.label_contrast]).all() for each in mixtures)
    assert all(len(each.label_contrast) == 2 and len(each.absent_level) == 1 for each in mixtures)
    scene = next(pieces_of(small_manifest, "test", system.views))
    assert [score.label for score in evaluate_piece(system, scene, 8000)] == sorted(scene.references)
    assert {view.shape[1] for views in scene.views.values() for view in views} == {48}


def test_another_players_skeleton_gives_another_output(small_manifest, trained):
    separator = load_separator(trained[0])
    with torch.no_grad():
        for parameter in separator.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    clip = next(read_clips(small_manifest, "test", parts=separator.interface.members))
    one, other = (torch.from_numpy(player.skeleton)[None, None].float() for player in clip.players[:2])
    samples = separator.input_samples(separator.geometry.window_at_least(30))
    mixture = 0.3 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(1))
    assert (separator(mixture, one) - separator(mixture, other)).abs().max() > 1e-4


def test_a_size_that_the_shards_do_not_have_is_refused_before_any_trial(small_manifest):
    check_settings(settings(), small_manifest, PLACE)
    with pytest.raises(
        ConfigError,
        match=r"model.skeleton_size must be that of the skeletons in the shards, 48 numbers per picture; got 141, and "
        r"48 for 1-\w+ in .*\. To fix: set model.skeleton_size: 48, or",
    ):
        check_settings(settings(skeleton_size=141), small_manifest, PLACE)
    check_settings(settings(skeleton_size=141), small_manifest, PLACE, undecided=["model.skeleton_size"])


def test_shards_that_are_mixed_in_must_have_skeletons_of_that_size_too(small_manifest):
    other = small_manifest.model_copy(update={"shards": (), "name": "other"})
    with pytest.raises(DataError, match="must hold the split 'train'"):
        check_settings(settings(), small_manifest.mixed_with([(other, 0.5)]), PLACE)


def test_a_model_is_not_scored_on_shards_with_other_skeletons(small_manifest):
    separator = Separator(WaveUNetConfig(**MODEL, skeleton_size=141), small_manifest.recipe.labels, 8000)
    with pytest.raises(ConfigError, match="model.skeleton_size must be that of the skeletons in the shards, 48"):
        check_seen(separator, small_manifest, "test", "posture")


def test_no_recording_can_be_separated_with_it(tmp_path):
    context = CONTEXTS["skeleton"](WaveUNetConfig(**MODEL), ("vn", "vc"))
    with pytest.raises(
        ModelError,
        match=r"a model whose context is skeleton needs the joints of every player, and VIMSS has no pose estimator; "
        r"got the recording .*duet.mp4\. To fix: separate it with a model of another context, such as labels, or",
    ):
        context.of_recording(Recording(tmp_path / "duet.mp4", ("vn", "vc")))


@pytest.mark.rare
def test_vimss_evaluate_prints_its_row_on_other_shards(small_manifest, small_recipe, trained, vimss_says, tmp_path):
    separator = load_separator(trained[0])
    save_separator(tmp_path / "posture", separator, {})
    (tmp_path / "store" / "shards").mkdir(parents=True)
    (tmp_path / "store" / "shards" / small_manifest.folder.name).symlink_to(small_manifest.folder)
    (tmp_path / "small.yaml").write_text(small_recipe.model_dump_json())
    code, out, err = vimss_says(
        "evaluate", "--model", tmp_path / "posture", "--shards", tmp_path / "small.yaml", "--json"
    )
    assert code == 0, err
    rows = {Path(row["system"]).name: row for row in json.loads(out)}
    assert {"posture", *BASELINES} - set(rows) == {"NMF, all notes"} and rows["posture"]["two_sources"]["intervals"]
