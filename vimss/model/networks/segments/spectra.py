"""A model from spectra to spectra as one from sound to sound.

    OnSpectra(1024, 256, model, estimate)(torch.zeros(1, 1, 4096))     # "1 s 1 4096"

Axis letters: z batch, s output, c audio channel, t audio sample, n STFT frame, f frequency bin.
"""

from collections.abc import Callable

from jaxtyping import Complex, Float
from torch import Tensor, nn

from vimss.model.networks.spectra.transform import Stft

Estimate = Callable[[nn.Module, Complex[Tensor, "z c n f"]], Complex[Tensor, "z s c n f"]]
"""Runs the model on the spectrum of the mixture, and turns its result into spectra of the outputs."""


class OnSpectra(nn.Module):
    """The STFT, the model, the inverse STFT."""

    def __init__(self, n_fft: int, hop_length: int, model: nn.Module, estimate: Estimate) -> None:
        super().__init__()
        self.stft = Stft(n_fft, hop_length)
        self.model = model
        self.estimate = estimate

    def forward(self, mixture: Float[Tensor, "z c t"]) -> Float[Tensor, "z s c t"]:
        """Estimate the outputs: all but half a window at either end is exact in the sense of the STFT."""
        return self.stft.inverse(self.estimate(self.model, self.stft(mixture)))
