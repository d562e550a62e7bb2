"""The degradation experiment: training error of plain and of residual nets by depth.

It repeats the experiment of He et al. 2015, section 4.2, on scikit-learn's handwritten digits: nets
of `6n + 2` layers, plain and residual, with the same widths (16, 32, 64) and the same training. The
residual nets have option A shortcuts, which add no parameters, so that both nets of a depth start
with the same weights.

    python -m benchmarks degradation                  # both kinds with 20, 56 and 110 layers
    python -m benchmarks degradation --epochs 3 --depths 8

Results are saved below `--out`, so that an interrupted command resumes with the next net.

Shape glossary: `B` batch size, `C` channels, `S` side of an image.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness.side_by_side import collect_environment
from resnet_tasks.errors import DataError
from resnet_tasks.files.atomic import write_json
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import autocast, resolve_precision
from resnet_tasks.runtime.progress import track_progress

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError:
    load_digits = train_test_split = None

mpl.use("Agg")
from matplotlib import pyplot as plt

WIDTHS = (16, 32, 64)  # He et al. 2015, section 4.2
KINDS = ("plain", "residual")
COLORS = {"plain": "tab:red", "residual": "tab:blue"}


@dataclass(frozen=True)
class Settings:
    """Settings that determine the result of a net.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        size: Side to which the images of 8 x 8 pixels are enlarged.
        learning_rate: Learning rate of SGD; divided by 10 after half and by 100 after three
            quarters of the steps.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        warm_up: Steps over which the learning rate rises from a tenth of its value.
        shift: Maximum shift of training images in pixels, along each side.
        seed: Seed of split, weights, order and shifts.
        precision: `fp32` or `bf16`.
    """

    epochs: int = 60
    batch_size: int = 64
    size: int = 16
    learning_rate: float = 0.1  # up to weight_decay: He et al. 2015, section 4.2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: int = 100
    shift: int = 2  # 4 of 32 pixels in section 4.2
    seed: int = 0
    precision: str = "fp32"


class CifarBlock(nn.Module):
    """Two 3 x 3 convolutions, with or without a shortcut.

    Args:
        channels_in: Number of input channels.
        channels: Number of output channels.
        stride: Stride of the first convolution.
        is_residual: Whether the input is added to the output (option A: subsampled, with new
            channels filled with zeros).
    """

    def __init__(self, channels_in: int, channels: int, stride: int, *, is_residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new_channels = stride, channels - channels_in
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, S, S)` to `(B, channels, S / stride, S / stride)`."""
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.is_residual:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            out = out + F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return out.relu()


