"""Open-Unmix (Stöter, Uhlich, Liutkus and Mitsufuji, 2019), as the package openunmix has it: an LSTM on magnitudes.

    OpenUnmixConfig().geometry.input_samples(8192)      # 10240

A linear layer turns each frame's magnitudes into features, an LSTM in both directions runs over the frames, and two
more layers give a gain for each bin. Estimates have the mixture's phase; the Wiener filter that the package can put
behind them is left out.

Differences from the package, for the reasons of the contract of all networks: layer norms stand in for the batch norms
of the hidden layers, since an example's estimates must not depend on others of the batch, and there is no dropout, so
that an interrupted training resumes as it would have gone on. The package has one network per instrument; here all
outputs share the hidden layers. `outputs: queries` with a site is nearest to its form.

The published size, for stereo at 44.1 kHz in pieces of 6 s, is {n_fft: 4096, hop_length: 1024, hidden_size: 512,
nb_layers: 3, channels: 2, segment_samples: 262144, margin_samples: 4096}. The defaults have its layers, STFT windows of
nearly its duration (128 ms instead of 93) and a quarter of its width: at 8 kHz, a frame has a quarter of its bins.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.model.config import Site
from vimss.model.networks.segments import StftConfig, nearest_multiples

if TYPE_CHECKING:
    from jaxtyping import Complex
    from torch import Tensor, nn


class OpenUnmixConfig(StftConfig):
    """The defaults are small enough for a CPU: 0.5 million weights."""

    network: Literal["open_unmix"] = Field("open_unmix", description="Open-Unmix of Stöter et al. (2019)")
    hidden_size: int = Field(128, ge=2, le=4096, description="features of a frame, even: half of them per direction")
    nb_layers: int = Field(3, ge=1, le=8, description="layers of the LSTM")

    packages: ClassVar[Mapping[str, str]] = {"openunmix": "openunmix"}

    @model_validator(mode="after")
    def _can_be_built(self) -> "OpenUnmixConfig":
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even: {nearest_multiples(self.hidden_size, 2)}")
        return self

    def axes(self, module: str) -> str:
        """A row of features per frame and example, frame after frame."""
        return "(n b q k m) ... d"

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """The layer before the LSTM and the one behind it, each before its non-linearity; no decoder of layers."""
        before, behind = {"model/bn1": self.hidden_size}, {"model/bn2": self.hidden_size}
        return {"none": {}, "every_layer": {**before, **behind}, "bottleneck": before, "output": behind}

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The library's OpenUnmix with new weights, with an STFT around it, on segments."""
        from openunmix.model import OpenUnmix  # loads torch
        from torch import nn

        from vimss.model.networks.segments.network import SegmentNetwork
        from vimss.model.networks.segments.spectra import OnSpectra

        # As many outputs as channels: it gives a gain for each that it takes.
        model = OpenUnmix(
            nb_bins=self.bins,
            nb_channels=outputs * self.channels,
            hidden_size=self.hidden_size,
            nb_layers=self.nb_layers,
        )
        # The mixture would stand there once per output.
        once = self.bins * self.channels
        model.fc1 = nn.Linear(once, self.hidden_size, bias=False)
        model.fc1.register_forward_pre_hook(partial(_first, once))
        model.bn1, model.bn2 = nn.LayerNorm(self.hidden_size), nn.LayerNorm(self.hidden_size)
        # The last one has a scale and a mean of its own behind it.
        model.bn3 = nn.Identity()
        model.lstm.dropout = 0.0
        on_spectra = OnSpectra(self.n_fft, self.hop_length, model, partial(_estimate, outputs))
        return SegmentNetwork(self, on_spectra, context_size, context_scale, ends=("model.fc1", "model.fc3"))


def _first(count: int, module: "nn.Module", inputs: "tuple[Tensor]") -> "Tensor":
    return inputs[0][:, :count]


def _estimate(
    outputs: int, model: "nn.Module", spectrum: "Complex[Tensor, 'z c n f']"
) -> "Complex[Tensor, 'z s c n f']":
    """The spectra of the outputs: magnitudes that the model finds, with the mixture's phase."""
    from einops import rearrange, repeat

    from vimss.model.networks.spectra.transform import phase_of

    found = model(repeat(spectrum.abs(), "z c n f -> z (s c) f n", s=outputs))
    return rearrange(found, "z (s c) f n -> z s c n f", s=outputs) * phase_of(spectrum).unsqueeze(1)
