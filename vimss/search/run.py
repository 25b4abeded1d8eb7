"""The cells of an experiment in their order, each as runs of Ray Tune; an unfinished cell resumes.

A training alone is a search with one trial. What a trial did is written beside its weights as `trial.json`, and its
folder is named by the signature of its settings. So the same command resumes: finished trials are replayed to the
reporters, interrupted ones resume from their checkpoint, and no pickle of Ray is needed for it. What the search decides
is a function of these records. Trials that were lost with their process or node resume in the same call, when the
others of their cell have ended and at most max_retries times; what failed in training waits for the next call. Running
the command again is a deliberate retry, so the counter restarts at 0. A search that has grown
by trials, cells, controls or wider axes trains what is missing. Nothing is ever deleted: what the experiment no longer
has stays on disk and does not count.
"""

from collections.abc import Sequence

from vimss.experiment import Experiment
from vimss.runtime import Place, ray_at_hand
from vimss.search.cells import ContinuedTrial, FixedCells, PrunedCell, TopKCell
from vimss.search.checks import check_experiment, check_settings
from vimss.search.events import Reporter
from vimss.search.room import check_room
from vimss.search.running import RunningStudy
from vimss.search.scoring import score_again
from vimss.search.stopped import stopped_trial
from vimss.search.study import Study, resolved_controls, study_folder
from vimss.search.warm_start import earlier_trials
from vimss.shards.manifest import Manifest
from vimss.storage import Store


def search(
    experiment: Experiment, manifest: Manifest, place: Place, store: Store, reporters: Sequence[Reporter] = ()
) -> Study:
    """Run every cell of an experiment, then its controls. Trials that ended before are kept.

    Ray starts where it does not run yet and a trial is left to train. One process at a time may search a study: see
    `vimss.search.lock`.

    Cells that this machine can never train are left out: see `vimss.search.left_out`. ConfigError, before any trial
    starts, where that is all of them, or where the shards or the place do not allow what the experiment needs;
    PlaceError, before Ray starts, where this machine can hold no trial.
    """
    check_experiment(experiment, manifest, place)
    check_room(place)
    earlier = earlier_trials(experiment, manifest, store)
    cells = experiment.cells()
    searched = [cell for cell in cells if not cell.is_control]
    with ray_at_hand(place):
        running = RunningStudy(experiment, manifest, place, study_folder(experiment, manifest, store), reporters)
        score_again(running.folder, manifest, experiment.validation, running.report, experiment.objective)
        trainable = running.trainable(searched)
        if not experiment.tune:
            FixedCells(running, trainable).run()
        for cell in trainable if experiment.tune else []:
            if experiment.search.scheduler == "top_k":
                TopKCell(running, cell, earlier).run()
            else:
                PrunedCell(running, cell, earlier).run()
        if len(cells) > len(searched):
            controls = resolved_controls(experiment, running.study().best(cell.name for cell in searched))
            FixedCells(running, running.trainable(controls)).run()
    return running.study()


def continue_trial(
    experiment: Experiment,
    manifest: Manifest,
    place: Place,
    store: Store,
    trial: str,
    reporters: Sequence[Reporter] = (),
) -> Study:
    """Train one trial that was pruned or interrupted, or failed, to its whole budget; no other one starts.

    `trial` is its name or the beginning of it. It ends with the weights that it would have if it had never stopped.
    Where it is interrupted again, this continues it, and so does `search`, beside its other trials. No scheduler prunes
    it, and it counts among the best only when it has finished.
    """
    check_experiment(experiment, manifest, place)
    check_room(place)
    with ray_at_hand(place):
        running = RunningStudy(experiment, manifest, place, study_folder(experiment, manifest, store), reporters)
        study = running.study()
        record = stopped_trial(experiment, study, trial)
        cells = {cell.name: cell for cell in experiment.cells()}
        if record.is_control:
            searched = [cell.name for cell in cells.values() if not cell.is_control]
            cells |= {cell.name: cell for cell in resolved_controls(experiment, study.best(searched))}
        cell = cells[record.cell]
        check_settings(experiment.settings({**cell.fixes, **record.chosen}), manifest, place)
        score_again(running.folder, manifest, experiment.validation, running.report, experiment.objective)
        ContinuedTrial(running, cell, record).run()
    return running.study()
