"""The model that MLflow serves: this file is logged with the weights, and MLflow runs it when it loads them.

    model = mlflow.pyfunc.load_model("models:/quickstart@champion")
    stems = model.predict({"mixture": mixture}, params={"instruments": ["vn", "vc"], "sample_rate": 44100})
    stems["vn"]  # float32 "b c t", at the rate and length of the mixture

`mixture` is float32 "b c t". A model conditioned on players takes their views beside it, under the name of its context,
as float32 "b p v d" or, of pictures, uint8 "b p v h w 3": spread evenly over the mixture, one p per player (see
`vimss.model.contexts`).
It needs the package vimss, and loads JSON and safetensors: nothing here is a pickle.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class ServedSeparator(mlflow.pyfunc.PythonModel):
    """A Separator behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Load model.json and weights.safetensors; ModelError where they are damaged."""
        from vimss.model.separator import load_separator

        self._separator = load_separator(Path(context.artifacts["model"])).eval()

    # MLflow 3.17 warns in colour, at every load, about a `model_input` without type hint and about one that is not a
    # list; no hint of its kind describes named tensors, which the logged signature checks anyway.
    _skip_type_hint_validation = True

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Separate each mixture of the batch.

        Args:
            context: MLflow's, not used.
            model_input: `mixture`, and the views of the players where the model is conditioned on them.
            params: `instruments` to return (all where empty), `sample_rate` of the mixture in Hz (0: the model's).

        Returns:
            Name of the output to float32 "b c t": a label, or player_1 and slot_1 and so on without labels.

        Raises:
            ModelError: instruments that the model does not know, or none for a model that is conditioned on labels.

        """
        params = params or {}
        rate = int(params.get("sample_rate") or self._separator.sample_rate)
        wanted = self._wanted(list(params.get("instruments", ())))
        mixtures, *views = (model_input[given.name] for given in self._separator.interface.inputs())
        stems = [
            self._separate(mixture, list(views[0][index]) if views else [], wanted, rate)
            for index, mixture in enumerate(mixtures)
        ]
        return {name: np.stack([stem[name] for stem in stems]) for name in stems[0]}

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
        return instruments or list(interface.labels)

    def _separate(
        self, mixture: np.ndarray, views: Sequence[np.ndarray], wanted: list[str], rate: int
    ) -> dict[str, np.ndarray]:
        import soxr
        import torch

        from vimss.model.apply import separate_all

        separator = self._separator
        samples = mixture.shape[1]
        if rate != separator.sample_rate:
            mixture = soxr.resample(np.ascontiguousarray(mixture.T), rate, separator.sample_rate).T
        rows = separator.interface.context_of(wanted, views)
        given = None if rows is None else torch.from_numpy(rows)
        estimates = separate_all(separator, torch.from_numpy(np.ascontiguousarray(mixture)), given).numpy()
        if rate != separator.sample_rate:
            estimates = np.stack([soxr.resample(stem.T, separator.sample_rate, rate).T for stem in estimates])
            short = max(0, samples - estimates.shape[2])  # rounding of the resampler, a sample at most
            estimates = np.pad(estimates, ((0, 0), (0, 0), (0, short)))[:, :, :samples]
        names = separator.interface.output_names(wanted, len(estimates))
        named = dict(zip(names, estimates, strict=True))
        return {name: stem for name, stem in named.items() if name in wanted or name not in separator.labels}


mlflow.models.set_model(ServedSeparator())
