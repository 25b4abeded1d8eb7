"""What no corpus may put into its shards: clips that break the recipe, pieces that are silent or scaled twice.

loudness = Loudness()
for clip in clips_of_a_piece:
    check_clip(clip, piece, recipe)
    loudness.hear(clip)
loudness.check(piece, recipe)
"""

from vimss.errors import DataError
from vimss.shards.clip import Clip
from vimss.shards.corpora import Piece
from vimss.shards.recipe import Recipe

FAINT_DB = -60.0
"""Peak of a whole piece, dB of full scale, below which its samples were scaled once too often."""


def check_clip(clip: Clip, piece: Piece, recipe: Recipe) -> None:
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
                fix=f"check the files of {piece.name}",
            )


class Loudness:
    """What has been heard of each player of a piece."""

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}

    def hear(self, clip: Clip) -> None:
        """The next clip of the piece. Players who have no stem, and are not said to rest, do not count."""
        for player in clip.players:
            if player.audio is not None:
                peak = max(int(player.audio.max(initial=0)), -int(player.audio.min(initial=0)))
                self._peaks[player.part] = max(peak, self._peaks.get(player.part, 0))
            elif player.silent:
                self._peaks.setdefault(player.part, 0)

    def check(self, piece: Piece, recipe: Recipe) -> None:
        """DataError where too many players have played nothing, or all of them next to nothing."""
        silent = [part for part, peak in self._peaks.items() if peak == 0]
        if len(silent) > recipe.most_silent * len(self._peaks):
            raise DataError(
                f"at most a share of {recipe.most_silent:g} of the stems of {piece.name} may be silent "
                "from beginning to end",
                got=f"{len(silent)} of {len(self._peaks)}: {', '.join(silent)}",
                fix="export them again, take the silent ones away, or allow more: --set most_silent=1",
            )
        loudest = max(self._peaks.values(), default=0)
        if 0 < loudest < 32768 * 10 ** (FAINT_DB / 20):
            raise DataError(
                f"the loudest stem of {piece.name} must reach {FAINT_DB:g} dB of full scale",
                got=f"a highest sample of {loudest} of 32767",
                fix="its samples may have been scaled twice: export the stems again, at their true level",
            )
