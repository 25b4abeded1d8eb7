"""Examples of players: from files in which each plays alone to what a model of the context `example` takes.

examples = read_examples([("vn", Path("violin.wav"))], separator, ("vn", "vc"))     # {"vn": [Float32 " t"]}
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vimss.errors import ConfigError, MediaError
from vimss.evaluate.excerpts import loudest
from vimss.media import read_audio
from vimss.model.separator import Separator
from vimss.shards.instruments import label_named
from vimss.stream.stems import sounds


def read_examples(
    given: Sequence[tuple[str, Path]], separator: Separator, players: Sequence[str]
) -> dict[str, list[Float32[np.ndarray, " t"]]]:
    """The loudest stretch of each file, as long as the model's examples, at its rate, by the label of the player.

    Raises:
        ConfigError: the model takes no examples, or one is of nobody who plays.
        MediaError: a file cannot be read, is too short or is silent.

    """
    seconds, rate = separator.interface.example_seconds, separator.sample_rate
    if given and not seconds:
        raise ConfigError(
            "--example is for a model whose context is example",
            got=f"one whose context is {separator.config.context}",
            fix="leave --example out, or choose another model",
        )
    found: dict[str, list[Float32[np.ndarray, " t"]]] = {}
    for name, file in given:
        label = label_named(name, separator.labels)
        if label is None or len(found.get(label, ())) == Counter(players)[label]:
            raise ConfigError(
                "every --example must be of a player of the recording who has none yet",
                got=f"{name}={file}, and players of {', '.join(players)}",
                fix="write --example LABEL=FILE once for each player, those of one label from left to right",
            )
        sound = read_audio(file, rate)
        length = round(seconds * rate)
        if sound.shape[1] < length:
            raise MediaError(
                f"{file} must be at least {seconds:g} s long, as the examples that the model was trained on",
                got=f"{sound.shape[1] / rate:.1f} s",
                fix="give a longer recording of the player alone",
            )
        first = loudest(sound, length)
        if not sounds(sound[:, first : first + length], full_scale=1):
            raise MediaError(
                f"a player must sound in {file}, which is their example",
                got=f"silence in all of its {sound.shape[1] / rate:.1f} s",
                fix="give a recording in which that player plays alone",
            )
        found.setdefault(label, []).append(sound[0, first : first + length])
    return found
