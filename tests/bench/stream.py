"""How fast clips become batches: ratios to bare webdataset, to decoding at every step, and to what a GPU asks for.

    platform/local/run python tests/bench/stream.py [--minutes 4] [SECTION ...]

CPU seconds of one process count, things compared take turns, medians are shown; `wait` measures seconds on the clock
and wants an idle machine. The first run writes shards and features into store/bench.

Sections: clips, windows, frames, wait, bytes, variety.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import av
import numpy as np
import webdataset as wds

from vimss.config import parse_config
from vimss.features import write_features
from vimss.media import encode_audio, write_video, write_wav
from vimss.model.interface import Interface
from vimss.model.networks.wave_u_net.config import WaveUNetConfig
from vimss.model.vision_config import VisionConfig
from vimss.runtime import load_place, ray_running
from vimss.search.consistency import load_experiment
from vimss.shards.computed import available_features
from vimss.shards.corpora import chamber
from vimss.shards.manifest import Manifest
from vimss.shards.recipe import load_recipe
from vimss.shards.task import clip_members
from vimss.shards.write import write_shards
from vimss.storage import Store
from vimss.stream.batch import Examples, Position
from vimss.stream.config import MixingConfig
from vimss.stream.mix import Window
from vimss.stream.read import join_clips, read_clips
from vimss.train.loader import load

RATE = 22050
WINDOW = Window(114693 + 131054, 114693, RATE)
"""5.2 s of output: the third of the paper's windows."""
BATCH = 4
MIXING = MixingConfig(queries=2)
TURNS, EPOCHS = 5, 10


def shards(store: Store, minutes: float, frame_rate: float = 12.5) -> Manifest:
    """The embedded corpus with vision features of a network with random weights: the numbers' values cost nothing."""
    changes = [f"options.minutes={minutes:g}", f"picture.frame_rate={frame_rate:g}"]
    manifest = write_shards(load_recipe("chamber", changes), "bench", store)
    if not available_features(manifest):
        print(f"computing features of {minutes:g} minutes, {frame_rate:g} pictures a second", flush=True)
        vision = VisionConfig(network="resnet18", weights="random")
        write_features(manifest, vision)
    return manifest


def interface_of(manifest: Manifest, context: str) -> Interface:
    (features,) = available_features(manifest)
    config = WaveUNetConfig.model_validate({"outputs": "queries", "context": context, "site": "output"})
    return Interface(config, manifest.recipe.labels, features if context == "features" else "")


def batches(manifest: Manifest, context: str, mixing: MixingConfig = MIXING) -> Iterator[object]:
    return Examples(manifest, "train", mixing, WINDOW, interface_of(manifest, context), 0).batches(BATCH, Position())


def take_turns(actions: dict[str, Callable[[], float]], turns: int = TURNS) -> dict[str, float]:
    """Median rate per CPU second of each action, which returns how much it has done; the first turn warms up."""
    rates: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(turns + 1):
        for name, action in actions.items():
            begin = time.process_time()
            done = action()
            if turn:
                rates[name].append(done / (time.process_time() - begin))
    spread = "  ".join(f"{name} {min(found):.3g}-{max(found):.3g}" for name, found in rates.items())
    print(f"{turns} turns, slowest-fastest per CPU second: {spread}")
    return {name: statistics.median(found) for name, found in rates.items()}


