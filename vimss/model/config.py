"""Settings that every network has, checked before torch is loaded.

    WaveUNetConfig(op="film", site="decoder", outputs="queries")    # a ModelConfig with the settings of one network

Combinations that cannot be built are refused here, with the reason. Keys that a context adds are in the context's file.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from vimss.config import Rule
from vimss.errors import ConfigError
from vimss.model.contexts import ContextName, ContextSettings, describe_contexts
from vimss.model.geometry import Geometry

Op = Literal["concat", "add", "multiply", "film", "attention"]
Site = Literal["none", "every_layer", "decoder", "bottleneck", "output"]

STFT_SECONDS = 0.002, 0.5
"""The shortest and the longest window of an STFT; the networks that we know have 0.01 to 0.19."""

Gain = Annotated[
    float,
    Field(
        gt=0,
        le=1000,
        description="the mixture is multiplied by it before the first layer, and outputs that are samples are divided "
        "by it: music has a level of about 0.1, beside which what a context adds is loud, and layers learn faster "
        "around 1; in the papers it is 1",
    ),
]
"""The level at which a network works on waveforms."""


class ModelConfig(ContextSettings, ABC):
    """Settings that every network has, those of the contexts too; each network adds its own."""

    network: str = Field(description="which network; the other settings of this group are its own")

    context: ContextName = Field(
        "labels",
        description=f"what the network is conditioned on, where `site` is not none. {describe_contexts()}",
    )
    op: Op = Field("film", description="how the context changes a layer before its non-linearity")
    site: Site = Field(
        "none",
        description="which layers the context changes: none; every_layer; decoder (with the bottleneck); bottleneck; "
        "output (a hidden layer before the last one)",
    )
    outputs: Literal["instruments", "queries", "slots"] = Field(
        "instruments", description="one output per label, per query, or `slots` outputs in no order"
    )
    slots: int = Field(2, ge=1, le=32, description="number of outputs of a slots model")
    channels: Literal[1, 2] = Field(1, description="audio channels: 1 mono, 2 stereo")
    share_mixture: bool = Field(
        False,
        description="whether several outputs for a recording share it by ratio masks of their magnitudes, so that they "
        "sum to it; in training nothing changes",
    )

    ops: ClassVar[tuple[Op, ...]] = get_args(Op)
    """Values of `op` that the network has."""
    window_keys: ClassVar[tuple[str, ...]] = ()
    """Names of the settings that decide which windows the network allows."""
    label_keys: ClassVar[tuple[str, ...]] = ()
    """Names of the settings that `check_labels` looks at, beside `outputs`."""
    packages: ClassVar[Mapping[str, str]] = {}
    """Packages that the network needs and `pip install vimss` alone does not bring, and the module of each."""
    idle_rules: ClassVar[Mapping[str, Rule]] = {}
    """Settings of the network to when they change something, where they do not always."""

    @model_validator(mode="after")
    def _is_possible(self) -> "ModelConfig":
        if self.outputs == "queries" and self.site == "none":
            raise ValueError("outputs: queries needs a site: without one, every query would get the same answer")
        if self.outputs == "slots" and self.site != "none":
            raise ValueError("outputs: slots takes no context, so its site must be none")
        if self.site not in self.sites():
            raise ValueError(f"network: {self.network} has no such site: choose from {', '.join(self.sites())}")
        if self.op not in self.ops:
            raise ValueError(f"network: {self.network} has no such op: choose from {', '.join(self.ops)}")
        if self.share_mixture and self.sums_to_mixture:
            raise ValueError("share_mixture: the outputs of this network sum to the mixture without it")
        return self

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Which windows the network allows and how far it looks."""

    @abstractmethod
    def sites(self) -> Mapping[Site, Mapping[str, int]]:
        """The layers that each site means, and how many channels they have; `none` means none of them."""

    @abstractmethod
    def build(self, outputs: int, context_size: int, context_scale: float) -> Any:
        """The network (a `vimss.model.networks.Network`), with new weights; this loads torch.

        `outputs` are those of a query; `context_size` numbers make a context vector, whose usual length is
        `context_scale`.
        """

    @property
    def sums_to_mixture(self) -> bool:
        """Whether the outputs sum to the mixture, as the last one is what the others leave of it."""
        return False

    @property
    def classifies_samples(self) -> bool:
        """Whether the network is a SampleClassifier."""
        return False

    def check_installed(self) -> None:
        """ConfigError where a package that the network needs is not installed; none of them is loaded."""
        for package, module in self.packages.items():
            if find_spec(module) is None:
                raise ConfigError(
                    f"network: {self.network} needs the package {package}",
                    got="an environment without it",
                    fix="pip install 'vimss[networks]', wherever trials run",
                )

    def check_labels(self, labels: Sequence[str], corpus: str) -> None:
        """ConfigError where outputs for these labels, which are those of `corpus`, make no sense."""

    def check_rate(self, sample_rate: int) -> None:
        """ConfigError where the window of its STFT, if it has one, is no moment of music at this rate."""
        n_fft = dict(self).get("n_fft")
        shortest, longest = (round(seconds * sample_rate) for seconds in STFT_SECONDS)
        if n_fft is not None and not shortest <= n_fft <= longest:
            raise ConfigError(
                f"model.n_fft must be {shortest} to {longest} samples at {sample_rate} Hz: a window of "
                f"{STFT_SECONDS[0] * 1000:g} to {STFT_SECONDS[1] * 1000:g} ms",
                got=f"{n_fft}, {n_fft / sample_rate * 1000:.0f} ms",
                fix="set model.n_fft; published networks have windows of 10 to 190 ms",
            )

    def canonical(self) -> dict[str, Any]:
        """Values to set in place of those that were set, where several spell the same network."""
        return {}
