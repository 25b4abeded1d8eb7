"""Separation of a recording of any length: block by block, and equal to one pass over the whole.

    for block in separate_blocks(separator, mixture, context):
        file.write(block)                    # [s c u], the next u samples of every output

A network moves its output along with its input only in steps of its stride, so blocks lie on that grid; each looks
at as much of its neighbours as one output sample can see, and zeros stand beyond the ends of the recording. Memory
does not grow with the length of the recording; `separate_stream` takes one that lies on disk.

A network has biases: its output for silence is a constant, and its output for music has an offset. Stems must have
neither, so the output of the network is corrected in two ways, which leave the music unchanged:

- Its mean over a tenth of a second is subtracted (a triangle, twice DC_SECONDS wide; a high-pass of 6 Hz that moves no
  sample in time). The mean of a small trained network's stems was 28 dB below their RMS and is 99 dB below it now; with
  the output for silence subtracted it was 27 dB. SI-SDR rose by 0.09 dB on average, BSS Eval's SDR by 0.06 dB.
- A sample is 0 where all of the mixture that it can see is silent, that is below SILENCE. In the outer quarter of its
  sight the stem is faded out, so that no step is left.

If the outputs of a network sum to the mixture, the last one is computed as the mixture minus the corrected others.
Several outputs of a model with `share_mixture` share it by ratio masks of their magnitudes, a generalised Wiener filter
(Liutkus and Badeau, 2015, alpha = 1): what no output has goes to those that are loud at that time and frequency, and
what several have is divided.
"""

from collections.abc import Callable, Iterator

import numpy as np
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


DC_SECONDS = 0.1
"""A signal that is constant for this long is silent: the lowest note of a tuba has a period of 0.03 s."""

MASK_SECONDS = 0.2
"""How much further ratio masks look: more than two windows, since those at the ends of what is seen are not full."""

SILENCE = 1e-6
"""Samples below it, -120 dB of full scale, are silence: what rounding leaves where a file of zeros is resampled."""

Read = Callable[[int, int], Float[Tensor, "c n"]]
"""Gives samples of a recording, from the first to the last, exclusive; never called beyond its ends."""


