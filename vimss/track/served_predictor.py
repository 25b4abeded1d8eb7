"""What MLflow serves of a network that does not separate: this file is logged with the weights, and MLflow runs it.

    model = mlflow.pyfunc.load_model("models:/instruments@champion")
    model.predict({"frames": pictures})["vn"]                       # float32 " b": probability that it plays
    model.predict({"mixture": sound}, params={"sample_rate": 44100})["vn"]

The arrays that it takes and gives are those of the logged signature, which are the network's own: see `inputs`,
`outputs` and `predict` of `vimss.train.objectives.Predictor`. `mixture` is float32 "b c t", at any rate.
It needs the package vimss, and loads JSON and safetensors: nothing here is a pickle.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class ServedPredictor(mlflow.pyfunc.PythonModel):
    """A Predictor behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Load model.json and weights.safetensors; ModelError where they are damaged."""
        from vimss.train.objectives.saved import load_network

        self._network = load_network(Path(context.artifacts["model"]))

    # As in served_model: MLflow 3.17 warns about a `model_input` without type hint at every load.
    _skip_type_hint_validation = True

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The outputs of the network for a batch, by name.

        Args:
            context: MLflow's, not used.
            model_input: the arrays of the signature.
            params: `sample_rate` of the mixture in Hz (0: the model's).

        Raises:
            MlflowException: arrays that hold nothing, or what is no number, with the status 400 and what to do.

        """
        import soxr

        from vimss.track.request import check_arrays, rate_of, refusals

        with refusals():
            own = self._network.sample_rate
            rate = rate_of(params or {}, own)
            arrays = {given.name: model_input[given.name] for given in self._network.inputs()}
            check_arrays(arrays)
            if "mixture" in arrays and rate != own:
                sounds = [soxr.resample(np.ascontiguousarray(sound.T), rate, own).T for sound in arrays["mixture"]]
                arrays["mixture"] = np.stack(sounds)
            return self._network.predict(arrays)


mlflow.models.set_model(ServedPredictor())
