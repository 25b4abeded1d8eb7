"""Conv-TasNet (Luo and Mesgarani, 2019) as torchaudio has it: masks on a learned representation of the waveform.

    ConvTasNetConfig().geometry.input_samples(8192)      # 10240

A convolution turns stretches of half a millisecond to two into features, a stack of dilated convolutions finds a mask
for each output, and a transposed convolution turns the masked features back. It takes one audio channel; of a stereo
mixture, each channel is separated by itself.

The published size, for 4 s of speech at 8 kHz, is {enc_num_feats: 512, msk_num_feats: 128, msk_num_hidden_feats: 512,
msk_num_layers: 8, msk_num_stacks: 3, segment_samples: 32000, margin_samples: 0} (the paper's N, B, H, X and R).
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from vimss.model.config import Site
from vimss.model.networks.segments import SegmentConfig


class ConvTasNetConfig(SegmentConfig):
    """The defaults are small enough for a CPU: 0.3 million weights."""

    network: Literal["conv_tasnet"] = Field(
        "conv_tasnet", description="Conv-TasNet of Luo and Mesgarani (2019), from torchaudio"
    )
    enc_kernel_size: int = Field(16, ge=2, le=512, description="samples of a frame (L), even; frames overlap by half")
    enc_num_feats: int = Field(128, ge=1, le=4096, description="features of a frame (N), which the masks are on")
    msk_num_feats: int = Field(64, ge=1, le=4096, description="channels between the blocks (B and Sc)")
    msk_num_hidden_feats: int = Field(128, ge=1, le=4096, description="channels within a block (H)")
    msk_num_layers: int = Field(6, ge=1, le=12, description="blocks of a stack (X); each doubles the dilation")
    msk_num_stacks: int = Field(2, ge=1, le=8, description="stacks of blocks (R)")
    msk_activate: Literal["sigmoid", "relu"] = Field("sigmoid", description="the masks' non-linearity")

    @model_validator(mode="after")
    def _can_be_built(self) -> "ConvTasNetConfig":
        if self.enc_kernel_size % 2:
            raise ValueError("enc_kernel_size must be even: frames overlap by half")
        return self

    @property
    def step_samples(self) -> int:
        """Of the frames."""
        return self.enc_kernel_size // 2

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """The bottleneck is the layer before the blocks, the output the sum of what the blocks found; no decoder."""
        blocks = range(self.msk_num_layers * self.msk_num_stacks)
        bottleneck = {"mask_generator/input_conv": self.msk_num_feats}
        hidden = {f"mask_generator/conv_layers/{block}/conv_layers/1": self.msk_num_hidden_feats for block in blocks}
        return {
            "none": {},
            "every_layer": {**bottleneck, **hidden},
            "bottleneck": bottleneck,
            "output": {"mask_generator/output_prelu": self.msk_num_feats},
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The library's ConvTasNet with new weights, on segments."""
        from torchaudio.models import ConvTasNet  # loads torch

        from vimss.model.networks.segments.network import SegmentNetwork

        model = ConvTasNet(
            num_sources=outputs,
            enc_kernel_size=self.enc_kernel_size,
            enc_num_feats=self.enc_num_feats,
            msk_num_feats=self.msk_num_feats,
            msk_num_hidden_feats=self.msk_num_hidden_feats,
            msk_num_layers=self.msk_num_layers,
            msk_num_stacks=self.msk_num_stacks,
            msk_activate=self.msk_activate,
        )
        return SegmentNetwork(self, model, context_size, context_scale, ends=("encoder", "decoder"), mono=True)