def build_net(depth: int, *, is_residual: bool, num_classes: int = 10) -> nn.Sequential:
    """Build a net of `depth` layers with weights and one input channel.

    Raises:
        DataError: If the depth is not `6n + 2`.
    """
    if depth < 8 or (depth - 2) % 6:
        raise DataError(f"--depths: {depth} is not 6n + 2; allowed: 8, 14, 20, 26, 32, ...")
    layers: list[nn.Module] = [
        nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(),
    ]
    channels = WIDTHS[0]
    for width in WIDTHS:
        for position in range((depth - 2) // 6):
            stride = 2 if position == 0 and width != WIDTHS[0] else 1
            layers.append(CifarBlock(channels, width, stride, is_residual=is_residual))
            channels = width
    net = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


@dataclass(frozen=True)
class Digits:
    """Images `(N, 1, S, S)` float32 with mean 0 and deviation 1, and their digits `(N,)` int64."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def read_digits(settings: Settings) -> Digits:
    """Read scikit-learn's digits (UCI, 1797 images); a fifth of each class is held out for testing.

    Raises:
        DataError: If scikit-learn is not installed.
    """
    if load_digits is None:
        raise DataError('scikit-learn is not installed; run: pip install -e ".[bench]"')
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16.0).float()[:, None]
    size = (settings.size, settings.size)
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=digits.target, random_state=settings.seed
    )
    deviation, mean = torch.std_mean(images[train])
    images = (images - mean) / deviation
    return Digits(images[train], labels[train], images[test], labels[test])


def compute_learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Compute the learning rate of a step: warm-up, then a division by 10 at 1/2 and at 3/4."""
    rate = settings.learning_rate * 0.1 ** ((step >= steps * 0.5) + (step >= steps * 0.75))
    warm = min(settings.warm_up, steps // 4)
    return rate * (0.1 + 0.9 * step / warm) if step < warm else rate


def shift_images(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `shift` pixels along each side, repeating its edge."""
    size = images.shape[-1]
    padded = F.pad(images, (shift,) * 4, mode="replicate")
    moves = torch.randint(0, 2 * shift + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, moves, strict=True)]
    )


def iterate_batches(settings: Settings, digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches without end, shuffled and shifted, including smaller last ones."""
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        order = torch.randperm(len(digits.train), generator=generator)
        for indices in torch.split(order, settings.batch_size):
            images = shift_images(digits.train[indices], settings.shift, generator)
            yield images, digits.train_labels[indices]


@torch.no_grad()
def compute_error_rate(net: nn.Module, images: Tensor, labels: Tensor, precision: str) -> float:
    """Compute the share of images whose predicted class is wrong, in evaluation mode."""
    net.eval()
    with autocast(torch.device("cpu"), precision):
        predictions = torch.cat([net(part).argmax(1) for part in torch.split(images, 256)])
    net.train()
    return float((predictions != labels).double().mean())


def train_net(
    kind: str, depth: int, settings: Settings, digits: Digits, console: Console
) -> dict[str, Any]:
    """Train one net.

    Returns:
        Final errors, the running training error of every epoch, and the duration in minutes.
    """
    torch.manual_seed(settings.seed)
    net = build_net(depth, is_residual=kind == "residual")
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(),
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    per_epoch = -(-len(digits.train) // settings.batch_size)
    steps = per_epoch * settings.epochs
    started, num_wrong, curve = time.perf_counter(), 0, []
    with track_progress(console, f"{kind}-{depth}", steps) as advance:
        for step, (images, labels) in zip(
            range(steps), iterate_batches(settings, digits), strict=False
        ):
            for group in optimizer.param_groups:
                group["lr"] = compute_learning_rate(settings, step, steps)
            with autocast(torch.device("cpu"), settings.precision):
                logits = net(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            num_wrong += int((logits.argmax(1) != labels).sum())
            advance()
            if (step + 1) % per_epoch == 0:
                curve.append(num_wrong / len(digits.train))
                num_wrong = 0
    minutes = (time.perf_counter() - started) / 60
    return {
        "kind": kind,
        "depth": depth,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "train_error": compute_error_rate(
            net, digits.train, digits.train_labels, settings.precision
        ),
        "test_error": compute_error_rate(net, digits.test, digits.test_labels, settings.precision),
        "curve": curve,
        "minutes": minutes,
        "settings": asdict(settings),
    }


def train_all(
    depths: Sequence[int], settings: Settings, out: Path, console: Console
) -> list[dict[str, Any]]:
    """Train every net that has no result with these settings in `out`, and save each result."""
    for depth in depths:
        build_net(depth, is_residual=False)  # refuses a wrong depth before the first training
    digits = read_digits(settings)
    out.mkdir(parents=True, exist_ok=True)
    net_reports = []
    for depth in depths:
        for kind in KINDS:
            file = out / f"{kind}-{depth}.json"
            net_report = _load_finished(file, settings)
            if net_report is None:
                net_report = train_net(kind, depth, settings, digits, console)
                write_json(file, net_report)
                console.print(f"{kind}-{depth}: {net_report['minutes']:.1f} minutes")
            else:
                console.print(f"{kind}-{depth}: taken from {file}")
            net_reports.append(net_report)
    return net_reports


def _load_finished(file: Path, settings: Settings) -> dict[str, Any] | None:
    """Load the result in `file` if it has the same settings, else return None."""
    if not file.is_file():
        return None
    try:
        net_report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None  # not a result file: train again and overwrite it
    return net_report if net_report.get("settings") == asdict(settings) else None


def plot_errors(net_reports: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Plot the training error over the epochs (left) and the final one by depth (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    depths = sorted({net_report["depth"] for net_report in net_reports})
    for net_report in net_reports:
        style = ("-", "--", ":")[depths.index(net_report["depth"]) % 3]
        epochs = range(1, len(net_report["curve"]) + 1)
        errors = [100 * value for value in net_report["curve"]]
        label = f"{net_report['kind']}-{net_report['depth']}"
        left.plot(epochs, errors, style, color=COLORS[net_report["kind"]], label=label)
    left.set(xlabel="epoch", ylabel="training error, %", title="while training")
    left.legend()
    for kind in KINDS:
        kind_reports = [net_report for net_report in net_reports if net_report["kind"] == kind]
        errors = [100 * net_report["train_error"] for net_report in kind_reports]
        x = [net_report["depth"] for net_report in kind_reports]
        right.plot(x, errors, "o-", color=COLORS[kind], label=kind)
    right.set(xlabel="layers", ylabel="training error, %", title="at the end", xticks=depths)
    right.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def build_table(net_reports: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of the final numbers."""
    table = Table("net", "parameters", "training error", "test error", "minutes")
    for net_report in net_reports:
        table.add_row(
            f"{net_report['kind']}-{net_report['depth']}",
            f"{net_report['parameters']:,}",
            f"{net_report['train_error']:.2%}",
            f"{net_report['test_error']:.2%}",
            f"{net_report['minutes']:.1f}",
        )
    return table


def main(argv: Sequence[str]) -> None:
    """Train the nets, plot the errors and print the numbers."""
    parser = argparse.ArgumentParser("python -m benchmarks degradation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 56, 110])
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path, default=Path("runs/degradation"))
    options = parser.parse_args(argv)
    if options.epochs < 1:
        raise DataError(f"--epochs is {options.epochs}; it must be at least 1")
    console = Console()
    precision = resolve_precision(options.precision, torch.device("cpu"))
    settings = Settings(epochs=options.epochs, seed=options.seed, precision=precision)
    net_reports = train_all(options.depths, settings, options.out, console)
    machine = collect_environment(torch.device("cpu"))
    write_json(options.out / "degradation.json", {"nets": net_reports, "machine": machine})
    plot_errors(net_reports, options.out / "degradation.png")
    console.print(build_table(net_reports))
    console.print(f"{options.out / 'degradation.json'} and {options.out / 'degradation.png'}")
