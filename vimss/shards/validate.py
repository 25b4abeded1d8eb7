"""Checks for every corpus: too few pieces, clips that break the recipe, stems that are silent or faint.

loudness, mix = SilenceCheck(), MixAndSum()
for clip in clips_of_a_piece:
    check_clip(clip, recipe)
    loudness.add(clip)
    mix.add(clip)
loudness.check("Jupiter", recipe)
mix.oddities("Jupiter")  # sentences about a recorded mix that is not nearly the sum of the stems
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vimss.errors import DataError
from vimss.shards.clip import Clip
from vimss.shards.corpora import Listing, Piece
from vimss.shards.recipe import SPLITS, Recipe
from vimss.shards.source import first_of

FAINT_DB = -60.0
"""Peak of a whole piece, dB of full scale, below which its samples were scaled once too often."""

LOUD_SECONDS, LOUD_SHARE = 0.05, 0.05
"""A piece must be louder than FAINT_DB for so many seconds, or this share of it where it is short. One broken sample of
a float file, to which all is scaled, leaves a click, which lasts some milliseconds once it was resampled."""

APART_DB = -10.0
"""Level of mix minus sum of the stems, against the louder of the two, above which a mix is odd. Streams that were
compressed apart differ by -15 to -30 dB (MUSDB18); a channel that is not there by 0 dB, one of four stems by -6 dB, and
3 dB of gain by -10.7 dB."""

SECOND_APART_DB, SOUNDING_DB = -3.0, -20.0
"""The same for a single second, among those that are at most this far below the average: a gap in the mix."""


def checked_pieces(listing: Listing, recipe: Recipe, source: Path | None) -> tuple[Piece, ...]:
    """The pieces of a listing; DataError where there are too few, or names or splits contradict each other."""
    pieces = listing.pieces
    check_expected([piece.seconds for piece in pieces], listing.missing, recipe, source)
    splits: dict[str, str] = {}
    names: set[str] = set()
    for piece in pieces:
        if piece.name in names:
            raise DataError(
                "every piece must have a name of its own", got=f"{piece.name} twice", fix="take one of them away"
            )
        names.add(piece.name)
        if piece.split not in SPLITS:
            raise DataError(
                f"the split of {piece.name} must be one of {', '.join(SPLITS)}",
                got=piece.split,
                fix="correct the reader",
            )
        if splits.setdefault(piece.composition, piece.split) != piece.split:
            raise DataError(
                f"the composition {piece.composition} must stand in one split",
                got=f"{splits[piece.composition]} and {piece.split}",
                fix="move all its pieces to one of them",
            )
    return pieces


def check_expected(lengths: Sequence[float], missing: Sequence[str], recipe: Recipe, source: Path | None) -> None:
    """DataError where more of a corpus is missing than its recipe allows: a download may have broken off."""
    lacking = f"; missing: {first_of(missing)}" if missing else ""
    expect = recipe.expect
    if not lengths and (expect is None or expect.most_missing == 1):
        raise DataError(
            f"the source of the corpus '{recipe.corpus}' must hold at least one piece",
            got=(f"none under {source}" if source else "none") + lacking,
            fix=f"obtain the data first: {recipe.obtain}",
        )
    if expect is None:
        return
    few = len(lengths) < (1 - expect.most_missing) * expect.pieces
    seconds = sum(lengths)
    # Lengths are given to the second or so.
    if few or seconds < 0.98 * (1 - expect.most_missing) * expect.seconds:
        wanted = f", together {expect.seconds:.0f} s" if expect.seconds else ""
        raise DataError(
            f"{source} must hold {expect.pieces} pieces{wanted}, of which a share of {expect.most_missing:g} may be "
            "missing",
            got=f"{len(lengths)} pieces, together {seconds:.0f} s{lacking}",
            fix=f"complete the download ({recipe.obtain}), or allow more: --set expect.most_missing=0.9",
        )


def check_clip(clip: Clip, recipe: Recipe) -> None:
    """DataError where rate, labels or the shape of a stem are not the recipe's."""
    if clip.sample_rate != recipe.sample_rate:
        raise DataError(
            f"{clip.key}: clips must have the recipe's sample rate of {recipe.sample_rate} Hz",
            got=f"{clip.sample_rate} Hz",
            fix="resample in the reader",
        )
    for player in clip.players:
        if player.instrument not in recipe.labels:
            raise DataError(
                f"{clip.key}: instruments must be among the recipe's labels {', '.join(recipe.labels)}",
                got=player.instrument,
                fix="add the label to the recipe, or map it in the reader",
            )
        if player.audio is not None and player.audio.shape != (recipe.channels, clip.samples):
            raise DataError(
                f"{clip.key}: every stem of a clip must have {recipe.channels} channels and {clip.samples} samples",
                got=f"{player.audio.shape} in {player.part}",
                fix=f"check the files of {clip.piece}",
            )


