"""What separating a recording block by block must equal: one pass over the whole, then its rules sample by sample."""

import numpy as np
import torch
import torch.nn.functional as F

from vimss.baselines.spectrogram import masked, spectrum_of
from vimss.model.apply import DC_SECONDS, SILENCE
from vimss.model.conditioning import FrameGrid


def naive_separation(separator, mixture, context=None):
    """The outputs [s c t] for a mixture [c t] and a context [s v d]."""
    raw = one_pass(separator, mixture, context).double().numpy()
    width = 2 * round(DC_SECONDS * separator.sample_rate / 2) + 1
    gain = sounding(mixture.numpy(), separator.geometry.reach)
    outputs = np.stack([[row - local_mean(row, width) for row in channels] for channels in raw])
    if separator.config.share_mixture and len(outputs) > 1:
        magnitudes = np.stack([abs(spectrum_of(output, separator.sample_rate)) for output in outputs])
        outputs = masked(mixture.double().numpy(), magnitudes, separator.sample_rate)
    outputs = outputs * gain
    if separator.config.sums_to_mixture:
        outputs[-1] = mixture.numpy() - outputs[:-1].sum(axis=0)
    return torch.from_numpy(outputs)


def one_pass(separator, mixture, context=None):
    """What the network gives for the recording as one window, with zeros beyond its ends."""
    length = mixture.shape[1]
    window = separator.geometry.window_at_least(length)
    before = separator.geometry.context // 2
    padded = F.pad(mixture, (before, separator.input_samples(window) - before - length))
    with torch.no_grad():
        if context is None:
            return separator(padded[None])[0, ..., :length]
        spread = FrameGrid.spread(context.shape[1], length)
        frames_at = FrameGrid(spread.first + before, spread.step)
        return separator(padded[None], context[None], None, frames_at)[0, ..., :length]


def local_mean(row, width):
    """A mean that weighs samples by a triangle, of those that there are."""
    triangle = np.convolve(np.ones(width), np.ones(width))
    middle = slice(width - 1, width - 1 + len(row))
    return np.convolve(row, triangle)[middle] / np.convolve(np.ones(len(row)), triangle)[middle]


def sounding(mixture, reach):
    """How much of a sample stays: 0 where no sound is within `reach`."""
    fade, length = reach // 8, mixture.shape[1]
    places = np.flatnonzero((np.abs(mixture) > SILENCE).any(axis=0))
    # Around the recording too, as far as a mean may look.
    near = [places.size > 0 and np.abs(places - t).min() <= reach - fade for t in range(-fade, length + fade)]
    return np.convolve(near, np.full(2 * fade + 1, 1 / (2 * fade + 1)), "valid")
