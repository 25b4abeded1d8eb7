"""From tones to stems: recorded instrument samples played by a synthesiser, coloured, placed in a room, levelled.

    timbre = choose_timbre(rng, "vn", banks=(default_bank(),), unseen=False)
    stems = perform([timbre], [tones], samples=240000, sample_rate=8000, channels=1, rng=rng)
    stems[0]  # int16 "c t"; the mix is the exact sum of the stems and stays below 0.7

A bank has one sound per instrument, and a network trained on one bank fails on another. So the sound of a player
varies: related patches; `shift`, which plays the samples that many semitones lower and speeds them up by as much, so
that formants and attacks move as in a smaller instrument (the same resampling sets the tuning of the piece);
equaliser; room.
"""

import io
import struct
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import midirenderer
import numpy as np
import soxr
from jaxtyping import Float32, Float64, Int16

from vimss.errors import DataError
from vimss.shards.corpora.chamber.arrange import Tone

PEAK = 0.69
"""Largest absolute sample of the mix and of every stem, full scale being 1."""

LEVEL_DB = 5.0
"""Largest deviation of a stem from equal active level, dB either way."""

PATCHES = {
    "bn": (70,),
    "cl": (71,),
    "db": (43,),
    "fl": (73,),
    "hn": (60,),
    "ob": (68, 69),
    "sax": (66, 64),
    "tba": (58,),
    "tbn": (57,),
    "tpt": (56,),
    "va": (41,),
    "vc": (42,),
    "vn": (40, 110),
}
"""General MIDI programs of each instrument outside of test_unseen_timbres: an oboe is sometimes an English horn, a
saxophone a soprano. The alto saxophone of TimGM6mb has mute keys."""

UNSEEN_PATCHES = {
    "bn": (70,),
    "cl": (71,),
    "db": (43,),
    "fl": (72, 74),
    "hn": (61,),
    "ob": (111,),
    "sax": (67,),
    "tba": (58,),
    "tbn": (57,),
    "tpt": (59,),
    "va": (48,),
    "vc": (48,),
    "vn": (48,),
}
"""Programs of test_unseen_timbres: piccolo and recorder, brass and string sections, shawm, muted trumpet, baritone
saxophone.

Five instruments have no second patch in a General MIDI bank; for them only shift, equaliser and room are new.
"""

SHIFTS = (-2, -1, 0, 0, 1, 2)
UNSEEN_SHIFTS = (-5, -4, 4, 5)
"""Semitones by which the samples are sped up or slowed down."""

_RENDER_RATE = 48000
_TICKS = 1000
"""MIDI ticks per second."""


@dataclass(frozen=True)
class Timbre:
    """The source of a player's sound: sound bank, General MIDI program, shift in semitones."""

    bank: Path
    program: int
    shift: int
    unseen: bool

    def __str__(self) -> str:
        bank = "sf2" if self.bank == default_bank() else self.bank.stem
        return f"{bank}:{self.program}{self.shift:+d}" if self.unseen else f"{bank}:{self.program}"


def default_bank() -> Path:
    """TimGM6mb.sf2, the General MIDI bank inside the package pretty_midi, found without importing it."""
    spec = find_spec("pretty_midi")
    return (Path(spec.origin).parent if spec and spec.origin else Path("pretty_midi")) / "TimGM6mb.sf2"


def choose_timbre(
    rng: np.random.Generator, instrument: str, banks: Sequence[Path], unseen: bool, variety: float = 1.0
) -> Timbre:
    """A sound for one player, drawn from the patches of the split; a lower `variety` draws the plain one more often."""
    programs = (UNSEEN_PATCHES if unseen else PATCHES)[instrument]
    shifts = UNSEEN_SHIFTS if unseen else SHIFTS
    # The first patch is the plain instrument, drawn with a probability of two thirds if there are two.
    weights = np.array([2.0] + [1.0] * (len(programs) - 1)) if len(programs) > 1 else np.ones(1)
    program = int(rng.choice(np.array(programs), p=weights / weights.sum()))
    shift = int(rng.choice(np.array(shifts)))
    if not unseen and rng.random() >= variety:
        program, shift = programs[0], 0
    return Timbre(banks[int(rng.integers(len(banks)))], program, shift, unseen)


