"""How near the network is to what the machine can do: ratios to a naive network with the same weights.

    platform/local/run python tests/bench/model.py [--quick] [--f90 FOLDER] [SECTION ...]

One thread, float32; the things compared take turns, each in a process of its own, and medians of their CPU time count:
on an idle machine that is the time on the clock, and beside other work it is not spoilt by waiting. GEMM is the rate of
a product of two 2048 x 2048 matrices in the same turns.

Sections: step, windows, separation, memory, queries, sites, f90.
"""

import argparse
import copy
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimss.model.apply import separate_all, separate_blocks
from vimss.model.config import Op, Site
from vimss.model.convolution import Convolution
from vimss.model.networks.wave_u_net import WaveUNetConfig
from vimss.model.networks.wave_u_net.network import WaveUNet
from vimss.model.separator import Separator

LABELS = ("bn", "cl", "db", "fl", "hn", "ob", "sax", "tba", "tbn", "tpt", "va", "vc", "vn")
RATE = 22050
PAPER = 16389
WINDOWS = {9: PAPER, 17: 49157, 33: 114693, 65: 245765, 129: 507909}
"""Samples at the bottleneck to output samples; with 129, the input of 29 s is the longest that clips of 30 s allow."""

GEMM = 2048


class Naive(nn.Module):
    """The paper's network as one would write it down: no site, 13 outputs, the weights of `unet`."""

    def __init__(self, unet: WaveUNet) -> None:
        super().__init__()
        self.down = nn.ModuleList(_conv1d(layer) for layer in unet.down)
        self.bottleneck = _conv1d(unet.bottleneck)
        self.up = nn.ModuleList(_conv1d(layer) for layer in unet.up)
        self.head = _conv1d(unet.head)

    def forward(self, mixture: Tensor) -> Tensor:
        x, skips = mixture, []
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
            skips.append(x)
            x = x[..., ::2]
        x = F.leaky_relu(self.bottleneck(x), 0.2)
        for layer in self.up:
            x = F.interpolate(x, size=2 * x.shape[-1] - 1, mode="linear", align_corners=True)
            x = F.leaky_relu(layer(torch.cat([x, _crop(skips.pop(), x.shape[-1])], dim=1)), 0.2)
        return torch.tanh(self.head(torch.cat([x, _crop(mixture, x.shape[-1])], dim=1))).unsqueeze(2)

    def multiplications(self, samples: int) -> int:
        """Of a forward pass over `samples` input samples."""
        total = 0
        for layer in _convolutions(self.down):
            samples -= layer.kernel_size[0] - 1
            total += samples * layer.weight.numel()
            samples = (samples + 1) // 2
        samples -= self.bottleneck.kernel_size[0] - 1
        total += samples * self.bottleneck.weight.numel()
        for layer in _convolutions(self.up):
            samples = 2 * samples - layer.kernel_size[0]
            total += samples * layer.weight.numel()
        return total + samples * self.head.weight.numel()


def _convolutions(layers: nn.ModuleList) -> Iterator[nn.Conv1d]:
    for layer in layers:
        assert isinstance(layer, nn.Conv1d), "made by _conv1d"
        yield layer


def _conv1d(layer: nn.Module) -> nn.Conv1d:
    assert isinstance(layer, Convolution), "every layer of the network"
    kernel = layer.kernel
    convolution = nn.Conv1d(kernel.shape[1], kernel.shape[0], kernel.shape[2])
    with torch.no_grad():
        convolution.weight.copy_(kernel)
        if convolution.bias is not None:
            convolution.bias.copy_(layer.bias)
    return convolution


def _crop(x: Tensor, samples: int) -> Tensor:
    start = (x.shape[-1] - samples) // 2
    return x[..., start : start + samples]


