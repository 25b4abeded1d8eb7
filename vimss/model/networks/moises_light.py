"""Moises-Light (Hung et al., 2025), as the package moises-light has it: a band-split U-Net with transformers inside.

    MoisesLightConfig().geometry.input_samples(8192)      # 10240

The spectrum is cut into bands of equal width, which grouped convolutions treat apart; fully connected layers join the
bins of a band, and levels halve the frames. At the bottom, transformers run over frames and over bins in turn. Outputs
are masks on real and imaginary parts.

Its batch norms are layer norms here, since an example's estimates must not depend on others of the batch.

The published size (small), for stereo at 44.1 kHz in pieces of 6 s, is {n_fft: 6144, hop_length: 1024, freq_dim: 2048,
n_bands: 4, G: 32, n_split_enc: 3, n_rope: 6, heads: 4, dim_head: 32, channels: 2, segment_samples: 264192,
margin_samples: 3072}, 2.6 million weights. The defaults have its levels and bands, half of its channels, a third of its
transformers and convolutions, and all bins: at 8 kHz none is above what one hears.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.model.config import Site
from vimss.model.geometry import Layer
from vimss.model.networks.segments import StftConfig, nearest_multiples


class MoisesLightConfig(StftConfig):
    """The defaults are small enough for a CPU: 0.2 million weights."""

    network: Literal["moises_light"] = Field("moises_light", description="Moises-Light of Hung et al. (2025)")
    freq_dim: int = Field(
        512,
        ge=2,
        le=4097,
        description="bins that it works on, a multiple of n_bands; those above are silent in outputs",
    )
    n_bands: int = Field(4, ge=1, le=64, description="bands of equal width")
    G: int = Field(
        16, ge=1, le=512, description="channels of the first level, a multiple of n_bands; each level has G more"
    )
    n_enc: int = Field(3, ge=1, le=6, description="levels, each of which halves the frames")
    n_split_enc: int = Field(1, ge=1, le=8, description="convolutions in each half of a level of the encoder")
    n_rope: int = Field(2, ge=1, le=24, description="pairs of transformers, over frames and over bins")
    bn_factor: int = Field(8, ge=1, le=64, description="the bins of a band pass through a layer so many times narrower")
    heads: int = Field(4, ge=1, le=32, description="heads of the attention")
    dim_head: int = Field(8, ge=2, le=256, description="features of a head, even")

    packages: ClassVar[Mapping[str, str]] = {"moises-light": "moises_light"}

    @model_validator(mode="after")
    def _can_be_built(self) -> "MoisesLightConfig":
        most = self.bins // self.n_bands * self.n_bands
        if self.freq_dim > most or self.freq_dim % self.n_bands:
            near = str(most) if self.freq_dim > most else nearest_multiples(self.freq_dim, self.n_bands)
            raise ValueError(
                f"freq_dim must be a multiple of n_bands {self.n_bands}, at most n_fft / 2 + 1 = {self.bins}: {near}"
            )
        if self.G % self.n_bands:
            near = nearest_multiples(self.G, self.n_bands)
            raise ValueError(f"G must be a multiple of n_bands {self.n_bands}: {near}")
        if self.bn_factor > self.freq_dim // self.n_bands:
            raise ValueError(f"bn_factor must be at most the bins of a band, {self.freq_dim // self.n_bands}")
        if self.dim_head % 2:
            near = nearest_multiples(self.dim_head, 2)
            raise ValueError(f"dim_head must be even, as features are rotated in pairs: {near}")
        return self

    def layer(self, module: str, frames: int) -> Layer:
        """The model pads its end so that all levels can halve the frames; the first is centred on the first sample."""
        unit = 2**self.n_enc
        all_frames = -(-(self.seen_samples // self.hop_length + 2) // unit) * unit
        together = all_frames // frames
        return Layer((together - 1) * self.hop_length // 2, together * self.hop_length, frames)

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """Layers that change the number of frames, before their ReLU; the bottleneck is the deepest of them."""
        down = {"first_conv/act": self.G}
        down |= {f"ds/{level}/act": (level + 2) * self.G for level in range(self.n_enc)}
        # One level of the decoder has convolutions of its own.
        names = ["dec_heavy_us/0/act", *(f"dec_light_us/{level}/act" for level in range(self.n_enc - 1))]
        up = {name: (self.n_enc - level) * self.G for level, name in enumerate(names)}
        deepest = f"ds/{self.n_enc - 1}/act"
        bottleneck = {deepest: down[deepest]}
        return {
            "none": {},
            "every_layer": {**down, **up},
            "decoder": {**bottleneck, **up},
            "bottleneck": bottleneck,
            "output": {names[-1]: up[names[-1]]},
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The library's MoisesLight with new weights, on segments."""
        from moises_light import MoisesLight  # loads torch

        from vimss.model.networks.segments.network import SegmentNetwork

        # Its faster attention computes in bfloat16 on GPUs, whatever the precision of the training.
        attention = {"heads": self.heads, "dim_head": self.dim_head, "ff_mult": 2, "flash_attn": False}
        model = MoisesLight(
            sources=[str(output) for output in range(outputs)],
            audio_channels=self.channels,
            n_fft=self.n_fft,
            hop_size=self.hop_length,
            win_size=self.n_fft,
            freq_dim=self.freq_dim,
            n_bands=self.n_bands,
            G=self.G,
            n_enc=self.n_enc,
            n_split_enc=self.n_split_enc,
            n_rope=self.n_rope,
            bn_factor=self.bn_factor,
            transformer_params={**attention, "attn_dropout": 0.0, "proj_dropout": 0.0, "ff_dropout": 0.0},
            norm_name="LayerNorm",
        )
        return SegmentNetwork(
            self, model, context_size, context_scale, ends=("first_conv", "final_conv", "source_head")
        )
