"""Peak memory of `vimss separate`: an hour of 44.1 kHz stereo, page included, against three minutes.

    platform/local/run python tests/bench/separate.py [--quick] [--references]

Each recording is separated by a tiny model in a process of its own. What counts is the peak beyond that of a recording
of 5 s, which is what the libraries, the network and its block take. It needs 4 GB of disk, 7 GB with --references, and
about ten minutes on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vimss.cli import main as vimss
from vimss.media import quantise
from vimss.media.disk import write_wav_blocks
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.separator import Separator, save_separator

RATE, CHANNELS = 44100, 2
LIMIT = 1.2


def make_model(folder: Path) -> Path:
    """Queries on labels, so that two stems are made."""
    torch.manual_seed(0)
    config = WaveUNetConfig.model_validate(
        {
            "levels": 4,
            "filters": 4,
            "channels": 2,
            "site": "decoder",
            "outputs": "queries",
            "initial_output": "mixture",
        }
    )
    save_separator(folder, Separator(config, ("vn", "vc"), RATE), {})
    return folder


def make_recording(path: Path, seconds: int) -> Path:
    """Noise that rises and falls."""
    generator = np.random.default_rng(0)

    def blocks() -> Iterator[np.ndarray]:
        for second in range(seconds):
            level = 0.1 + 0.09 * np.sin(second / 3)
            yield quantise(generator.uniform(-level, level, (CHANNELS, RATE)).astype(np.float32))

    write_wav_blocks(path, blocks(), seconds * RATE, CHANNELS, RATE)
    return path


def peak_megabytes(folder: Path, model: Path, seconds: int, references: bool) -> float:
    """Peak memory of one separation in a process of its own."""
    recording = make_recording(folder / f"{seconds}.wav", seconds)
    arguments = ["separate", str(recording), "--model", str(model), "--instruments", "vn,vc"]
    if references:
        true = folder / f"true-{seconds}"
        true.mkdir()
        for name in ("vn", "vc"):
            (true / f"{name}.wav").symlink_to(recording)
        arguments += ["--references", str(true)]
    command = [sys.executable, __file__, "--run", *arguments, "--out", str(folder / f"stems-{seconds}")]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(ran.stdout.splitlines()[-1])


def run(arguments: list[str]) -> None:
    """The command line, and then this process's peak memory in MB."""
    try:
        vimss(arguments)
    except SystemExit as end:
        if end.code:
            raise
    # getrusage's maximum would begin with that of the process that forked.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def main() -> None:
    """Print the peaks and their ratio."""
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 minutes instead of 60")
    parser.add_argument("--references", action="store_true", help="score the stems too")
    args = parser.parse_args()
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model")
        for seconds in (5, 180, 600 if args.quick else 3600):
            peaks[seconds] = peak_megabytes(Path(folder), model, seconds, args.references)
            print(f"{seconds} s: {peaks[seconds]:.0f} MB", flush=True)
    least, short, long = peaks.values()
    print(f"beyond {least:.0f} MB: {short - least:.0f} and {long - least:.0f} MB")
    print(f"memory {(long - least) / (short - least):.2f}x (must be at most {LIMIT}x)")


if __name__ == "__main__":
    main()
