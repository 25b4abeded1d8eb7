"""SCNet (Tong et al., 2024), as the package pymss-core has it: a U-Net on spectra that compresses high bands more.

    SCNetConfig().geometry.input_samples(8192)      # 10240

Each level of the encoder splits the spectrum into three bands, and keeps every bin of the low one, one in four of the
middle one and one in 16 of the high one. At the bottom, LSTMs run over frequencies and over frames in turn, every
second time on the Fourier transform over the frames. The decoder gives real and imaginary parts.

QSCNet (2025) conditions it by FiLM in encoder, bottleneck and decoder, as the sites here do. Its spectra have
rectangular windows, as the authors' have.

The published size, for stereo at 44.1 kHz in pieces of 11 s, is {n_fft: 4096, hop_length: 1024, dims: [32, 64, 128],
num_dplayer: 6, channels: 2, segment_samples: 481280, margin_samples: 2048}. The defaults have a third of its width and
of its layers at the bottom, which take most of its time, and STFT windows of nearly its duration.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.model.config import Site
from vimss.model.geometry import Layer
from vimss.model.networks.segments import StftConfig, nearest_multiples

if TYPE_CHECKING:
    from torch import Tensor, nn

COMPRESS = 4
"""A level's hidden layers have its channels divided by this."""


class SCNetConfig(StftConfig):
    """The defaults are small enough for a CPU: 0.7 million weights."""

    network: Literal["scnet"] = Field("scnet", description="SCNet of Tong et al. (2024)")
    dims: tuple[int, ...] = Field(
        (16, 32, 48), min_length=1, max_length=6, description="channels of the encoder's levels, multiples of 4"
    )
    num_dplayer: int = Field(
        2, ge=2, le=16, description="pairs of LSTMs at the bottom, over frequencies and frames, even"
    )

    packages: ClassVar[Mapping[str, str]] = {"pymss-core": "pymss_core"}

    @model_validator(mode="after")
    def _can_be_built(self) -> "SCNetConfig":
        for width in self.dims:
            if width < COMPRESS or width % COMPRESS:
                near = nearest_multiples(width, COMPRESS)
                raise ValueError(f"dims must be multiples of {COMPRESS}: instead of {width}, {near}")
        if self.num_dplayer % 2:
            raise ValueError(
                "num_dplayer must be even, as every second pair works on the Fourier transform that the one before it "
                f"gives: {nearest_multiples(self.num_dplayer, 2)}"
            )
        return self

    def layer(self, module: str, frames: int) -> Layer:
        """The model pads its input at the end; the first frame is centred on the first sample."""
        return Layer(0, self.hop_length, frames)

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """Outputs of the encoder's levels, the last being the input of the LSTMs; decoder layers before their GLU."""
        levels = len(self.dims)
        down = {f"encoder/{level}/globalconv": width for level, width in enumerate(self.dims)}
        up = {f"decoder/{level}/0/conv": 2 * width for level, width in enumerate(reversed(self.dims))}
        deepest, last = f"encoder/{levels - 1}/globalconv", f"decoder/{levels - 1}/0/conv"
        bottleneck = {deepest: down[deepest]}
        return {
            "none": {},
            "every_layer": {**down, **up},
            "decoder": {**bottleneck, **up},
            "bottleneck": bottleneck,
            "output": {last: up[last]},
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The library's SCNet with new weights, on segments."""
        from pymss_core.modules.scnet import SCNet  # loads torch

        from vimss.model.networks.segments.network import SegmentNetwork

        model = SCNet(
            sources=[str(output) for output in range(outputs)],
            audio_channels=self.channels,
            dims=[2 * self.channels, *self.dims],  # real and imaginary parts
            nfft=self.n_fft,
            hop_size=self.hop_length,
            win_size=self.n_fft,
            compress=COMPRESS,
            num_dplayer=self.num_dplayer,
        )
        model.register_forward_pre_hook(_give_window)
        # Its Fourier transforms over frames compute in single precision, and its inverse STFT takes no bfloat16.
        for module in model.separation_net.feature_conversion:
            module.register_forward_hook(_in_precision_of_input)
        model.decoder[-1][1].register_forward_hook(_in_single_precision_at_least)
        ends = ("encoder.0.SDlayer", f"decoder.{len(self.dims) - 1}.1")
        return SegmentNetwork(self, model, context_size, context_scale, ends)


def _give_window(model: Any, inputs: "tuple[Tensor]") -> None:
    """The rectangular window that PyTorch takes where it gets none, without its warning."""
    model.stft_config["window"] = inputs[0].new_ones(model.stft_config["n_fft"])


def _in_precision_of_input(module: "nn.Module", inputs: "tuple[Tensor]", output: "Tensor") -> "Tensor":
    return output.to(inputs[0].dtype)


def _in_single_precision_at_least(module: "nn.Module", inputs: "tuple[Tensor]", output: "Tensor") -> "Tensor":
    return output if output.element_size() > 2 else output.float()