def clips(args: argparse.Namespace) -> None:
    """Clips with features to mixed batches, against bare webdataset iteration of the same shards: 0.8."""
    manifest = shards(args.store, args.minutes)
    paths = [str(manifest.folder / shard.name) for shard in manifest.of_split("train")]
    count = manifest.clips("train")

    def bare() -> float:
        pipeline = wds.WebDataset(paths, shardshuffle=False, nodesplitter=None, workersplitter=None)
        return sum(1 for _ in range(EPOCHS) for _ in pipeline)

    def ours() -> float:
        made = batches(manifest, "features", MixingConfig(queries=2, windows_per_clip=1))
        for _ in range(EPOCHS * count // BATCH):
            next(made)
        return EPOCHS * count

    rates = take_turns({"webdataset": bare, "ours": ours})
    print(f"webdataset {rates['webdataset']:.0f} clips/s, ours {rates['ours']:.0f} clips/s, one window of each")
    print(f"clips {rates['ours'] / rates['webdataset']:.2f}x of bare webdataset (must reach 0.8x)")


def windows(args: argparse.Namespace) -> None:
    """Windows from shards with features, against PyAV on 44.1 kHz stems and 224-pixel mp4 at every step: 100x."""
    manifest = shards(args.store, args.minutes)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder))
        rng = np.random.default_rng(0)
        made = batches(manifest, "features")

        def decoding() -> float:
            for _ in range(2):
                _decode_window(rng, files)
            return 2

        def ours() -> float:
            for _ in range(100):
                next(made)
            return 100 * BATCH

        rates = take_turns({"PyAV": decoding, "ours": ours})
    print(f"PyAV {rates['PyAV']:.2f} windows/s, ours {rates['ours']:.0f} windows/s, two sources")
    print(f"windows {rates['ours'] / rates['PyAV']:.0f}x (must reach 100x)")


def _files(folder: Path) -> list[tuple[Path, Path]]:
    """Stem and video of each player of a piece of the embedded corpus, as somebody would have them on disk."""
    recipe = load_recipe("chamber", ["sample_rate=44100", "picture={size: 224, frame_rate: 25}"])
    options = parse_config({"minutes": 6}, chamber.Options, "bench")
    piece = max(chamber.pieces(recipe, options, None).pieces, key=lambda piece: piece.seconds)
    whole = join_clips(list(chamber.read(piece, recipe, options, None)))
    files = []
    for player in whole.players:
        if player.audio is not None and player.picture is not None:
            stem, video = folder / f"{player.part}.wav", folder / f"{player.part}.mp4"
            write_wav(stem, player.audio / 32768, recipe.sample_rate)
            write_video(video, player.picture, recipe.picture.frame_rate)
            files.append((stem, video))
    return files


def _decode_window(rng: np.random.Generator, files: list[tuple[Path, Path]]) -> None:
    """A window of two players, as a dataset that opens files does it: seek, decode, resample."""
    seconds = WINDOW.input_samples / RATE
    for place in rng.permutation(len(files))[:2]:
        for path in files[place]:
            with av.open(str(path)) as container:
                stream = container.streams[0]
                length = float(stream.duration * stream.time_base)
                begin = rng.uniform(0, max(length - seconds, 0))
                container.seek(int(begin / stream.time_base), stream=stream)
                resampler = av.AudioResampler("flt", "mono", RATE) if stream.type == "audio" else None
                for frame in container.decode(stream):
                    if frame.time > begin + seconds:
                        break
                    for part in resampler.resample(frame) if resampler else [frame]:
                        part.to_ndarray(**({} if resampler else {"format": "rgb24"}))


def frames(args: argparse.Namespace) -> None:
    """Windows by the frames path, against the features path, by pictures a second."""
    print(
        "| pictures a second | features, windows/s | frames, windows/s | frames against features |\n|---|---|---|---|"
    )
    for frame_rate in (1, 5, 12.5):
        manifest = shards(args.store, args.minutes, frame_rate)
        few = MixingConfig(queries=2, pool_clips=8)
        contexts: tuple[str, ...] = ("features", "frames")
        rates = take_turns({one: partial(take, batches(manifest, one, few)) for one in contexts}, turns=3)
        ratio = rates["frames"] / rates["features"]
        print(f"| {frame_rate} | {rates['features']:.0f} | {rates['frames']:.0f} | {ratio:.2f}x |")


def take(made: Iterator[object]) -> float:
    """60 batches; the number of their windows."""
    for _ in range(60):
        next(made)
    return 60 * BATCH


