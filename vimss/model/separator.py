"""The separator: a network with its labels and its sample rate, and how it is saved.

separator = Separator(WaveUNetConfig(outputs="queries", site="decoder"), labels=("vn", "vc"), sample_rate=22050)
context = separator.interface.context_of(["vn", "vc"])    # [2 2], one query per row
stems = separator(mixture, torch.from_numpy(context)[None])   # [1 c t] -> [1 2 c u]
save_separator(folder, separator, card={"experiment": "joint"})
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Num
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vimss.config import key_paths
from vimss.errors import ModelError
from vimss.model.card import CARD, WEIGHTS
from vimss.model.conditioning import Context, FrameGrid
from vimss.model.config import ModelConfig
from vimss.model.contexts.refusals import misfit
from vimss.model.interface import Interface
from vimss.model.networks import Network, SampleClassifier, parse_model
from vimss.storage import atomic_write, fetch_missing, sha256


class Separator(nn.Module):
    """A mixture in, one estimate per output out."""

    def __init__(self, config: ModelConfig, labels: tuple[str, ...], sample_rate: int) -> None:
        """ModelError where weights of the vision network are not available, ConfigError where a package is missing."""
        super().__init__()
        config.check_installed()
        self.config = config
        self.labels = labels
        self.sample_rate = sample_rate
        self.interface = Interface(config, labels)
        self.geometry = config.geometry
        context = self.interface.context
        # The name begins those of its weights in files, whatever network it is.
        self.unet = config.build(self.outputs, context.width, context.norm)
        modules = context.modules(sample_rate) if self.interface.is_conditioned else {}
        self.context_names = tuple(modules)
        for name, module in modules.items():
            self.add_module(name, module)

    @property
    def outputs(self) -> int:
        """Number of outputs; of a query model, per query."""
        return self.interface.num_outputs()

    @property
    def network(self) -> Network:
        """The network itself: outputs have numbers, the context is vectors."""
        return cast(Network, self.unet)

    def matrices(self) -> list[nn.Parameter]:
        """The weights that Muon trains: the network's."""
        return self.network.matrices()

    @property
    def device(self) -> torch.device:
        """The device that the network is on."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its weights."""
        return next(self.network.parameters()).dtype

    def input_samples(self, output_samples: int) -> int:
        """Samples of the mixture for an output window; ConfigError names the nearest possible windows."""
        return self.geometry.input_samples(output_samples)

    def forward(
        self,
        mixture: Float[Tensor, "b c t"],
        context: Num[Tensor, "..."] | None = None,
        players: Bool[Tensor, "b p"] | None = None,
        frames_at: FrameGrid | None = None,
        log_odds: bool = False,
    ) -> Float[Tensor, "b s c u *k"]:
        """Separate windows of t = input_samples(u) samples; the output lies in their middle.

        Args:
            mixture: audio in -1..1.
            context: "b q ..." or "b p ...", as the interface gives it; see `vimss.model.contexts`. Not needed where
                the site is none.
            players: which players are real; the others change nothing. All where not given.
            frames_at: when the v frames are, in samples of the window; spread evenly over it where not given.
            log_odds: give those of each sample's levels, "b s c u k", of a network that classifies samples.

        Raises:
            ModelError: where the context does not fit the configuration.

        """
        network = functools.partial(cast(SampleClassifier, self.network), log_odds=True) if log_odds else self.network
        if not self.interface.is_conditioned:
            return network(mixture, None)
        values = self.encode_context(context, players)
        if values.shape[0] != mixture.shape[0]:
            raise misfit("one context per mixture", f"{values.shape[0]} contexts for {mixture.shape[0]} mixtures")
        grid = frames_at or FrameGrid.spread(values.shape[2], mixture.shape[-1])
        return network(mixture, Context(values.to(mixture.dtype), grid))

    def encode_context(
        self, context: Num[Tensor, "..."] | None, players: Bool[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b s v d"]:
        """The context as one sequence of vectors per query, or one in all; arguments as in forward."""
        if context is None:
            raise misfit(f"a context of {self.config.context}, because its site is {self.config.site}", "none")
        if not self.interface.uses_players:
            players = None
        if players is not None and context.shape[1] != players.shape[1]:
            raise misfit(f"one picture sequence per player ({players.shape[1]})", f"{context.shape[1]}")
        modules = {name: getattr(self, name) for name in self.context_names}
        values = self.interface.context.encode(context, players, modules, self.dtype)
        if players is not None:
            # Filled, not multiplied by zero: what stands in the padding may be anything, NaN too.
            values = values.masked_fill(~players[:, :, None, None], 0)
        return self._pool(values, players) if self.config.outputs == "instruments" else values

    def _pool(self, values: Float[Tensor, "b p v d"], players: Bool[Tensor, "b p"] | None) -> Float[Tensor, "b 1 v d"]:
        """One context for all players: the largest of each feature, which no number of players dilutes."""
        if players is None:
            return values.amax(1, keepdim=True)
        absent = ~players[:, :, None, None]
        pooled = values.masked_fill(absent, -torch.inf).amax(1, keepdim=True)
        return torch.where(players.any(1)[:, None, None, None], pooled, torch.zeros_like(pooled))


def save_separator(folder: str | Path, separator: Separator, card: dict[str, Any], left_out: str = "") -> None:
    """Write model.json and weights.safetensors into `folder`, whole or not at all.

    `card` holds further facts about the model, as JSON; `left_out` is a module of it that only training needs.
    """
    with atomic_write(Path(folder)) as temporary:
        temporary.mkdir()
        state = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in separator.state_dict().items()
            if not left_out or not name.startswith(f"{left_out}.")
        }
        save_file(state, temporary / WEIGHTS)
        description = {
            "config": separator.config.model_dump(mode="json"),
            "labels": list(separator.labels),
            "sample_rate": separator.sample_rate,
            "sha256": sha256(temporary / WEIGHTS),
            "card": card,
        }
        (temporary / CARD).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_separator(
    folder: str | Path,
    expected: ModelConfig | None = None,
    labels: Sequence[str] | None = None,
    sample_rate: int | None = None,
) -> Separator:
    """The separator in `folder`, in evaluation mode, after a check of its digest.

    Raises:
        ModelError: where a file is missing or damaged, or where configuration, labels or sample rate are given and
            are not those of the weights; it names the first key that differs.

    """
    folder = Path(folder)
    description = read_card(folder)
    if description.get("objective", "separation") != "separation":
        raise ModelError(
            f"{folder} must hold a network that separates",
            got=f"one of the objective '{description['objective']}'",
            fix="choose another model, or train a separator with training.start_from set to this one",
        )
    config = parse_model(description["config"], str(folder / CARD))
    if expected is not None:
        _compare(folder, _flat(config), _flat(expected))
    about = {"labels": None if labels is None else list(labels), "sample_rate": sample_rate}
    _compare(folder, description, {key: value for key, value in about.items() if value is not None})
    state = _read_weights(folder, description["sha256"])
    # Everything is in the file: nothing may be downloaded again, nor read from a path of another machine.
    still = config.model_copy(update={"vision": config.vision.model_copy(update={"weights": "random"})})
    separator = Separator(still, tuple(description["labels"]), int(description["sample_rate"]))
    separator.config = config
    separator.interface = Interface(config, separator.labels)
    for name, tensor in separator.state_dict().items():
        if name not in state or state[name].shape != tensor.shape:
            raise ModelError(
                f"{folder / WEIGHTS} must have {name} of shape {list(tensor.shape)}, as in {CARD}",
                got=f"shape {list(state[name].shape)}" if name in state else "no such weight",
                fix="use the model.json that was saved with these weights",
            )
    separator.load_state_dict(state)
    return separator.eval()


def read_card(folder: Path) -> dict[str, Any]:
    """The content of model.json; ModelError where it is missing or not what save_separator writes.

    The model of a study behind a URL is fetched where this node has no copy of the study.
    """
    path = folder / CARD
    fetch_missing(folder, CARD)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} must hold a {CARD}", got="none", fix="give the folder of a saved model") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be JSON", got=str(error), fix="save the model again") from error
    kinds = {"config": dict, "labels": list, "sample_rate": int, "sha256": str, "card": dict}
    for key, kind in kinds.items():
        if not isinstance(description, dict) or not isinstance(description.get(key), kind):
            raise ModelError(f"{path} must have the key '{key}'", got="no such key", fix="save the model again")
    return description


def check_weights(folder: Path, digest: str) -> None:
    """ModelError where the weights in `folder` are missing or damaged; `digest` is the one in its model.json."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} must hold {WEIGHTS}", got="no such file", fix="copy the whole folder of the model")
    found = sha256(path)
    if found != digest:
        raise ModelError(
            f"{path} must have the SHA-256 digest in {CARD}",
            got=f"{found[:10]}... instead of {digest[:10]}...: the file was cut short or changed",
            fix="copy the model again or use an older checkpoint",
        )


def _read_weights(folder: Path, digest: str) -> dict[str, Tensor]:
    check_weights(folder, digest)
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} must be a safetensors file", got=str(error), fix="save the model again") from error


def _compare(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if found[key] != value:
            raise ModelError(
                f"the weights in {folder} must be of the wanted configuration, with {key}: {value}",
                got=f"{key}: {found[key]}",
                fix="change the setting or choose another model",
            )


def _flat(config: ModelConfig) -> dict[str, Any]:
    """Settings by their whole keys, as in `vision.network`."""
    return {key: functools.reduce(getattr, key.split("."), config) for key in key_paths(type(config))}
