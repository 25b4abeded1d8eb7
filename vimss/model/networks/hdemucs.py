"""Hybrid Demucs (Défossez, 2021) as torchaudio has it: one U-Net on waveforms and one on spectra, joined at the bottom.

    HDemucsConfig().geometry.input_samples(8192)      # 10240

The outputs of both are summed. From its fifth layer on, it has recurrent layers, local attention and group norms.

The published size, for stereo at 44.1 kHz in pieces of 10 s, is {filters: 48, n_fft: 4096, depth: 6, channels: 2,
segment_samples: 442368, margin_samples: 2048}; torchaudio's for 8 kHz has filters: 48 and the STFT and depth of the
defaults.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from vimss.model.config import Site
from vimss.model.networks.segments import SegmentConfig

N_FFT = (64, 256, 1024, 2048, 4096, 16384)
"""STFT windows for which both U-Nets have frames of equal length where they join."""


class HDemucsConfig(SegmentConfig):
    """The defaults are small enough for a CPU: 1.3 million weights."""

    network: Literal["hdemucs"] = Field("hdemucs", description="Hybrid Demucs of Défossez (2021), from torchaudio")
    n_fft: int = Field(
        1024, ge=64, le=16384, description="samples of an STFT window (Hann); frames every quarter of it"
    )
    depth: int = Field(5, ge=2, le=8, description="number of layers of the encoder and of the decoder")
    filters: int = Field(12, ge=4, le=512, description="channels of the first layer; each layer has twice as many")

    @model_validator(mode="after")
    def _can_be_built(self) -> "HDemucsConfig":
        if self.n_fft not in N_FFT:
            raise ValueError(
                f"n_fft must be one of {', '.join(map(str, N_FFT))} for network: {self.network}: with others, its "
                "waveforms and its spectra have no frames of equal length to be joined at"
            )
        if self.depth <= self.joined:
            raise ValueError(
                f"depth must be at least {self.joined + 1} with n_fft {self.n_fft}: there, waveforms and spectra join"
            )
        return self

    @property
    def joined(self) -> int:
        """The layer at which there is one frequency left, so that waveforms and spectra join; the first is 0."""
        layer, frequencies = 0, self.n_fft // 2
        while frequencies > 8:
            layer, frequencies = layer + 1, frequencies // 4
        return layer

    @property
    def step_samples(self) -> int:
        """Of an STFT frame, doubled by each layer after the joint."""
        return self.n_fft // 4 * 2 ** max(self.depth - 1 - self.joined, 0)

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """Where the library would normalise: the encoder's layers before their GELU, the decoder's before their GLU.

        The layer `joined` has no such place in the U-Net of the waveform. The output is the last layer but one.
        """
        down, up = {}, {}
        for layer in range(self.depth):
            width = self.filters * 2**layer
            down[f"freq_encoder/{layer}/norm1"] = width
            up[f"freq_decoder/{self.depth - 1 - layer}/norm1"] = 2 * width
            if layer < self.joined:
                down[f"time_encoder/{layer}/norm1"] = width
                up[f"time_decoder/{self.joined - layer}/norm1"] = 2 * width
        deepest = f"freq_encoder/{self.depth - 1}/norm1"
        bottleneck = {deepest: down[deepest]}
        ends = (f"freq_decoder/{self.depth - 1}/norm1", f"time_decoder/{self.joined}/norm1")
        return {
            "none": {},
            "every_layer": {**down, **up},
            "decoder": {**bottleneck, **up},
            "bottleneck": bottleneck,
            "output": {name: up[name] for name in ends},
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The library's HDemucs with new weights, on segments."""
        from torch import nn  # loads torch
        from torchaudio.models import HDemucs

        from vimss.model.networks.segments.network import SegmentNetwork

        model = HDemucs(
            sources=[str(output) for output in range(outputs)],
            audio_channels=self.channels,
            channels=self.filters,
            nfft=self.n_fft,
            depth=self.depth,
        )
        # Large ones have a group norm there that is never called: DistributedDataParallel would wait for its gradients.
        model.time_encoder[self.joined].norm1 = nn.Identity()
        ends = (
            "freq_encoder.0.conv",
            "time_encoder.0.conv",
            f"freq_decoder.{self.depth - 1}.conv_tr",
            f"time_decoder.{self.joined}.conv_tr",
        )
        return SegmentNetwork(self, model, context_size, context_scale, ends)
