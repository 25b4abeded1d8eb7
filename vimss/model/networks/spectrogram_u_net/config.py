"""Settings of the spectrogram U-Net and its sites; without torch.

SpectrogramUNetConfig().geometry.input_samples(16384)     # 147456
SpectrogramUNetConfig().sites()["bottleneck"]             # {"bottleneck": 512}
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from vimss.model.config import Site
from vimss.model.networks.spectra import UNetConfig


class SpectrogramUNetConfig(UNetConfig):
    """The defaults have the window of 1024 samples, the layers and the masks of Jansson et al. (2017)."""

    network: Literal["spectrogram_u_net"] = Field(
        "spectrogram_u_net", description="a U-Net on STFT magnitudes after Jansson et al. (2017) and Zhao et al. (2018)"
    )
    estimate: Literal["mask", "map"] = Field(
        "mask", description="mask: a ratio mask (sigmoid) on the mixture's magnitude; map: the magnitude itself"
    )

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """`down0` and deeper, `bottleneck`, `up0` (the deepest) and higher, and `output`, a hidden layer of its own."""
        *above, deepest = self.widths()
        down = {f"down{level}": width for level, width in enumerate(above)}
        up = {f"up{level}": width for level, width in enumerate(reversed(above))}
        bottleneck = {"bottleneck": deepest}
        return {
            "none": {},
            "every_layer": {**up, **bottleneck, **down},
            "decoder": {**up, **bottleneck},
            "bottleneck": bottleneck,
            "output": {"output": self.widths()[0]},
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """A SpectrogramUNet with new weights."""
        from vimss.model.networks.spectrogram_u_net.network import SpectrogramUNet  # loads torch

        return SpectrogramUNet(self, outputs, context_size, context_scale)
