"""Separation of a recording of any length: block by block, and equal to one pass over the whole.

    for block in separate(separator, mixture, context):
        file.write(block)                    # [s c u], the next u samples of every output

The network moves its output along with its input only in steps of 2^L samples, so blocks lie on that grid; each looks
at as much of its neighbours as one output sample can see, and zeros stand beyond the ends of the recording. Memory
does not grow with the length of the recording, beyond the recording itself.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

from vimss.errors import ModelError
from vimss.model.conditioning import Context, FrameGrid
from vimss.model.geometry import Geometry
from vimss.model.separator import Separator

BLOCK_CONTEXTS = 2
"""Default block in multiples of the context a block needs: two thirds of the samples looked at are then output.

Twice as long was 1.05 times faster with twice the memory; keeping each level's last rows, so that nothing is computed
twice, 1.07 times: what overlaps is cheap, since there only even samples are computed."""

SMALLEST_BLOCK = 65536
"""Samples; below it the calls cost more than the arithmetic."""


def separate(
    separator: Separator,
    mixture: Float[Tensor, "c t"],
    context: Num[Tensor, "..."] | None = None,
    block_samples: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Float[Tensor, "s c u"]]:
    """Yield the outputs for `mixture`, block after block, t samples in all.

    Args:
        separator: in evaluation mode; it stays on its device, blocks come back to the mixture's.
        mixture: audio at the separator's rate, -1..1.
        context: labels "q i"; features "p v d" or pictures "p v h w 3", spread evenly over the recording.
        block_samples: samples per block, rounded down to what the network allows; a few seconds where not given.
        progress: called after each block with the seconds of audio done.

    Raises:
        ModelError: where the mixture has other channels than the network, or the context does not fit.

    """
    if mixture.shape[0] != separator.config.channels:
        raise ModelError(
            f"this model takes {separator.config.channels} audio channels",
            got=str(mixture.shape[0]),
            fix="mix the recording down, or use a model for that many channels",
        )
    encoded = _encode(separator, context)
    length = mixture.shape[1]
    for start, stop, first, last in _blocks(separator.geometry, length, block_samples):
        offset = start - first if separator.config.padding == "same" else 0
        # No name for the block here: it would be kept while the next one is computed.
        yield _run(separator, _slice_padded(mixture, first, last), encoded, first, length)[
            ..., offset : offset + stop - start
        ].to(mixture.device)
        if progress is not None:
            progress(stop / separator.sample_rate)


def separate_all(
    separator: Separator,
    mixture: Float[Tensor, "c t"],
    context: Num[Tensor, "..."] | None = None,
    block_samples: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Float[Tensor, "s c t"]:
    """All outputs of a recording at once; see `separate`."""
    blocks = list(separate(separator, mixture, context, block_samples, progress))
    if blocks:
        return torch.cat(blocks, dim=-1)
    count = context.shape[0] if context is not None and separator.config.outputs == "queries" else separator.outputs
    return mixture.new_zeros(count, *mixture.shape)


def _blocks(shape: Geometry, length: int, block_samples: int | None) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop) of each block of output, and (first, last) of the input it needs, which may lie beyond the ends."""
    wanted = block_samples or max(BLOCK_CONTEXTS * shape.context, BLOCK_CONTEXTS * shape.reach, SMALLEST_BLOCK)
    hop = max(wanted // shape.stride, 1) * shape.stride
    for start in range(0, length, hop):
        stop = min(start + hop, length)
        if shape.padding == "valid":
            window = shape.window_at_least(stop - start)
            first = start - shape.context // 2
            yield start, stop, first, first + shape.input_samples(window)
        else:
            # Zeros pad every layer at the recording's own ends and nowhere else: at an inner border the block
            # goes on until the wrong zeros are out of sight.
            margin = -(-(shape.reach + shape.up_kernel) // shape.stride) * shape.stride
            end = -(-length // shape.stride) * shape.stride
            yield start, stop, max(start - margin, 0), min(-(-stop // shape.stride) * shape.stride + margin, end)


def _slice_padded(mixture: Float[Tensor, "c t"], first: int, last: int) -> Float[Tensor, "c n"]:
    inside = mixture[:, max(first, 0) : max(last, 0)]
    before = max(-first, 0)
    return F.pad(inside, (before, last - first - before - inside.shape[1]))


def _encode(separator: Separator, context: Num[Tensor, "..."] | None) -> Float[Tensor, "1 r v d"] | None:
    """The context of the whole recording as vectors: pictures are looked at once, not once per block."""
    if not separator.listens:
        return None
    device = separator.unet.head.bias.device
    with torch.inference_mode():
        return separator.encode_context(None if context is None else context.to(device).unsqueeze(0))


@torch.inference_mode()
def _run(
    separator: Separator,
    window: Float[Tensor, "c n"],
    encoded: Float[Tensor, "1 r v d"] | None,
    first: int,
    length: int,
) -> Float[Tensor, "s c u"]:
    """One block; `first` is where its window begins in the recording of `length` samples."""
    bias = separator.unet.head.bias
    batch = window.to(bias.device, bias.dtype).unsqueeze(0)
    if encoded is None:
        return separator.unet(batch, None)[0]
    frames = encoded.shape[2]
    grid = FrameGrid.spread(frames, length)
    # Only the frames around this window: those further away have no say.
    low = min(max(int((first - grid.first) // grid.step), 0), frames - 1)
    high = min(max(int((first + window.shape[1] - grid.first) // grid.step) + 2, low + 1), frames)
    here = FrameGrid(grid.first + low * grid.step - first, grid.step)
    return separator.unet(batch, Context(encoded[:, :, low:high].to(bias.dtype), here))[0]
