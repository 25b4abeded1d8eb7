"""What a network costs: its weights, and its multiplications per second of audio.

    num_weights(separator)                      # 10_260_000
    gmac_per_second(separator, 16389)           # 10^9 multiply-accumulates per second of output, for one query

Counted, not timed, so the figures are the same on every machine.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vimss.model.conditioning import Context, FrameGrid
from vimss.model.separator import Separator


def num_weights(network: nn.Module) -> int:
    """How many numbers its parameters hold, frozen ones too."""
    return sum(weight.numel() for weight in network.parameters())


def gmac_per_second(separator: Separator, output_samples: int) -> float:
    """10^9 multiply-accumulates of the forward pass of one window, per second of its output.

    The window is that of training: a network of valid convolutions computes more per second in a shorter one. Products
    of matrices, convolutions, attention and LSTMs count; Fourier transforms and the network that looks at pictures do
    not. Of a network that takes queries it is the cost of one query, of any other that of all outputs.
    """
    mixture = torch.zeros(1, separator.config.channels, separator.input_samples(output_samples), dtype=separator.dtype)
    context = None
    if separator.interface.is_conditioned:
        values = torch.zeros(1, 1, 1, separator.interface.context.width, dtype=separator.dtype)
        context = Context(values, FrameGrid.spread(1, mixture.shape[-1]))
    network = cast(nn.Module, separator.network)
    return 1e-9 * multiplications(network, mixture, context) * separator.sample_rate / output_samples


def multiplications(network: nn.Module, *inputs: Tensor | Context | None) -> float:
    """Multiply-accumulates of a forward pass, as `gmac_per_second` counts them."""
    recurrent = 0.0

    def count(module: nn.Module, arguments: tuple[Tensor, ...], _: object) -> None:
        nonlocal recurrent
        steps = arguments[0].numel() / arguments[0].shape[-1]
        recurrent += steps * sum(weight.numel() for weight in module.parameters() if weight.ndim == 2)

    # The counter of torch does not know LSTMs.
    hooks = [one.register_forward_hook(count) for one in network.modules() if isinstance(one, nn.LSTM)]
    try:
        # With gradients, as the counter does not bear parametrized modules without.
        with FlopCounterMode(display=False) as counter:
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() / 2 + recurrent