def perform(
    timbres: Sequence[Timbre],
    parts: Sequence[Sequence[Tone]],
    samples: int,
    sample_rate: int,
    channels: int,
    rng: np.random.Generator,
    variety: float = 1.0,
) -> list[Int16[np.ndarray, "c t"]]:
    """The stems of one piece, silent without tones; their sum is the mix. DataError for a broken sound bank."""
    cents = rng.uniform(-25, 25)
    unseen = any(timbre.unseen for timbre in timbres)
    echoes = _room(rng, unseen)
    stems = []
    for timbre, tones in zip(timbres, parts, strict=True):
        if not tones:
            stems.append(np.zeros((channels, samples), np.float32))
            continue
        dry = _render(timbre, tones, samples, sample_rate, cents + rng.normal(0, 4), rng)
        wet = _colour(dry * _expression(tones, samples, sample_rate, rng), sample_rate, echoes, unseen, rng, variety)
        level = 10 ** (rng.uniform(-LEVEL_DB, LEVEL_DB) / 20) / _active_rms(wet)
        pan = rng.uniform(0.15, 0.85) * np.pi / 2
        sides = np.array([np.cos(pan), np.sin(pan)] if channels == 2 else [1.0])
        stems.append((level * sides[:, None] * wet[None, :]).astype(np.float32))
    return _to_int16(stems, rng.uniform(0.7, 1.0) * PEAK)


@lru_cache(maxsize=4)
def _bank(path: Path) -> bytes:
    """A sound bank's bytes; DataError if it is missing or no bank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} must be a sound bank", got=str(error), fix="correct `banks` or `unseen_bank`"
        ) from error
    if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
        raise DataError(f"{path} must be a SoundFont 2 bank (.sf2)", got="another format", fix="convert it to sf2")
    return content


def _render(
    timbre: Timbre,
    tones: Sequence[Tone],
    samples: int,
    sample_rate: int,
    cents: float,
    rng: np.random.Generator,
) -> Float32[np.ndarray, " t"]:
    """One stem without expression: the synthesiser's sound on shifted keys, resampled to pitch and rate."""
    speed = 2 ** ((timbre.shift + cents / 100) / 12)
    midi = _midi(timbre, tones, speed, samples / sample_rate, rng)
    try:
        sound = midirenderer.render_wave_from(_bank(timbre.bank), midi)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"{timbre.bank} must be a sound bank that renders", got=str(error), fix="use another .sf2"
        ) from error
    with wave.open(io.BytesIO(sound)) as file:
        stereo = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, 2)
    # Solo patches have equal channels; section patches are stereo.
    mono = stereo[:, 0] * np.float32(0.5 / 32768)
    mono += stereo[:, 1] * np.float32(0.5 / 32768)
    resampled = soxr.resample(mono, _RENDER_RATE * speed, sample_rate, quality="MQ")[:samples]
    return np.pad(resampled, (0, samples - len(resampled)))


def _midi(timbre: Timbre, tones: Sequence[Tone], speed: float, seconds: float, rng: np.random.Generator) -> bytes:
    """A MIDI file of one track, for the synthesiser, `speed` times slower and lower than the result."""
    events: list[tuple[int, bytes]] = []
    depth, rate = rng.uniform(0, 0.18), rng.uniform(4.5, 6.5)
    for tone in tones:
        key = min(127, max(0, tone.pitch - timbre.shift))
        on, off = round(tone.start * speed * _TICKS), round(tone.end * speed * _TICKS)
        events += [(on, bytes((0x90, key, round(50 + 70 * tone.loud)))), (off, bytes((0x80, key, 0)))]
        events += _vibrato(tone, depth, rate, speed)
    # The renderer stops at the last event, so an event without effect extends it to the end.
    events.append((round(seconds * speed * _TICKS) + 1, b"\xb0\x5b\x00"))
    # Quarter notes of one second; the patch; no reverberation and no chorus from the synthesiser.
    track = bytearray(
        b"\x00\xff\x51\x03\x0f\x42\x40\x00\xc0" + bytes((timbre.program,)) + b"\x00\xb0\x5b\x00\x00\xb0\x5d\x00"
    )
    now = 0
    # At the same tick a tone ends (0x80) before the next begins (0x90).
    for tick, event in sorted(events):
        track += _variable_length(tick - now) + event
        now = tick
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, _TICKS) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _vibrato(tone: Tone, depth: float, rate: float, speed: float) -> Iterable[tuple[int, bytes]]:
    """Pitch bends of at most 18 cents that start a quarter of a second into a long tone."""
    times = (
        np.arange(tone.start + 0.25, tone.end, 0.03) if tone.end - tone.start > 0.45 and depth > 0.04 else np.empty(0)
    )
    bends = 8192 + 8192 / 2 * depth * np.sin(2 * np.pi * rate * (times - tone.start - 0.25))
    for moment, bend in [*zip(times, bends, strict=True), *([(tone.end, 8192.0)] if len(times) else [])]:
        value = round(float(bend))
        yield round(float(moment) * speed * _TICKS), bytes((0xE0, value & 127, value >> 7))