class SilenceCheck:
    """The loudest sample of each player of a piece, over its clips, to find silent stems."""

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}
        self._loud: dict[str, int] = {}
        self._samples = 0
        self._sample_rate = 1

    def add(self, clip: Clip) -> None:
        """Take in the next clip of the piece. Players without a stem who are not marked silent do not count."""
        self._samples += clip.samples
        self._sample_rate = clip.sample_rate
        faint = 32768 * 10 ** (FAINT_DB / 20)
        for player in clip.players:
            if player.audio is not None:
                peak = max(int(player.audio.max(initial=0)), -int(player.audio.min(initial=0)))
                self._peaks[player.part] = max(peak, self._peaks.get(player.part, 0))
                loud = int(((player.audio >= faint) | (player.audio <= -faint)).any(axis=0).sum())
                self._loud[player.part] = self._loud.get(player.part, 0) + loud
            elif player.silent:
                self._peaks.setdefault(player.part, 0)

    @property
    def silent_share(self) -> float:
        """Share of the players that have played nothing."""
        return len(self._silent()) / max(1, len(self._peaks))

    def _silent(self) -> list[str]:
        return [part for part, peak in self._peaks.items() if peak == 0]

    def check(self, piece: str, recipe: Recipe) -> None:
        """DataError where too many players have played nothing, or all of them next to nothing."""
        silent = self._silent()
        if self.silent_share > recipe.most_silent:
            raise DataError(
                f"at most a share of {recipe.most_silent:g} of the stems of {piece} may be silent "
                "from beginning to end",
                got=f"{len(silent)} of {len(self._peaks)}: {', '.join(silent)}",
                fix="export them again, take the silent ones away, or allow more: --set most_silent=1",
            )
        loudest = max(self._peaks.values(), default=0)
        if 0 < loudest < 32768 * 10 ** (FAINT_DB / 20):
            raise DataError(
                f"the loudest stem of {piece} must reach {FAINT_DB:g} dB of full scale",
                got=f"a highest sample of {loudest} of 32767",
                fix="its samples may have been scaled twice: export the stems again, at their true level",
            )
        long_enough = min(LOUD_SECONDS * self._sample_rate, LOUD_SHARE * self._samples)
        if loudest and max(self._loud.values()) < long_enough:
            raise DataError(
                f"the loudest stem of {piece} must be above {FAINT_DB:g} dB of full scale for more than a click",
                got=f"{max(self._loud.values())} samples of {self._samples}",
                fix="one broken sample may have turned all down: export the stems again, as 16-bit WAV",
            )


class MixAndSum:
    """How far the recorded mix of a piece is from the sum of its stems, per channel and second."""

    def __init__(self) -> None:
        self._energies: list[Float64[np.ndarray, "3 c k"]] = []
        """Energies of mix, sum and their difference."""
        self._begins: list[Float64[np.ndarray, " k"]] = []
        """Seconds of the piece."""

    def add(self, clip: Clip) -> None:
        """The next clip of the piece; one without a mix, or with players without stems, is skipped."""
        if clip.mixture is None or any(player.audio is None and not player.silent for player in clip.players):
            return
        mix = clip.mixture.astype(np.float32) / 32768
        total = np.zeros_like(mix)
        for player in clip.players:
            if player.audio is not None:
                total += player.audio.astype(np.float32) / 32768
        # The rest at the end belongs to the last second: codecs blur the last block of each sound by itself.
        edges = clip.sample_rate * np.arange(max(1, clip.samples // clip.sample_rate))
        signals = (mix, total, mix - total)
        sums = [np.add.reduceat(np.square(signal), edges, axis=1, dtype=np.float64) for signal in signals]
        self._energies.append(np.stack(sums))
        self._begins.append((clip.offset + edges) / clip.sample_rate)

    def oddities(self, piece: str) -> list[str]:
        """Sentences about channels whose mix is not nearly the sum of the stems, or not in each second."""
        if not self._energies:
            return []
        energies, begins = np.concatenate(self._energies, axis=2), np.concatenate(self._begins)
        found = [_oddity(energies[:, channel], begins) for channel in range(energies.shape[1])]
        if len(set(found)) == 1:
            return [f"{piece}: the recorded mix is not the sum of the stems: {found[0]}"] if found[0] else []
        return [
            f"{piece}: the {side} channel of the recorded mix is not the sum of the stems: {what}"
            for side, what in zip(("left", "right"), found, strict=True)
            if what
        ]


def _oddity(energies: Float64[np.ndarray, "3 k"], begins: Float64[np.ndarray, " k"]) -> str:
    """A sentence about what is odd in one channel of a mix; empty where nothing is."""
    mix, total, apart = energies.sum(axis=1)
    louder = max(mix, total)
    if apart > _power(APART_DB) * louder:
        if min(mix, total) < _power(FAINT_DB) * louder:
            return "the mix is silent" if mix < total else "the stems are silent"
        # Of mix and sum; the residual after a gain of the mix shows whether it is more than that.
        common = (mix + total - apart) / 2
        left_over = mix - common**2 / total
        if left_over < _power(APART_DB) * mix:
            gain = 20 * np.log10(abs(common) / total)
            level = f" at {gain:+.1f} dB" if abs(gain) >= 0.1 else ""
            return f"it is their sum{level}{' with its polarity inverted' if common < 0 else ''}"
        level = round(10 * np.log10(apart / louder), 1) + 0.0  # no -0.0
        return f"the difference has {level:+.1f} dB of it, where {APART_DB:g} are usual at most"
    louder_ones = energies[:2].max(axis=0)
    sounding = louder_ones > _power(SOUNDING_DB) * louder_ones.mean()
    odd = sounding & (energies[2] > _power(SECOND_APART_DB) * louder_ones)
    if not odd.any():
        return ""
    return f"they are unlike in {odd.sum()} of {len(odd)} seconds, the first at {begins[odd.argmax()]:.0f} s"


def _power(decibel: float) -> float:
    return float(10 ** (decibel / 10))