def separate_blocks(
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
    return separate_stream(
        separator, lambda first, last: mixture[:, first:last], mixture.shape[1], context, block_samples, progress
    )


def separate_stream(
    separator: Separator,
    read: Read,
    length: int,
    context: Num[Tensor, "..."] | None = None,
    block_samples: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Float[Tensor, "s c u"]]:
    """`separate` of a recording of `length` samples that need not be in memory."""
    channels = read(0, 0).shape[0]
    if channels != separator.config.channels:
        raise ModelError(
            f"this model takes {separator.config.channels} audio channels",
            got=str(channels),
            fix="mix the recording down, or use a model for that many channels",
        )
    encoded = _encode(separator, context)
    for start, stop in _blocks(separator.geometry, length, block_samples):
        # No name for the block here: it would be kept while the next one is computed.
        yield _block(separator, read, encoded, (start, stop), length)
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
    blocks = list(separate_blocks(separator, mixture, context, block_samples, progress))
    if blocks:
        return torch.cat(blocks, dim=-1)
    count = context.shape[0] if context is not None and separator.config.outputs == "queries" else separator.outputs
    return mixture.new_zeros(count, *mixture.shape)


def _blocks(shape: Geometry, length: int, block_samples: int | None) -> Iterator[tuple[int, int]]:
    """Start and stop of each block of output."""
    wanted = block_samples or max(BLOCK_CONTEXTS * shape.context, BLOCK_CONTEXTS * shape.reach, SMALLEST_BLOCK)
    hop = max(wanted // shape.stride, 1) * shape.stride
    for start in range(0, length, hop):
        yield start, min(start + hop, length)


def _block(
    separator: Separator, read: Read, encoded: Float[Tensor, "1 r v d"] | None, span: tuple[int, int], length: int
) -> Float[Tensor, "s c u"]:
    """The outputs of one block, without offset, and silent where the mixture is."""
    (start, stop), shape = span, separator.geometry
    width = 2 * round(DC_SECONDS * separator.sample_rate / 2) + 1
    sight = round(MASK_SECONDS * separator.sample_rate) if separator.config.share_mixture else 0
    # As many samples more as means and masks need, on the network's grid.
    margin = -(-(width - 1 + sight) // shape.stride) * shape.stride
    low, high = max(start - margin, 0), min(stop + margin, length)
    outputs = _outputs(separator, read, encoded, (low, high), length)
    padded = read_padded(read, start - shape.reach, stop + shape.reach, length)
    mixture = padded[:, shape.reach : shape.reach + stop - start].to("cpu", outputs.dtype)
    gain = _sounding(padded.cpu(), shape.reach).to(outputs.dtype)
    kept = torch.stack([_without_offset(row, width) for row in outputs])
    if separator.config.share_mixture and len(kept) > 1:
        kept = _shared(kept, read(low, high).to("cpu", outputs.dtype), low, separator.sample_rate)
    kept = kept[..., start - low : stop - low] * gain
    if separator.config.sums_to_mixture:
        kept[-1] = mixture - kept[:-1].sum(0)
    return kept.to(padded.device)


def _shared(
    estimates: Float[Tensor, "s c n"], mixture: Float[Tensor, "c n"], first: int, sample_rate: int
) -> Float[Tensor, "s c n"]:
    """The mixture through a ratio mask for each of the estimates; all begin at sample `first` of the recording."""
    from vimss.baselines.spectrogram import masked, spectrum_of, window_of  # loads scipy.signal

    # The windows begin at multiples of half a window in the recording, wherever a block begins.
    before = first % (window_of(sample_rate) // 2)
    sounds = F.pad(torch.cat([estimates, mixture[None]]).float(), (before, 0)).numpy()
    magnitudes = np.stack([np.abs(spectrum_of(sound, sample_rate)) for sound in sounds[:-1]])
    return torch.from_numpy(masked(sounds[-1], magnitudes, sample_rate)[..., before:]).to(estimates.dtype)


def _without_offset(row: Float[Tensor, "c n"], width: int) -> Float[Tensor, "c n"]:
    """The signal minus its mean around each sample: over two windows of `width` samples, one after the other."""
    # Sums run over the whole block, for which 24 bits are too few.
    padded = F.pad(torch.cat([row.double(), torch.ones_like(row[:1], dtype=torch.float64)]), (width - 1, width - 1))
    *sums, count = _window_sums(_window_sums(padded, width), width)
    return row - (torch.stack(sums) / count).to(row.dtype)


def _sounding(mixture: Float[Tensor, "c n"], reach: int) -> Float[Tensor, " u"]:
    """1 where sound is in sight, 0 where none is, and a slope between; for all samples but `reach` at either end."""
    fade = reach // 8
    sound = (mixture.abs() > SILENCE).any(0).long()
    near = (_window_sums(sound, 2 * (reach - fade) + 1) > 0).long()
    return _window_sums(near, 2 * fade + 1).double() / (2 * fade + 1)


def _window_sums(signal: Num[Tensor, "*b n"], width: int) -> Num[Tensor, "*b u"]:
    """Sums over all windows of `width` samples that lie within the signal."""
    sums = F.pad(signal.cumsum(-1), (1, 0))
    return sums[..., width:] - sums[..., :-width]


def _outputs(
    separator: Separator, read: Read, encoded: Float[Tensor, "1 r v d"] | None, span: tuple[int, int], length: int
) -> Float[Tensor, "s c u"]:
    """The network's output for a stretch of the recording that starts on its grid, on the CPU."""
    (start, stop), shape = span, separator.geometry
    if not shape.border:
        first, offset = start - shape.context // 2, 0
        last = first + shape.input_samples(shape.window_at_least(stop - start))
    else:
        # Zeros pad every layer at the recording's own ends and nowhere else: at an inner border the block
        # continues until the wrong zeros are out of reach.
        end = -(-length // shape.stride) * shape.stride
        first, last = max(start - shape.border, 0), min(-(-stop // shape.stride) * shape.stride + shape.border, end)
        offset = start - first
    window = read_padded(read, first, last, length)
    return _run(separator, window, encoded, first, length)[..., offset : offset + stop - start].cpu()


def read_padded(read: Read, first: int, last: int, length: int) -> Float[Tensor, "c n"]:
    """The mixture from `first` to `last`, with zeros beyond the ends of the recording."""
    inside = read(min(max(first, 0), length), min(max(last, 0), length))
    before = max(-first, 0)
    return F.pad(inside, (before, last - first - before - inside.shape[1]))


def _encode(separator: Separator, context: Num[Tensor, "..."] | None) -> Float[Tensor, "1 r v d"] | None:
    """The context of the whole recording as vectors: pictures are looked at once, not once per block."""
    if not separator.interface.is_conditioned:
        return None
    with torch.inference_mode():
        return separator.encode_context(None if context is None else context.to(separator.device).unsqueeze(0))


@torch.inference_mode()
def _run(
    separator: Separator,
    window: Float[Tensor, "c n"],
    encoded: Float[Tensor, "1 r v d"] | None,
    first: int,
    length: int,
) -> Float[Tensor, "s c u"]:
    """One block; `first` is where its window begins in the recording of `length` samples."""
    batch = window.to(separator.device, separator.dtype).unsqueeze(0)
    if encoded is None:
        return separator.network(batch, None)[0]
    frames = encoded.shape[2]
    grid = FrameGrid.spread(frames, length)
    # Only the frames around this window: those further away have no effect.
    low = min(max(int((first - grid.first) // grid.step), 0), frames - 1)
    high = min(max(int((first + window.shape[1] - grid.first) // grid.step) + 2, low + 1), frames)
    here = FrameGrid(grid.first + low * grid.step - first, grid.step)
    return separator.network(batch, Context(encoded[:, :, low:high].to(batch.dtype), here))[0]