def _variable_length(number: int) -> bytes:
    """A MIDI delta time: seven bits a byte, all but the last with the high bit set."""
    digits = [number & 127]
    while number := number >> 7:
        digits.append(number & 127 | 128)
    return bytes(reversed(digits))


def _expression(
    tones: Sequence[Tone], samples: int, sample_rate: int, rng: np.random.Generator
) -> Float32[np.ndarray, " t"]:
    """A smooth gain curve: attack, swell and fade of each tone, in proportions drawn per player.

    It is applied to the rendered sound because volume steps inside the synthesiser cause zipper noise at 25 Hz.
    """
    speak, swell, fade = rng.uniform(0.6, 1.0), rng.uniform(0.9, 1.2), rng.uniform(0.5, 0.95)
    peak_at = rng.uniform(0.2, 0.6)
    times, gains = [0.0], [1.0]
    for tone in tones:
        long = tone.end - tone.start
        times += [tone.start, tone.start + peak_at * long, tone.end]
        gains += [tone.loud * speak, tone.loud * swell, tone.loud * fade]
    # The curve needs far fewer points than the sound; linear ramps connect them.
    coarse = np.interp(np.arange(0, samples + 64, 64) / sample_rate, times, gains)
    return np.interp(np.arange(samples), np.arange(len(coarse)) * 64, coarse).astype(np.float32)


def _room(rng: np.random.Generator, unseen: bool) -> Float64[np.ndarray, "2 n"]:
    """Delays (seconds) and gains of a small room's early reflections; test_unseen_timbres has a larger room."""
    number = int(rng.integers(4, 9))
    delays = np.sort(rng.uniform(0.065, 0.12, number) if unseen else rng.uniform(0.004, 0.045, number))
    gains = (
        rng.choice(np.array((-1.0, 1.0)), number)
        * rng.uniform(0.1, 0.35)
        * np.exp(-delays / 0.03 * (0.4 if unseen else 1))
    )
    return np.stack([delays, gains])


def _colour(
    sound: Float32[np.ndarray, " t"],
    sample_rate: int,
    echoes: Float64[np.ndarray, "2 n"],
    unseen: bool,
    rng: np.random.Generator,
    variety: float,
) -> Float32[np.ndarray, " t"]:
    """The player's equaliser and the room, both in one pass over the spectrum."""
    samples = len(sound)
    # Padded beyond the longest reflection, to a length whose factors are small.
    size = -(-(samples + int(0.15 * sample_rate)) // 4096) * 4096
    # Single precision halves the work and suffices for 16-bit samples.
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate).astype(np.float32)
    octaves = np.log2(np.maximum(frequencies, 40.0) / 40.0)
    tilt = rng.choice(np.array((-1.0, 1.0))) * rng.uniform(1.2, 2.0) if unseen else rng.uniform(-0.8, 0.8)
    decibels = variety * (np.interp(octaves, np.arange(9), rng.normal(0, 2.5, 9)) + tilt * (octaves - 4))
    # Each player has another place: the same walls at other distances. Walls absorb high frequencies.
    walls = np.zeros(size, np.float32)
    np.add.at(walls, np.rint(echoes[0] * rng.uniform(0.85, 1.15) * sample_rate).astype(int), echoes[1])
    response = 1 + np.fft.rfft(walls) / (1 + frequencies / 4000)
    response *= 10 ** (decibels.astype(np.float32) / 20)
    return np.fft.irfft(np.fft.rfft(sound, size) * response, size)[:samples].astype(np.float32)


def _active_rms(sound: Float32[np.ndarray, " t"]) -> float:
    """Root mean square over the blocks that are within 40 dB of the loudest one."""
    blocks = sound[: len(sound) // 256 * 256].reshape(-1, 256)
    energy = np.mean(blocks * blocks, axis=1) if len(blocks) else np.zeros(1)
    active = energy[energy > 1e-4 * energy.max()]
    return float(np.sqrt(active.mean())) if active.size else 1.0


def _to_int16(stems: list[Float32[np.ndarray, "c t"]], peak: float) -> list[Int16[np.ndarray, "c t"]]:
    """Stems scaled by one factor so that neither a stem nor the sum of all exceeds `peak`."""
    largest = max([float(np.abs(stem).max()) for stem in stems] + [float(np.abs(sum(stems)).max())] if stems else [0.0])
    scale = peak * 32767 / max(largest, 1e-9)
    return [np.rint(stem * scale).astype(np.int16) for stem in stems]