def wait(args: argparse.Namespace) -> None:
    """Share of the time that a consumer waits, two threads making batches: under 2 % at 170 windows a second."""
    manifest = shards(args.store, args.minutes)
    consumptions: dict[str, range] = {"features": range(170, 1100, 90), "frames": range(4, 40, 4)}
    for context, tried in consumptions.items():
        mixing = MixingConfig(queries=2, pool_clips=64 if context == "features" else 8)
        examples = Examples(manifest, "train", mixing, WINDOW, interface_of(manifest, context), 0)
        with closing(load(examples, 16, Position(), workers=2)) as made:
            for _ in range(8):
                next(made)
            best = 0
            for consumption in tried:
                share = _waiting(made, consumption)
                if consumption == tried[0]:
                    print(f"{context}: waits {share:.1%} at {consumption} windows a second", flush=True)
                if share >= 0.02:
                    break
                best = consumption
        print(f"{context}: up to {best} windows a second with less than 2 % of waiting")


def _waiting(made: Generator[object, None, None], consumption: float, seconds: float = 6.0) -> float:
    """Share of the time spent waiting for batches of 16 by a training whose step is a sleep."""
    step, waited = 16 / consumption, 0.0
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        asked = time.monotonic()
        next(made)
        waited += time.monotonic() - asked
        time.sleep(step)
    return waited / (time.monotonic() - begin)


def bytes_(args: argparse.Namespace) -> None:
    """Bytes of an hour of four-part music, by format."""
    manifest = shards(args.store, args.minutes)
    (features,) = available_features(manifest)
    sizes = dict.fromkeys(("WAV", "FLAC", "pictures", "features"), 0.0)
    seconds = 0.0
    for clip in read_clips(manifest, "train", parts=("audio", "picture", "features"), features=features):
        for number, player in enumerate(clip.players):
            if player.audio is None or player.features is None:
                continue
            seconds += clip.samples / clip.sample_rate
            sizes["WAV"] += len(encode_audio(player.audio, clip.sample_rate, "wav"))
            sizes["FLAC"] += len(encode_audio(player.audio, clip.sample_rate, "flac"))
            sizes["pictures"] += len(clip_members(clip, manifest.recipe)[f"player{number}.mp4"])
            sizes["features"] += player.features.nbytes
    hour = 4 * 3600 / seconds / 1e6
    print("| of four players, one hour | MB |\n|---|---|")
    for name, size in sizes.items():
        print(f"| {name} | {size * hour:.0f} |")


def variety(args: argparse.Namespace) -> None:
    """CPU ms to make a mixture in each variant of experiments/timbre.yaml, of two stems of 10,240 samples."""
    manifest, experiment = shards(args.store, args.minutes), load_experiment("timbre", ["compare={}"])
    makers: dict[str, Callable[[], float]] = {}
    for cell in experiment.cells():
        settings = experiment.settings(cell.fixes)
        samples = settings.training.output_samples
        window = Window(settings.model.geometry.input_samples(samples), samples, RATE)
        interface = Interface(settings.model, manifest.recipe.labels)
        examples = Examples(manifest, "train", settings.mixing, window, interface, 0)
        makers[cell.name] = partial(take, examples.batches(BATCH, Position()))
    rates = take_turns(makers)
    print("| variant | ms per mixture |\n|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {1000 / rate:.2f} |")


SECTIONS = {"clips": clips, "windows": windows, "frames": frames, "wait": wait, "bytes": bytes_, "variety": variety}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all where none")
    parser.add_argument("--minutes", type=float, default=4, help="music in the shards")
    parser.add_argument("--store", type=lambda path: Store(Path(path)), default=Store(Path("store/bench")))
    args = parser.parse_args()
    with ray_running(load_place("local")):
        for frame_rate in (12.5, 1, 5) if "frames" in (args.sections or SECTIONS) else (12.5,):
            shards(args.store, args.minutes, frame_rate)
    for name in args.sections or SECTIONS:
        print(f"\n## {name}: {SECTIONS[name].__doc__}", flush=True)
        begin = time.perf_counter()
        SECTIONS[name](args)
        print(f"({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
