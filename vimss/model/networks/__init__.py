"""The networks that separate. To add one: a folder or file here, and its line in NETWORKS.

    NETWORKS["wave_u_net"](levels=8)         # its settings
    parse_model({"levels": 8}, "my.yaml")    # the same; `network` selects the class, and may be missing
    config.geometry, config.sites()          # known without torch
    config.build(13, 20, 1.0)                # the network itself: torch is loaded here, and not before

A folder holds two things in two files, so that YAML is checked, windows are computed and `vimss --help` is printed
without the seconds that torch takes to load:

    config.py     a ModelConfig with the settings that the network adds to those of all networks. Its members:
                  `network`, the name, as a Literal; `geometry`, the windows it allows, its context and its stride;
                  `sites()`, which of its layers each site means, and their channels; `build(...)`. Where they apply
                  also `ops`, `window_keys`, `packages`, `idle_rules`, `sums_to_mixture`, `classifies_samples`,
                  `check_labels` and `canonical`
    network.py    the Network: an nn.Module that takes a mixture and a Context, and gives estimates

A network of a library is one file with the settings alone: `segments` makes its nn.Module a Network.

`vimss.model` conditions its layers (`conditioning.make_conditions`), names its outputs and saves it (`separator`), and
separates recordings of any length with it (`apply`); tests/test_networks.py holds each network to what they rely on.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from vimss.choice import OneOf
from vimss.config import parse_config
from vimss.errors import ConfigError
from vimss.model.config import ModelConfig
from vimss.model.networks.bs_roformer import BSRoformerConfig
from vimss.model.networks.conv_tasnet import ConvTasNetConfig
from vimss.model.networks.deep_conv_sep import DeepConvSepConfig
from vimss.model.networks.hdemucs import HDemucsConfig
from vimss.model.networks.looking_to_listen import LookingToListenConfig
from vimss.model.networks.moises_light import MoisesLightConfig
from vimss.model.networks.multi_head_u_net import MultiHeadUNetConfig
from vimss.model.networks.open_unmix import OpenUnmixConfig
from vimss.model.networks.scnet import SCNetConfig
from vimss.model.networks.sound_of_pixels import SoundOfPixelsConfig
from vimss.model.networks.spectrogram_u_net import SpectrogramUNetConfig
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.networks.wavenet import WaveNetConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor, nn

    from vimss.model.conditioning import Context

NETWORKS: dict[str, type[ModelConfig]] = {
    "wave_u_net": WaveUNetConfig,
    "spectrogram_u_net": SpectrogramUNetConfig,
    "conv_tasnet": ConvTasNetConfig,
    "hdemucs": HDemucsConfig,
    "wavenet": WaveNetConfig,
    "multi_head_u_net": MultiHeadUNetConfig,
    "deep_conv_sep": DeepConvSepConfig,
    "looking_to_listen": LookingToListenConfig,
    "sound_of_pixels": SoundOfPixelsConfig,
    "open_unmix": OpenUnmixConfig,
    "scnet": SCNetConfig,
    "bs_roformer": BSRoformerConfig,
    "moises_light": MoisesLightConfig,
}
"""`network` of the settings to their class."""

DEFAULT = WaveUNetConfig()
"""The network of settings that name none."""

BY_NETWORK = OneOf[ModelConfig]("network", NETWORKS, DEFAULT.network)

AnyNetwork = Annotated[ModelConfig, BY_NETWORK]
"""Type of a field that holds the settings of any of the networks."""


@runtime_checkable
class Network(Protocol):
    """The part of a network that the rest of VIMSS uses, beside nn.Module's own.

    Axis letters: b batch, c channel, t audio sample of the input window, u of the output window, s output.
    """

    def __call__(self, mixture: "Float[Tensor, 'b c t']", context: "Context | None") -> "Float[Tensor, 'b s c u']":
        """The estimates in the middle of the window, where t is `geometry.input_samples(u)`.

        Without a context (the site is none), or with one for all outputs, s is the number of outputs; with a context
        per query ("b s v d"), the number of queries times that of outputs per query. An example's estimates depend on
        no other example of the batch.
        """

    def matrices(self) -> "list[nn.Parameter]":
        """The weights from feature to feature, each a matrix: those that Muon trains."""

    def parameters(self) -> "Iterator[nn.Parameter]":
        """All weights, as of any nn.Module."""


@runtime_checkable
class SampleClassifier(Network, Protocol):
    """A network whose estimates are means of the levels of `vimss.model.mu_law` under their log-odds."""

    def __call__(
        self, mixture: "Float[Tensor, 'b c t']", context: "Context | None", log_odds: bool = False
    ) -> "Float[Tensor, 'b s c u *k']":
        """The estimates, or with `log_odds` those of each sample's levels, "b s c u k"."""


def parse_model(content: Mapping[str, Any], where: str) -> ModelConfig:
    """Plain settings of any network, checked; ConfigError names `where` and the key."""
    name = content.get("network", DEFAULT.network)
    if not isinstance(name, str) or name not in NETWORKS:
        raise ConfigError(
            f"{where}: network must be one of {', '.join(NETWORKS)}",
            got=repr(name),
            fix="correct it, or use a version of VIMSS that has this network",
        )
    return parse_config(content, NETWORKS[name], where)
