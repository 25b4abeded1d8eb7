"""The picture as a query by way of its label: a network names players, and a separator is asked by these labels."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit import SOUND, written_alone

from vimss import api, evaluations, named_models
from vimss.errors import ConfigError, DataError, MediaError, ModelError
from vimss.evaluate import NamedBy, Row, Table, evaluation_tasks, run_evaluation
from vimss.experiment import Experiment
from vimss.media import write_video, write_wav
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator
from vimss.namer import InstrumentNamer, Named, load_namer
from vimss.runtime import Place
from vimss.search.checks import check_experiment
from vimss.search.study import Study, TrialRecord
from vimss.separate import InstrumentsFrom, separate_recording
from vimss.session import open_session
from vimss.shards.clip import Player
from vimss.stream.scene import Scene
from vimss.systems import ModelSystem, NamedSystem, check_takes_labels
from vimss.train.config import Settings
from vimss.train.objectives.instruments_network import InstrumentsNetwork
from vimss.train.objectives.saved import save_network

LABELS = ("fl", "vc", "vn")
COLOURS = {"fl": (255, 0, 0), "vc": (0, 255, 0), "vn": (0, 0, 255)}
VISION = {"network": "resnet18", "weights": "random"}


def in_colour(label: str, count: int = 3) -> np.ndarray:
    """Pictures of a player of this label: one colour for each."""
    return np.broadcast_to(np.array(COLOURS[label], np.uint8), (count, 16, 16, 3)).copy()


@pytest.fixture(scope="module")
def network() -> InstrumentsNetwork:
    """Names each colour rightly: its last layer is solved for, which takes no training."""
    torch.manual_seed(0)
    chosen = Settings.model_validate({"objective": "instruments", "model": {"vision": VISION}})
    made = InstrumentsNetwork(chosen, LABELS, 8000).eval()
    with torch.no_grad():
        pictures = torch.from_numpy(np.stack([in_colour(label) for label in LABELS]))[:, None]
        features = torch.cat([made.vision(one[None])[0].mean(1) for one in pictures])
        wanted = 20 * torch.eye(3) - 10
        centred = features - features.mean(0)
        made.head.weight.copy_((torch.linalg.pinv(centred) @ (wanted - wanted.mean(0))).T)
        made.head.bias.copy_(wanted.mean(0) - made.head.weight @ features.mean(0))
    return made


@pytest.fixture(scope="module")
def model(network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("namer") / "model"
    save_network(folder, network, {"picture": {"size": 16, "frame_rate": 4}})
    return folder


@pytest.fixture(scope="module")
def namer(model) -> InstrumentNamer:
    return load_namer(model, "mine")


def separator(**settings) -> Separator:
    torch.manual_seed(1)
    chosen = {"levels": 2, "filters": 4, "down_kernel": 5, "site": "decoder", "outputs": "queries", **settings}
    return Separator(WaveUNetConfig(output_activation="linear", padding="same", **chosen), LABELS, 8000)


def scene(*labels: str, seen: dict[str, str] | None = None) -> Scene:
    """Two that sound and one who does not; `seen` are labels whose players look like those of another."""
    rng = np.random.default_rng(0)
    stems = {label: rng.normal(0, 0.1, (1, 4000)).astype(np.float32) for label in labels}
    views = {label: [in_colour((seen or {}).get(label, label))] for label in LABELS}
    return Scene("s", sum(stems.values()), stems, views)


# Names


def test_players_are_named_by_their_pictures_with_a_probability(namer):
    choices = namer.choices(LABELS)
    assert [namer.name_player(in_colour(label, 20), choices).label for label in LABELS] == list(LABELS)
    assert namer.name_player(in_colour("vn"), choices).probability > 0.99
    assert not Named("vn", 0.49).is_sure and Named("vn", 0.5).is_sure


def test_a_player_is_named_one_of_the_labels_that_are_wanted(namer):
    assert namer.name_player(in_colour("vn"), namer.choices(("fl", "vc"))).label in {"fl", "vc"}
    assert list(namer.choices(("violin", "tuba"))) == ["violin"]
    with pytest.raises(ModelError, match=r"'mine', .* must know one of tba, ob; got a model of fl, vc, vn"):
        namer.choices(("tba", "ob"))


@pytest.mark.parametrize("inputs", ["sound", "both"])
def test_a_network_that_needs_the_sound_names_no_players(inputs, tmp_path):
    chosen = {"objective": "instruments", "instruments": {"inputs": inputs}}
    looks = {"model": {"vision": VISION}} if inputs == "both" else {}
    made = InstrumentsNetwork(Settings.model_validate({**chosen, **looks}), LABELS, 8000)
    save_network(tmp_path / "model", made, {})
    rule = (
        rf"'m' must be of the objective 'instruments' .*; got one of the objective 'instruments' with .*: {inputs} in"
    )
    with pytest.raises(ModelError, match=rule):
        load_namer(tmp_path / "model", "m")


def test_a_separator_names_no_players(tmp_path):
    save_separator(tmp_path / "model", separator(), {})
    with pytest.raises(
        ModelError, match=r"got one of the objective 'separation' in .*To fix: choose another, or train"
    ):
        load_namer(tmp_path / "model", "m")


def test_weights_of_another_vision_network_than_the_models_are_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    card = (folder / "model.json").read_text(encoding="utf-8")
    (folder / "model.json").write_text(card.replace("resnet18", "resnet50"), encoding="utf-8")
    rule = r"must hold the weights of the network in model.json, with head.weight: \[3, 2048\]; got .*: \[3, 512\]. To"
    with pytest.raises(ModelError, match=rule):
        load_namer(folder, "m")


# As a system


@pytest.mark.parametrize("outputs", ["queries", "instruments"])
def test_where_all_are_named_rightly_it_is_the_separator_asked_by_labels(namer, outputs):
    inner = ModelSystem(separator(outputs=outputs), "inner")
    asked, heard = NamedSystem(inner, "asked", namer, LABELS), scene("vc", "vn")
    np.testing.assert_array_equal(asked(heard, ["vc", "vn", "fl"]), inner(heard, ["vc", "vn", "fl"]))
    assert asked.wrong_context == inner.wrong_context and asked.views.uses_players and asked.ordered
    if outputs == "instruments":
        np.testing.assert_array_equal(asked.exchanged(heard, "vc", "fl"), inner.exchanged(heard, "vc", "fl"))


@pytest.mark.parametrize("outputs", ["queries", "instruments"])
def test_where_a_player_is_named_wrongly_it_is_asked_for_the_wrong_label(namer, outputs):
    inner = ModelSystem(separator(outputs=outputs), "inner")
    asked = NamedSystem(inner, "asked", namer, LABELS)
    found = asked(scene("vc", "vn", seen={"vc": "fl"}), ["vc", "vn"])
    np.testing.assert_array_equal(found, inner(scene("fl", "vn"), ["fl", "vn"]))
    assert [one.label for one in asked.named(scene("vc", seen={"vc": "fl"}), "vc")] == ["fl"]
    both = asked(scene("vc", "vn", seen={"vc": "vn"}), ["vc", "vn"])
    np.testing.assert_array_equal(both[0], both[1])


def test_two_players_of_a_label_who_are_named_differently_are_both_outputs(namer):
    inner = ModelSystem(separator(), "inner")
    heard = scene("vc", "vn")
    heard.views["vn"].append(in_colour("fl"))
    found = NamedSystem(inner, "asked", namer, LABELS)(heard, ["vn"])[0]
    np.testing.assert_allclose(found, inner(heard, ["vn", "fl"]).sum(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "got"), [({"site": "none", "outputs": "slots"}, "model.site: none"), ({"context": "motion"}, "motion")]
)
def test_only_a_separator_that_takes_labels_is_asked_by_pictures(settings, got):
    with pytest.raises(ModelError, match=rf"'m' must be conditioned on labels, .*; got .*{got}"):
        check_takes_labels(separator(**settings), "m")


# A recording


@pytest.fixture
def film(tmp_path):
    """A second of three players side by side."""

    def make(*labels: str, rate: float = 4.0, **metadata: str) -> Path:
        sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 8000)).astype(np.float32)
        count = round(rate)
        pictures = np.concatenate([np.repeat(np.repeat(in_colour(one, count), 4, 1), 4, 2) for one in labels], axis=2)
        write_video(tmp_path / "film.mp4", pictures, rate, sound, 8000, metadata)
        return tmp_path / "film.mp4"

    return make


@pytest.fixture
def by_label(tmp_path) -> Path:
    save_separator(tmp_path / "separator", separator(), {})
    return tmp_path / "separator"


def test_players_of_a_video_are_named_left_to_right(film, by_label, model, tmp_path):
    given = InstrumentsFrom("mine", model, 3)
    found = separate_recording(film("vn", "fl", "vc"), by_label, tmp_path / "out", given)
    assert list(found.stems) == ["vn", "fl", "vc"] and all(path.is_file() for path in found.stems.values())
    assert found.notes[0].startswith("named from the pictures by mine, with probabilities: violin (")
    same = separate_recording(tmp_path / "film.mp4", by_label, tmp_path / "same", "vn,fl,vc")
    assert found.stems["fl"].read_bytes() == same.stems["fl"].read_bytes()


def test_stems_of_a_model_that_sees_players_are_called_by_what_pictures_name_and_where_they_sit(film, model, tmp_path):
    save_separator(tmp_path / "moved", separator(context="motion"), {"picture": {"size": 16, "frame_rate": 25}})
    given = InstrumentsFrom("mine", model, 3)
    found = separate_recording(film("vn", "fl", "vn", rate=25.0), tmp_path / "moved", tmp_path / "out", given)
    assert list(found.stems) == ["vn-left", "fl", "vn-right"]
    assert found.notes[0].startswith("named from the pictures by mine, with probabilities: violin (")


def test_their_number_may_be_in_the_metadata(film, by_label, model, tmp_path):
    path = film("vc", "vn", instruments="fl,fl")
    found = separate_recording(path, by_label, tmp_path / "out", InstrumentsFrom("mine", model))
    assert list(found.stems) == ["vc", "vn"]


def test_their_number_must_be_known(film, by_label, model, tmp_path):
    with pytest.raises(
        ConfigError, match=r"must say how many players its picture shows: .*; got neither. To fix: add --p"
    ):
        separate_recording(film("vc", "vn"), by_label, tmp_path / "out", InstrumentsFrom("mine", model))


def test_players_of_whom_it_is_unsure_are_named_with_a_warning(film, by_label, network, tmp_path):
    with torch.no_grad():
        kept = [network.head.weight.clone(), network.head.bias.clone()]
        network.head.weight.zero_()
        network.head.bias.zero_()
        save_network(tmp_path / "blind", network, {"picture": {"size": 16, "frame_rate": 4}})
        network.head.weight.copy_(kept[0])
        network.head.bias.copy_(kept[1])
    given = InstrumentsFrom("mine", tmp_path / "blind", 2)
    found = separate_recording(film("vc", "vn"), by_label, tmp_path / "out", given)
    assert "unsure of players 1, 2, counted from the left: name them with --instruments" in found.notes[1]


def test_a_recording_without_pictures_shows_no_players(by_label, model, tmp_path):
    write_wav(tmp_path / "a.wav", np.full((1, 8000), 0.1, np.float32), 8000)
    with pytest.raises(MediaError, match="picture"):
        separate_recording(tmp_path / "a.wav", by_label, tmp_path / "out", InstrumentsFrom("mine", model, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--instruments", "vn", "--instruments-from", "m"],
            "--instruments or --instruments-from; got --instruments vn and --instruments-from m. To fix: remove one",
        ),
        (
            ["--players", "3"],
            "--players is for --instruments-from, .*; got --players 3 alone. To fix: add --instruments-f",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(vimss_says, options, message):
    code, _, err = vimss_says("separate", "a.mp4", *options)
    assert code == 2 and re.search(message, " ".join(err.split()))


def test_each_picture_is_looked_at_as_it_is_mirrored_and_larger(network):
    pictures = np.random.default_rng(0).integers(0, 255, (3, 10, 20, 3), np.uint8)
    namer, shown = InstrumentNamer(network, "mine", {"sha256": "", "card": {}}), []
    with network.vision.register_forward_pre_hook(lambda _, given: shown.append(given[0].flatten(0, 2).numpy())):
        namer.name_player(pictures, namer.choices(LABELS))
    assert np.array_equal(shown[0], pictures) and np.array_equal(shown[1], pictures[:, :, ::-1])
    assert shown[2].shape == (3, 14, 28, 3) and abs(shown[2].mean() - pictures.mean()) < 5


# In a table


def test_shards_without_pictures_have_no_players_to_name(by_label, model, tmp_path):
    alone = written_alone(tmp_path, [Player("vn", "1", SOUND), Player("vc", "2", SOUND)])
    with pytest.raises(DataError, match=r"'mine' names players by their pictures, .*; got none in the split 'test' of"):
        evaluations.named_rows([Row("a", by_label)], {"mine": model}, alone, "test")


def test_a_table_without_a_model_that_takes_labels_has_none_to_ask(small_manifest, model, tmp_path):
    save_separator(tmp_path / "slots", separator(site="none", outputs="slots"), {})
    with pytest.raises(ModelError, match=r"'a' must be conditioned on labels, .*; got model.site: none"):
        evaluations.named_rows([Row("a", tmp_path / "slots")], {"mine": model}, small_manifest, "test")


@pytest.mark.slow
def test_a_row_of_a_table_is_asked_by_pictures(small_manifest, by_label, model):
    names = tuple((label, label) for label in LABELS)
    (row,) = evaluations.named_rows([Row("a", by_label, names)], {"mine": model}, small_manifest, "test")
    assert row.name == "a, named by mine"
    task = evaluation_tasks(Table(small_manifest.folder, "test", LABELS), row, small_manifest, whole_pieces=False)[0]
    part = run_evaluation(task)
    named = [player for score in part.mixtures for player in score.named]
    assert named and {player.label for player in named} | {player.named for player in named} <= set(LABELS)
    assert part.weights != evaluations.read_card(by_label)["sha256"]


def test_a_model_that_names_is_looked_up_like_any_other(model, tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    with open_session("local") as session:
        assert named_models.instrument_namers(session, [str(model)]) == {str(model): model}
        with pytest.raises(ModelError, match="must hold model.json and weights"):
            named_models.instrument_namers(session, [str(tmp_path / "none")])


# In an experiment


SETTINGS = {
    "model": {"levels": 3, "down_kernel": 5, "outputs": "queries"}, "training": {"output_samples": 2005},
    "compare": {"model.site": ("decoder", "output")}, "controls": {"blind": {"model.outputs": "instruments"}},
}  # fmt: skip


def with_system(model: Path, **content) -> Experiment:
    """An experiment with a row that is named by a model."""
    system = {"instruments_from": str(model), **content}
    return Experiment(name="e", question="?", expected="!", shards="s", systems={"named": system}, **SETTINGS)


def trained(experiment: Experiment, folder: Path, values: dict[str, float]) -> Study:
    """A study with one finished trial in each of these cells, and its validation loss."""
    records = []
    for cell in experiment.cells():
        if cell.name in values:
            (folder / cell.name / "model").mkdir(parents=True)
            record = TrialRecord(
                cell=cell.name, trial=cell.name, state="finished", chosen={}, begun=0.0,
                settings=experiment.settings(cell.overrides), reports=({"valid_loss": values[cell.name]},),
            )  # fmt: skip
            records.append(record.model_copy(update={"folder": folder / cell.name}))
    return Study(folder=folder, records=tuple(records))


def test_a_system_of_an_experiment_is_a_row_of_its_best_trial(model, tmp_path):
    asked = with_system(model)
    study = trained(asked, tmp_path, {"site=decoder": -2.0, "site=output": -1.0, "blind": -3.0})
    models = {"best": tmp_path / "site=decoder" / "model"}
    (row,) = evaluations.system_rows(asked, study, models)
    assert (row.name, row.model, row.named_by) == ("named", models["best"], NamedBy(str(model), model, "best"))
    (other,) = evaluations.system_rows(with_system(model, cell="site=output"), study, models)
    assert other.model == tmp_path / "site=output" / "model" and other.named_by.row == "site=output"


def test_a_system_without_a_trained_network_that_takes_labels_is_refused(model, tmp_path):
    asked = with_system(model)
    study = trained(asked, tmp_path, {"blind": -3.0})
    rule = (
        r"systems.named of experiment e needs a trained network .*; got none among the best trials of site=decoder, si"
    )
    with pytest.raises(DataError, match=rule):
        evaluations.system_rows(asked, study, {})


def test_a_system_is_checked_before_hours_of_training(small_manifest, model, tmp_path):
    asked = with_system(model)
    for able in (asked, with_system(Path("chamber"))):
        check_experiment(able, small_manifest, Place(name="x"))
    with pytest.raises(ModelError, match="none must hold a model.json; got none"):
        check_experiment(with_system(tmp_path / "none"), small_manifest, Place(name="x"))
    alone = written_alone(tmp_path, [Player("vn", "1", SOUND), Player("vc", "2", SOUND)])
    rule = (
        r"systems.named names players by their pictures, which the shards must hold; got none in the split 'test' of "
    )
    with pytest.raises(DataError, match=rule + ".* To fix: choose a recipe with pictures, or remove systems.named"):
        check_experiment(asked, alone, Place(name="x"))


def test_the_model_of_a_system_is_looked_up_like_any_other(model, tmp_path, monkeypatch):
    monkeypatch.setenv("VIMSS_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(model.parent)
    with open_session("local") as session:
        found, shipped = (api.resolve_models(session, with_system(Path(name))) for name in ("model", "chamber"))
    assert found.systems["named"].instruments_from == str(model)
    assert load_namer(Path(shipped.systems["named"].instruments_from), "chamber").choices(LABELS)
