"""Sixteen outputs of every network with seeded weights, and the command that writes them anew, with a reason:

    platform/local/run python tests/golden/networks.py

They show when a library, or a change here, makes a network compute something else. They are computed in double
precision: of single precision, the last digits depend on the machine.
"""

import json
from pathlib import Path
from typing import Any

import torch

from vimss.model.config import ModelConfig
from vimss.model.networks import NETWORKS, parse_model
from vimss.model.separator import Separator

FILE = Path(__file__).with_suffix(".json")

SMALL: dict[str, dict[str, Any]] = {
    "wave_u_net": {"levels": 2, "filters": 8, "max_filters": 12, "down_kernel": 5},
    "spectrogram_u_net": {"n_fft": 64, "hop_length": 16, "depth": 2, "filters": 8, "kernel_size": 3},
    "conv_tasnet": {
        "segment_samples": 64, "margin_samples": 16, "enc_kernel_size": 8, "enc_num_feats": 24, "msk_num_feats": 12,
        "msk_num_hidden_feats": 16, "msk_num_layers": 2, "msk_num_stacks": 2,
    },
    "hdemucs": {"segment_samples": 64, "margin_samples": 32, "n_fft": 64, "depth": 3, "filters": 8},
    "wavenet": {
        "layers": 3, "stacks": 2, "filters": 12, "skip_filters": 8, "hidden_filters": 10, "output_filters": 8,
    },
    "multi_head_u_net": {"n_fft": 64, "hop_length": 16, "bins": 24, "depth": 2, "filters": 8},
    "deep_conv_sep": {
        "segment_samples": 64, "margin_samples": 32, "n_fft": 32, "hop_length": 8, "filters": 8, "bottleneck_size": 16,
    },
    "open_unmix": {
        "segment_samples": 64, "margin_samples": 16, "n_fft": 32, "hop_length": 8, "hidden_size": 16, "nb_layers": 1,
    },
    "scnet": {"segment_samples": 64, "margin_samples": 16, "n_fft": 32, "hop_length": 16, "dims": (8,)},
    "bs_roformer": {
        "segment_samples": 64, "margin_samples": 16, "n_fft": 32, "hop_length": 16, "dim": 8, "depth": 1, "heads": 2,
        "dim_head": 4, "freqs_per_bands": (4, 4, 9),
    },
    "moises_light": {
        "segment_samples": 64, "margin_samples": 16, "n_fft": 32, "hop_length": 16, "freq_dim": 16, "n_bands": 2,
        "G": 4, "n_enc": 1, "n_rope": 1, "bn_factor": 4, "heads": 2, "dim_head": 4,
    },
    "looking_to_listen": {
        "segment_samples": 64, "margin_samples": 32, "n_fft": 32, "hop_length": 8, "dilations": 1, "filters": 6,
        "last_filters": 2, "visual_filters": 6, "lstm_size": 8, "hidden_size": 16,
    },
    "sound_of_pixels": {"n_fft": 64, "hop_length": 16, "bins": 24, "depth": 2, "filters": 8, "maps": 6},
}  # fmt: skip
"""Settings of a network that make it small enough for tests."""


def small(name: str, **settings: Any) -> ModelConfig:
    """These settings of a network of that size; where it lacks the site every_layer or the op, one that it has."""
    kind = NETWORKS[name]
    sites = kind().sites()
    if settings.get("site") == "every_layer" and "every_layer" not in sites:
        settings["site"] = list(sites)[-1]
    if "op" in settings and settings["op"] not in kind.ops:
        settings["op"] = kind.ops[0]
    return parse_model({"network": name, **SMALL.get(name, {}), **settings}, "test")


def outputs(name: str) -> list[float]:
    """Of a conditioned network, at equal distances over all outputs and samples."""
    config = small(name, site="every_layer")
    torch.manual_seed(0)
    separator = Separator(config, ("fl", "va", "vc"), 8000).eval().double()
    samples = separator.input_samples(separator.geometry.window_at_least(200))
    mixture = 0.3 * torch.randn(1, 1, samples, dtype=torch.float64)
    with torch.no_grad():
        found = separator(mixture, torch.tensor([[[1.0, 0.0, 1.0]]])).flatten()
    return found[:: len(found) // 16][:16].tolist()


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: outputs(name) for name in NETWORKS}, indent=1) + "\n", encoding="utf-8")