def take_turns(actions: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median seconds of each action, and the rate of GEMM in the same turns, which is printed.

    Each action has a process of its own, as it would have in use: what one allocates changes how malloc serves the
    next. After long windows in the same process the naive network's step takes 1.05 s instead of 1.25 s.
    """
    one, two = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    timed = {"gemm": lambda: torch.mm(one, two), **actions}
    workers = {name: _start(action) for name, action in timed.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(turns + 1):
        for name, (process, pipe) in workers.items():
            pipe.send(turn < turns)
            try:
                passed = pipe.recv()
            except EOFError:
                raise SystemExit(f"{name} ended with exit code {process.exitcode}") from None
            if turn:  # the first one warms up
                seconds[name].append(passed)
    for process, _ in workers.values():
        process.join()
    median = {name: statistics.median(times) for name, times in seconds.items()}
    spread = "  ".join(f"{name} {min(times):.3f}-{max(times):.3f}" for name, times in seconds.items())
    print(f"GEMM {gemm_rate(median):.0f} GFLOP/s; {turns} turns, fastest-slowest in s: {spread}")
    return median


def _start(action: Callable[[], object]) -> tuple[Any, Any]:
    """A process that times the action whenever it is asked to, and the pipe to it."""
    forking = multiprocessing.get_context("fork")
    ours, theirs = forking.Pipe()
    process = forking.Process(target=_work, args=(action, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _work(action: Callable[[], object], pipe: Any) -> None:
    again = True
    while again:
        again = pipe.recv()
        begin = time.process_time()
        action()
        pipe.send(time.process_time() - begin)


def gemm_rate(seconds: dict[str, float]) -> float:
    """GFLOP/s."""
    return 2e-9 * GEMM**3 / seconds["gemm"]


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape)


def build(labels: Sequence[str] = LABELS, rate: int = RATE, **settings: object) -> Separator:
    torch.manual_seed(0)
    return Separator(WaveUNetConfig.model_validate(settings), tuple(labels), rate)


def unet_of(separator: Separator) -> WaveUNet:
    assert isinstance(separator.network, WaveUNet), "of build"
    return separator.network


def train_step(network: nn.Module, *inputs: Tensor) -> Callable[[], object]:
    """Forward, loss, backward and Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        network(*inputs).square().mean().backward()
        optimizer.step()

    return step


def forward(network: nn.Module, *inputs: Tensor) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.inference_mode():
            return network(*inputs)

    return run


def step(args: argparse.Namespace) -> None:
    """Train step at the paper's window: 2.2x."""
    separator, mixture = build(), noise(1, 1, 147443)
    naive = Naive(unet_of(separator))
    seconds = take_turns(
        {
            "naive forward": forward(naive, mixture),
            "forward": forward(separator, mixture),
            "naive step": train_step(naive, mixture),
            "step": train_step(separator, mixture),
        },
        1 if args.quick else 7,
    )
    rate = 2e-9 * naive.multiplications(147443) / seconds["naive forward"]
    print(f"naive forward {rate:.0f} GFLOP/s, {rate / gemm_rate(seconds):.2f} of GEMM (honest from 0.7)")
    print(f"forward {seconds['naive forward'] / seconds['forward']:.2f}x")
    print(f"train step {seconds['naive step'] / seconds['step']:.2f}x (must reach 2.2x, limit 4.1x)")
    compare_gradients(separator, Naive(unet_of(separator)), mixture)


def compare_gradients(separator: Separator, naive: Naive, mixture: Tensor) -> None:
    """Of the weights as they are drawn, and of weights that leave no sign to chance."""
    output, worst = _differences(separator, naive, mixture)
    double, _ = _differences(naive, copy.deepcopy(naive).double(), mixture)
    print(f"output differs by {output:.1e}, naive from float64 by {double:.1e}; gradients by {worst:.1e} at most")
    # One value near 0 whose sign rounding decides, and LeakyReLU's slope there is another: that is 1e-4 of a gradient,
    # also between naive networks in single and double precision. So here half the channels are positive, half negative.
    settled = copy.deepcopy(separator)
    with torch.no_grad():
        unet = unet_of(settled)
        for layer in (*unet.down, unet.bottleneck, *unet.up):
            assert isinstance(layer, Convolution), "every layer of the network"
            layer.weight.mul_(0.1)
            layer.bias[::2], layer.bias[1::2] = 1, -1
    output, worst = _differences(settled, Naive(unet_of(settled)), mixture)
    print(f"where no sign is left to rounding, output by {output:.1e}, gradients by {worst:.1e} (must be 1e-5)")


def _differences(one: nn.Module, two: nn.Module, mixture: Tensor) -> tuple[float, float]:
    """Relative differences of the outputs, and the largest of the gradients'."""
    target = noise(1, len(LABELS), 1, PAPER)
    outputs, gradients = [], []
    for network in (one, two):
        weights = list(network.parameters())
        output = network(mixture.to(weights[0].dtype))
        gradients.append(torch.autograd.grad((output - target).square().mean(), weights))
        outputs.append(output.detach())
    return relative(*outputs), max(relative(*pair) for pair in zip(*gradients, strict=True))


def relative(one: Tensor, two: Tensor) -> float:
    return ((one - two.view_as(one)).norm() / two.norm()).item()


def windows(args: argparse.Namespace) -> None:
    """Training per second of audio, by window: 6x."""
    separator = build()
    naive = Naive(unet_of(separator))
    chosen = (9, 17) if args.quick else tuple(WINDOWS)
    actions = {"naive": train_step(naive, noise(1, 1, 147443))}
    for bottleneck in chosen:
        mixture = noise(1, 1, separator.input_samples(WINDOWS[bottleneck]))
        actions[str(bottleneck)] = train_step(separator, mixture)
    seconds = take_turns(actions, 1 if args.quick else 3)
    plain = seconds["naive"] / PAPER * RATE
    print(f"naive at the paper's window: {plain:.2f} s per second of audio")
    print("| bottleneck | output samples | s | train s per second of audio | against naive |\n|---|---|---|---|---|")
    for bottleneck in chosen:
        length = WINDOWS[bottleneck] / RATE
        cost = seconds[str(bottleneck)] / length
        print(f"| {bottleneck} | {WINDOWS[bottleneck]} | {length:.2f} | {cost:.3f} | {plain / cost:.2f}x |")
    best = max(plain / (seconds[str(bottleneck)] / WINDOWS[bottleneck] * RATE) for bottleneck in chosen)
    print(f"best window {best:.2f}x (must reach 6x, limit 11.8x)")


def separation(args: argparse.Namespace) -> None:
    """A whole recording through `model.apply`: 3x."""
    length = (10 if args.quick else 60) * RATE
    separator, mixture = build().eval(), noise(1, length)
    naive, window = Naive(unet_of(separator)), noise(1, 1, 147443)
    blocks = separate_all(separator, mixture)
    single = separate_all(separator, mixture, block_samples=length)
    print(f"blocks differ from one single pass by {(blocks - single).abs().max():.1e} (must be 1e-6)")
    some = 12
    seconds = take_turns(
        {
            f"naive, {some} windows": lambda: [forward(naive, window)() for _ in range(some)],
            "apply": lambda: [None for _ in separate_blocks(separator, mixture)],
        },
        1 if args.quick else 4,
    )
    # Every window costs the same, so some of them tell what all would.
    plain = seconds[f"naive, {some} windows"] / some * -(-length // PAPER)
    print(f"{length / RATE:.0f} s of audio: naive {plain:.1f} s, apply {seconds['apply']:.1f} s")
    print(f"separation {plain / seconds['apply']:.2f}x (must reach 3x, limit 6x)")


def memory(args: argparse.Namespace) -> None:
    """Peak memory of separating 60 minutes against 1 minute, beyond the recording: 1.1x."""
    peaks = {}
    for minutes in (1, 3 if args.quick else 60):
        command = [sys.executable, __file__, "--separate-minutes", str(minutes)]
        # malloc gives freed tensors back at once: by default it keeps pieces, 5 to 40 MB more the longer it runs.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        peaks[minutes] = json.loads(out)
        print(f"{minutes} min: {peaks[minutes]:.0f} MB beyond recording and libraries (8 filters per level)")
    short, long = peaks.values()
    print(f"memory {long / short:.2f}x (must stay below 1.1x)")


def separate_minutes(minutes: int) -> None:
    """Print the peak memory in MB of separating noise, as an iterator, beyond what was there before."""
    separator = build(filters=8).eval()
    mixture = torch.empty(1, 60 * minutes * RATE).uniform_(-0.1, 0.1)
    before = _megabytes("VmRSS")
    for _ in separate_blocks(separator, mixture):
        pass
    print(_megabytes("VmHWM") - before)


def _megabytes(name: str) -> float:
    """Of this process: VmRSS now, VmHWM at most. (getrusage's maximum begins with that of the process that forked.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def queries(args: argparse.Namespace) -> None:
    """Four queries in one pass against four passes."""
    asked = torch.eye(len(LABELS))[None, :4]
    for site, limit in (("bottleneck", 0.7), ("decoder", 0.7), ("output", 0.35)):
        separator = build(outputs="queries", site=site)
        mixture = noise(1, 1, separator.input_samples(WINDOWS[17]))
        seconds = take_turns(
            {
                "train 4": train_step(separator, mixture, asked),
                "train 1": train_step(separator, mixture, asked[:, :1]),
                "forward 4": forward(separator, mixture, asked),
                "forward 1": forward(separator, mixture, asked[:, :1]),
            },
            1 if args.quick else 4,
        )
        train, infer = (seconds[f"{kind} 4"] / (4 * seconds[f"{kind} 1"]) for kind in ("train", "forward"))
        print(f"{site}: four queries cost {train:.2f} (train), {infer:.2f} (inference) of four passes, <= {limit}")


def sites(args: argparse.Namespace) -> None:
    """Weights, and cost per second of audio, of each site and op."""
    operations: tuple[Op, ...] = ("concat", "add", "multiply", "film", "attention")
    places: tuple[Site, ...] = ("every_layer", "decoder", "bottleneck", "output")
    cases: list[tuple[Site, Op]] = [("none", "film"), *((site, op) for site in places for op in operations)]
    actions, weights = {}, {}
    window = WINDOWS[9 if args.quick else 17]
    context = torch.eye(len(LABELS))[None, :1]
    for site, op in cases:
        separator = build(site=site, op=op)
        mixture = noise(1, 1, separator.input_samples(window))
        inputs = (mixture,) if site == "none" else (mixture, context)
        weights[site, op] = sum(parameter.numel() for parameter in separator.parameters())
        actions[f"{site} {op} train"] = train_step(separator, *inputs)
        actions[f"{site} {op}"] = forward(separator, *inputs)
    seconds = take_turns(actions, 1 if args.quick else 2)
    print(f"window {window}, labels, 13 outputs; seconds per second of audio on one thread")
    print("| site | op | weights | train | inference |\n|---|---|---|---|---|")
    for site, op in cases:
        train, infer = (seconds[f"{site} {op}{kind}"] / window * RATE for kind in (" train", ""))
        name = "" if site == "none" else op
        print(f"| {site} | {name} | {weights[site, op] / 1e6:.2f} M | {train:.2f} | {infer:.2f} |")


def f90(args: argparse.Namespace) -> None:
    """44.1 kHz stereo, per second of audio and separated source, against Wave-U-Net-Pytorch's defaults."""
    if args.f90 is None:
        print("skipped: needs --f90 FOLDER, a checkout of https://github.com/f90/Wave-U-Net-Pytorch")
        return
    sys.path.insert(0, str(args.f90))
    # It lies in the folder that was just put on the path.
    from model.waveunet import Waveunet  # type: ignore[import-not-found]

    rate, sources = 44100, ("bass", "drums", "other", "vocals")
    widths = [32 * 2**level for level in range(6)]
    # A network per source: one of them is what a source costs.
    theirs = Waveunet(2, widths, 2, ["vocals"], 5, 2 * rate, "gn", "fixed", separate=True, depth=1, strides=4)
    their_mixture, their_output = noise(1, 2, theirs.input_size), theirs.output_size
    theirs.forward = lambda x: theirs.forward_module(x, theirs.waveunets["vocals"])
    actions = {"f90": train_step(theirs, their_mixture)}
    chosen = (9,) if args.quick else (9, 33, 65)
    for bottleneck in chosen:
        separator = build(sources, rate, channels=2)
        mixture = noise(1, 2, separator.input_samples(WINDOWS[bottleneck]))
        actions[str(bottleneck)] = train_step(separator, mixture)
    seconds = take_turns(actions, 1 if args.quick else 3)
    cost = seconds["f90"] / their_output * rate
    print(f"f90: {cost:.3f} s per second of audio and source")
    for bottleneck in chosen:
        ours = seconds[str(bottleneck)] / WINDOWS[bottleneck] * rate / len(sources)
        print(f"bottleneck {bottleneck}: {ours:.3f} s per second of audio and source, {cost / ours:.2f}x")


SECTIONS = {
    "step": step,
    "windows": windows,
    "separation": separation,
    "memory": memory,
    "queries": queries,
    "sites": sites,
    "f90": f90,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all where none")
    parser.add_argument("--quick", action="store_true", help="one turn, short audio: does it run?")
    parser.add_argument("--f90", type=Path, help="checkout of Wave-U-Net-Pytorch")
    parser.add_argument("--separate-minutes", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.separate_minutes is not None:
        separate_minutes(args.separate_minutes)
        return
    sections = args.sections or list(SECTIONS)
    if len(sections) > 1:
        # Each in a fresh process, for malloc's sake.
        options = [word for word in sys.argv[1:] if word not in sections]
        for name in sections:
            subprocess.run([sys.executable, __file__, name, *options], check=True)
        return
    section = SECTIONS[sections[0]]
    print(f"\n## {sections[0]}: {section.__doc__}")
    begin = time.perf_counter()
    section(args)
    print(f"({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
