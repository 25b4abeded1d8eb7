"""Models by their names, a folder or models:/NAME@ALIAS: evaluated on any shards, separating recordings, exported.

session = open_session("local")
checked = models_on_shards(session, ["models:/quickstart@champion"], manifest, "test")
separated = separate_file(session, Path("quartet.mp4"), "models:/quickstart@champion", "vn,va,vc")
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vimss import evaluations
from vimss.baselines import BASELINES
from vimss.evaluate.players import PlayersEvaluation
from vimss.model.card import CARD, WEIGHTS, check_free
from vimss.model.pretrained import pretrained_folder
from vimss.model.separator import check_weights, read_card
from vimss.namer import load_namer
from vimss.progress import SoundProgress
from vimss.promote import resolve_model
from vimss.separate import DEFAULTS, InstrumentsFrom, Options, Reports, Separated, folder_name, separate_recording
from vimss.session import Session
from vimss.shards.manifest import Manifest
from vimss.storage import explain_os_errors, put, temporary_beside
from vimss.track import model_folder


def models_on_shards(
    session: Session,
    models: Sequence[str],
    manifest: Manifest,
    split: str,
    note: Callable[[str], None] = lambda sentence: None,
    instruments_from: Sequence[str] = (),
) -> evaluations.ModelsOnShards:
    """Check models (folders, or models:/NAME with or without alias or version) against a split; needs no Ray.

    `instruments_from` are further ones, which name players from pictures: see `instrument_namers`.
    """
    namers = instrument_namers(session, instruments_from, note)
    return evaluations.check_models(_folders_of(session, models, note), manifest, split, namers)


def instrument_namers(
    session: Session, models: Sequence[str], note: Callable[[str], None] = lambda sentence: None
) -> dict[str, Path]:
    """The folders of models of the objective `instruments` that look at pictures alone, by the names given.

    ModelError where one is of another kind.
    """
    folders = _folders_of(session, models, note)
    for name, folder in folders.items():
        load_namer(folder, name)
    return folders


def _folders_of(session: Session, models: Sequence[str], note: Callable[[str], None]) -> dict[str, Path]:
    names = short_names(models)
    return {
        names[model]: model_folder(resolve_model(session.tracking, model, note), session.tracking) for model in models
    }


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Models as a table names them: of several folders, the part of the path that is not the same for all."""
    folders = {model: Path(model).absolute() for model in models if Path(model).is_dir()}
    names = {model: model for model in models}
    if len(folders) > 1:
        above = Path(os.path.commonpath(list(folders.values())))
        shorter = {model: str(folder.relative_to(above)) for model, folder in folders.items() if folder != above}
        # A row that had the name of a baseline, or of another model, would be taken for it.
        if not {*shorter.values()} & {*BASELINES, *models}:
            names |= shorter
    return names


def models_on_duos(
    session: Session,
    models: Sequence[str],
    alignment: str,
    manifest: Manifest,
    split: str,
    *,
    on_progress: Callable[[SoundProgress], None] = lambda progress: None,
    device: str = "cpu",
) -> list[PlayersEvaluation]:
    """Evaluate slots models whose outputs an alignment model assigns to players; models as in `models_on_shards`."""
    folders = {model: _named_folder(session, model)[1] for model in models}
    _, of_alignment = _named_folder(session, alignment)
    on_split = evaluations.ModelsOnSplit(manifest, folders, split, device, on_progress)
    return evaluations.evaluate_assigned(on_split, of_alignment)


def _named_folder(
    session: Session, model: str, note: Callable[[str], None] = lambda sentence: None
) -> tuple[str, Path]:
    """The full name and the folder of a model, which is a folder, or models:/NAME with or without alias or version."""
    resolved = resolve_model(session.tracking, model, note)
    if resolved.startswith("models:/"):
        return resolved, model_folder(resolved, session.tracking)
    return resolved, pretrained_folder(resolved) or Path(resolved)


def separate_file(
    session: Session,
    file: Path,
    model: str,
    instruments: str | InstrumentsFrom = "",
    out_folder: Path | None = None,
    references: Path | None = None,
    *,
    alignment: str = "",
    options: Options = DEFAULTS,
    reports: Reports | None = None,
) -> Separated:
    """Separate a recording into stems and a page; without `out_folder`, into a folder of its own in the store.

    `model` is a folder, or models:/NAME with or without alias or version; so are the model that names instruments, and
    `alignment`, which assigns the outputs of a slots model to players, where they are given.
    """
    reports = reports or Reports()
    if isinstance(instruments, InstrumentsFrom):
        (folder,) = _folders_of(session, [instruments.name], reports.note).values()
        instruments = replace(instruments, folder=folder)
    resolved, folder = _named_folder(session, model, reports.note)
    options = replace(options, model_name=resolved)
    if alignment:
        name, path = _named_folder(session, alignment, reports.note)
        options = replace(options, alignment=path, alignment_name=name)
    if out_folder is None:
        out_folder, options = session.store.make().stems / folder_name(file), replace(options, numbered=True)
    return separate_recording(file, folder, out_folder, instruments, references, options=options, reports=reports)


def export_model(
    session: Session, model: str, folder: Path, note: Callable[[str], None] = lambda sentence: None
) -> str:
    """Write a registered model as a new folder, whole or not at all, that every VIMSS can use without this store.

    `model` is NAME@ALIAS, NAME/VERSION or NAME, with or without models:/ before it. Its full name is returned.

    Raises:
        ConfigError: The folder is not empty.
        ModelError: There is no such model, or its weights are damaged.
        PlaceError: MLflow does not answer.

    """
    check_free(folder)
    resolved = resolve_model(session.tracking, f"models:/{model.removeprefix('models:/')}", note)
    source = model_folder(resolved, session.tracking)
    check_weights(source, read_card(source)["sha256"])
    with explain_os_errors(folder, "DIR"), temporary_beside(folder) as temporary:
        temporary.mkdir()
        for file in (CARD, WEIGHTS):
            shutil.copyfile(source / file, temporary / file)
        try:
            put(temporary, folder, replace=False)
        except FileExistsError:  # written meanwhile
            check_free(folder)
            raise
    return resolved
