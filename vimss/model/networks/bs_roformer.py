"""BS-RoFormer (Lu, Wang, Kong and Hung, 2023), as the package pymss-core has it: transformers on bands of the spectrum.

    BSRoformerConfig().geometry.input_samples(8192)      # 10240

Each band of each frame becomes a vector; transformers run over frames and over bands in turn, with rotary embeddings of
their positions, and for each output a small network per band makes complex masks of the vectors.

The published size, for stereo at 44.1 kHz in pieces of 8 s, is {n_fft: 2048, hop_length: 512, dim: 384, depth: 12,
heads: 8, dim_head: 64, mlp_expansion_factor: 4, channels: 2, segment_samples: 352256, margin_samples: 1024,
freqs_per_bands: [24 times 2, 12 times 4, 8 times 12, 8 times 24, 8 times 48, 128, 129]}, 93 million weights. Only an
eighth of its width and a sixth of its depth train on a CPU in minutes. At 8 kHz there are 32 bands instead of the 44
that it has below 4 kHz: time grows with their number.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vimss.model.config import Site
from vimss.model.networks.segments import StftConfig, nearest_multiples

if TYPE_CHECKING:
    from jaxtyping import Complex
    from torch import Tensor, nn


class BSRoformerConfig(StftConfig):
    """The defaults are small enough for a CPU: 0.2 million weights, and 0.2 more for each output."""

    network: Literal["bs_roformer"] = Field("bs_roformer", description="BS-RoFormer of Lu et al. (2023)")
    n_fft: int = Field(1024, ge=16, le=4096, description="samples of an STFT window (Hann), even")
    dim: int = Field(48, ge=2, le=1024, description="features of a band")
    depth: int = Field(2, ge=1, le=24, description="pairs of transformers, over frames and over bands")
    heads: int = Field(4, ge=1, le=32, description="heads of the attention")
    dim_head: int = Field(16, ge=2, le=256, description="features of a head, even")
    mlp_expansion_factor: int = Field(
        1, ge=1, le=8, description="hidden features of the networks that make masks, as multiples of dim"
    )
    freqs_per_bands: tuple[int, ...] = Field(
        (*16 * (8,), *8 * (16,), *7 * (32,), 33),
        min_length=2,
        max_length=513,
        description="bins of each band, from 0 Hz on; together those of the STFT",
    )

    packages: ClassVar[Mapping[str, str]] = {"pymss-core": "pymss_core"}

    @model_validator(mode="after")
    def _can_be_built(self) -> "BSRoformerConfig":
        if self.dim_head % 2:
            near = nearest_multiples(self.dim_head, 2)
            raise ValueError(f"dim_head must be even, as features are rotated in pairs: {near}")
        if min(self.freqs_per_bands) < 1:
            raise ValueError("freqs_per_bands must be at least 1 each")
        total = sum(self.freqs_per_bands)
        if total != self.bins:
            last = self.freqs_per_bands[-1] + self.bins - total
            ways = [f"n_fft {2 * (total - 1)}", *([f"{last} bins in the last band"] if last > 0 else [])]
            raise ValueError(
                f"freqs_per_bands must have n_fft / 2 + 1 = {self.bins} bins in all, not {total}: {' or '.join(ways)}"
            )
        return self

    def axes(self, module: str) -> str:
        """Features last; bands are a part of the batch in transformers over frames, and frames in those over bands."""
        return "(b q k m n) ... d" if module.startswith("model/layers/") else "(b q k m) n ... d"

    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """The bottleneck is the input of the transformers, the output that of the mask estimators; no decoder."""
        bottleneck, output = {"model/band_split": self.dim}, {"model/final_norm": self.dim}
        between = {f"model/layers/{pair}/1": self.dim for pair in range(self.depth - 1)}
        return {
            "none": {},
            "every_layer": {**bottleneck, **between, **output},
            "bottleneck": bottleneck,
            "output": output,
        }

    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The library's BSRoformer with new weights, with an STFT around it, on segments."""
        from pymss_core.modules.bs_roformer import BSRoformer  # loads torch

        from vimss.model.networks.segments.network import SegmentNetwork
        from vimss.model.networks.segments.spectra import OnSpectra

        model = BSRoformer(
            self.dim,
            depth=self.depth,
            stereo=self.channels == 2,
            num_stems=outputs,
            time_transformer_depth=1,
            freq_transformer_depth=1,
            freqs_per_bands=self.freqs_per_bands,
            dim_head=self.dim_head,
            heads=self.heads,
            stft_n_fft=self.n_fft,
            stft_hop_length=self.hop_length,
            stft_win_length=self.n_fft,
            mlp_expansion_factor=self.mlp_expansion_factor,
        )
        for name, module in model.named_modules():
            # In evaluation, it would keep copies of weights, and go on with them when the weights change.
            if hasattr(module, "use_grouped_forward"):
                module.use_grouped_forward = False
            # cuDNN's attention takes no single precision: PyTorch chooses.
            if hasattr(module, "set_cuda_attention_backend"):
                module.set_cuda_attention_backend("default")
            # It rotates with gradients in single precision alone.
            if name.endswith("to_qkv"):
                module.register_forward_hook(_in_single_precision)
        on_spectra = OnSpectra(self.n_fft, self.hop_length, model, _estimate)
        ends = ("model.band_split", "model.mask_estimators")
        return SegmentNetwork(self, on_spectra, context_size, context_scale, ends)


def _in_single_precision(module: "nn.Module", inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor":
    return output.float()


def _estimate(model: "nn.Module", spectrum: "Complex[Tensor, 'z c n f']") -> "Complex[Tensor, 'z s c n f']":
    """The spectra of the outputs: the mixture's by complex masks."""
    import torch
    from einops import rearrange
    from pymss_core.modules.bs_roformer.common import forward_roformer_mask_core

    # Beside each bin of one channel lies that of the other.
    parts = torch.view_as_real(rearrange(spectrum, "z c n f -> z (f c) n"))
    masks = torch.view_as_complex(forward_roformer_mask_core(model, parts).to(parts.dtype).contiguous())
    return rearrange(masks, "z s (f c) n -> z s c n f", c=spectrum.shape[1]) * spectrum.unsqueeze(1)
