"""The model that MLflow serves: this file is logged with the weights, and MLflow runs it when it loads them.

    model = mlflow.pyfunc.load_model("models:/quickstart@champion")
    stems = model.predict({"mixture": mixture}, params={"instruments": ["vn", "vc"], "sample_rate": 44100})
    stems["vn"]  # float32 "b c t", at the rate and length of the mixture

`mixture` is float32 "b c t". A model conditioned on players takes their views beside it, under the name of its context,
as float32 "b p v d" or, of pictures, uint8 "b p v h w 3": spread evenly over the mixture, one p per player (see
`vimss.model.contexts`). In place of them it takes one recording, from which it reads sound and views:

    data = base64.b64encode(Path("quartet.mp4").read_bytes()).decode()
    model.predict({"mixture": np.zeros((1, 1, 1), np.float32)}, params={"media": data, "instruments": ["vn", "vc"]})

MLflow has no optional arrays, hence the zeros. A model that is asked by example takes the array `example` beside a
recording too, float32 "b p 1 d": a row for each player holds a 1 for the player's label and 0 for the other labels, in
the model's order, then the samples of that player alone, at the model's rate.

See `vimss.track.request` for what is refused. It needs the package vimss, and loads JSON and safetensors: nothing here
is a pickle.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class ServedSeparator(mlflow.pyfunc.PythonModel):
    """A Separator behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Load model.json and weights.safetensors; ModelError where they are damaged."""
        from vimss.model.separator import load_separator, read_card

        folder = Path(context.artifacts["model"])
        self._separator = load_separator(folder).eval()
        self._card = read_card(folder)["card"]

    # MLflow 3.17 warns in colour, at every load, about a `model_input` without type hint and about one that is not a
    # list; no hint of its kind describes named tensors, which the logged signature checks anyway.
    _skip_type_hint_validation = True

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Separate each mixture of the batch, or a recording.

        Args:
            context: MLflow's, not used.
            model_input: `mixture`, and the views of the players where the model is conditioned on them; beside a
                recording, zeros, but for examples.
            params: `instruments` to return (all where empty), of a recording that shows players those who play, from
                left to right; `sample_rate` of mixture and stems in Hz (0: the model's); a recording as `media`,
                base64, or as `path` below the folder VIMSS_SERVED_FOLDER of the server.

        Returns:
            Name of the output to float32 "b c t": a label, or player_1 and slot_1 and so on without labels.

        Raises:
            MlflowException: a request that holds what must not be, with the status 400 and what to do.

        """
        from vimss.track.request import EXAMPLE, check_arrays, check_examples, rate_of, recording_of, refusals

        with refusals():
            params = params or {}
            rate = rate_of(params, self._separator.sample_rate)
            wanted = self._wanted(list(params.get("instruments", ())))
            arrays = {given.name: model_input[given.name] for given in self._separator.interface.inputs()}
            source = recording_of(params)
            examples = {EXAMPLE: arrays.pop(EXAMPLE)} if EXAMPLE in arrays else {}
            check_arrays(arrays, source)
            check_arrays(examples)
            for rows in examples.values():
                check_examples(rows, self._separator.labels)
            if source is not None:
                arrays = self._read(source, list(params.get("instruments", ())), rate)
            arrays |= examples
            mixtures, *views = arrays.values()
            stems = [
                self._separate(mixture, list(views[0][index]) if views else [], wanted, rate)
                for index, mixture in enumerate(mixtures)
            ]
            return {name: np.stack([stem[name] for stem in stems]) for name in stems[0]}

    def _read(self, source: bytes | Path, players: list[str], rate: int) -> dict[str, Any]:
        """The arrays of a recording."""
        from vimss.errors import ModelError
        from vimss.model.contexts import Recording
        from vimss.track.request import EXAMPLE, read_sound

        separator = self._separator
        mixture, *views = separator.interface.inputs()
        arrays = {mixture.name: read_sound(source, rate, separator.config.channels)[None]}
        if not views or views[0].name == EXAMPLE:
            return arrays
        if not players:
            raise ModelError(
                "this model needs the instruments that play, from left to right as in the picture",
                got="no instruments",
                fix=f"choose from {', '.join(separator.labels)}",
            )
        with tempfile.TemporaryDirectory(prefix="vimss-") as folder:
            if isinstance(source, bytes):
                file = Path(folder) / "media"
                file.write_bytes(source)
                source = file
            rows = separator.interface.of_recording(Recording(source, tuple(players), self._card))
        assert rows is not None, "what takes views is conditioned on them"  # noqa: S101
        return arrays | {views[0].name: rows[None]}

    def _wanted(self, instruments: list[str]) -> list[str]:
        from vimss.errors import ModelError

        interface = self._separator.interface
        if not instruments and interface.is_conditioned and not interface.uses_players:
            raise ModelError(
                "this model needs the instruments that play",
                got="no instruments",
                fix=f"choose from {', '.join(interface.labels)}",
            )
        interface.check_labels(instruments)
        # A label that is asked for twice is one stem; players are as many as there are.
        return list(dict.fromkeys(instruments)) or list(interface.labels)

    def _separate(
        self, mixture: np.ndarray, views: Sequence[np.ndarray], wanted: list[str], rate: int
    ) -> dict[str, np.ndarray]:
        import soxr
        import torch

        from vimss.model.apply import separate_all
        from vimss.model.level import fitted_gain

        separator = self._separator
        samples = mixture.shape[1]
        if rate != separator.sample_rate:
            mixture = soxr.resample(np.ascontiguousarray(mixture.T), rate, separator.sample_rate).T
        rows = separator.interface.context_of(wanted, views)
        given = None if rows is None else torch.from_numpy(rows)
        estimates = separate_all(separator, torch.from_numpy(np.ascontiguousarray(mixture)), given).numpy()
        if self._card.get("any_level"):
            estimates = np.stack([stem * np.float32(fitted_gain([(mixture, stem)])) for stem in estimates])
        if rate != separator.sample_rate:
            estimates = np.stack([soxr.resample(stem.T, separator.sample_rate, rate).T for stem in estimates])
            short = max(0, samples - estimates.shape[2])  # rounding of the resampler, a sample at most
            estimates = np.pad(estimates, ((0, 0), (0, 0), (0, short)))[:, :, :samples]
        names = separator.interface.output_names(wanted, len(estimates))
        named = dict(zip(names, estimates, strict=True))
        return {name: stem for name, stem in named.items() if name in wanted or name not in separator.labels}


mlflow.models.set_model(ServedSeparator())
