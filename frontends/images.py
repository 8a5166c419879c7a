"""Images to model inputs: decoding, resizing, cropping and normalising, stated in one short text.

A preprocessing is a list of `key=value` separated by commas, or a preset, or a preset followed by
keys that override it:

    resize=256      scale so that the shorter side is 256 (HxW: to exactly that size)
    fit=224         scale so that the longer side is 224, pad with zeros right and below to 224x224
    crop=224        cut 224x224 from the middle (HxW likewise)
    filter=bicubic  resampling filter: nearest, bilinear, bicubic, lanczos
    scale=1/255     factor on the 8-bit pixels
    mean=0.5:0.5:0.5, std=0.5:0.5:0.5   then (x - mean) / std, one number or one per channel

The steps are taken in this order, whatever the order of the keys. Presets:

    imagenet        resize=256,crop=224, mean and standard deviation of ImageNet
    imagenet-pad    fit=224, the same normalisation (padding is zero before normalising)
    inception       resize=248,crop=224,mean=0.5,std=0.5 (the original ViT weights)
    unit            pixels scaled to 0..1, nothing else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Images
    from PIL.Image import Image

    Array: TypeAlias = NDArray[np.float32]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
"""File names that count as images."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the channels of ImageNet, on pixels in 0..1."""


LARGEST = 2**28
"""Pixels of an image behind `resize` or `fit`, at most."""


@dataclass(frozen=True)
class Preprocess:
    """A parsed preprocessing; see the module docstring."""

    resize: tuple[int, int] | int | None = None
    fit: int | None = None
    crop: tuple[int, int] | None = None
    filter: str = "bicubic"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def array(self, path: Path, channels: int) -> Array:
        """An image file as array [1, channels, H, W].

        Raises VitError if the file cannot be read as an image, is too small for the crop, would
        become too large, or if the model takes neither 1 nor 3 channels.
        """
        import numpy as np
        from PIL import Image

        if channels not in (1, 3):
            raise VitError(f"images have 1 or 3 channels, the model takes {channels}")
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB" if channels == 3 else "L")
        except Exception as error:  # decoders of damaged files raise many kinds
            raise VitError(f"{path}: cannot be read as an image") from error
        pixels = np.asarray(self._sized(image, path), np.float32)
        planes = pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)
        mean, std = (self._per_channel(values, channels) for values in (self.mean, self.std))
        return ((planes * np.float32(self.scale) - mean) / std)[None].astype(np.float32)

    def _sized(self, image: Image, path: Path) -> Image:
        from PIL import Image as Images

        method = Images.Resampling[self.filter.upper()]
        width, height = image.size
        if isinstance(self.resize, tuple):
            image = _resized(image, self.resize[1], self.resize[0], method, path)
        elif self.resize is not None:
            factor = self.resize / min(width, height)
            width, height = round(width * factor), round(height * factor)
            image = _resized(image, width, height, method, path)
        if self.fit is not None:
            factor = self.fit / max(image.size)
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
            scaled = _resized(image, *size, method, path)
            padded = Images.new(image.mode, (self.fit, self.fit))
            padded.paste(scaled, (0, 0))
            image = padded
        if self.crop is None:
            return image
        rows, columns = self.crop
        if rows > image.height or columns > image.width:
            raise VitError(
                f"{path}: {image.height}x{image.width} pixels (height x width) are too few for "
                f"crop={rows}x{columns}; resize first"
            )
        left, top = (image.width - columns) // 2, (image.height - rows) // 2
        return image.crop((left, top, left + columns, top + rows))

    @staticmethod
    def _per_channel(values: tuple[float, ...], channels: int) -> Array:
        import numpy as np

        if len(values) not in (1, channels):
            raise VitError(
                f"preprocess gives mean or std for {len(values)} channels, the model takes {channels}"
            )
        return np.array(values, np.float32).reshape(-1, 1, 1)


def _resized(image: Image, width: int, height: int, method: Images.Resampling, path: Path) -> Image:
    """An image in another size; raises VitError for one that is far too large."""
    if width * height > LARGEST:
        raise VitError(f"{path}: would become {height}x{width} pixels (height x width): too many")
    return image.resize((width, height), method)


PRESETS: Mapping[str, Preprocess] = {
    "imagenet": Preprocess(resize=256, crop=(224, 224), mean=IMAGENET[0], std=IMAGENET[1]),
    "imagenet-pad": Preprocess(fit=224, mean=IMAGENET[0], std=IMAGENET[1]),
    "inception": Preprocess(resize=248, crop=(224, 224), mean=(0.5,), std=(0.5,)),
    "unit": Preprocess(),
}


def parse_preprocess(text: str) -> Preprocess:
    """Parse a preprocessing; raises VitError, naming the part that is wrong."""
    result = Preprocess()
    for index, part in enumerate(text.split(",")):
        key, equals, value = part.strip().partition("=")
        if not equals:
            if index or key not in PRESETS:
                raise VitError(
                    f"preprocess '{part}': expected key=value, or a preset first "
                    f"({', '.join(PRESETS)})"
                )
            result = PRESETS[key]
            continue
        try:
            result = replace(result, **{key: _value(key, value)})
        except (ValueError, ZeroDivisionError) as error:
            raise VitError(f"preprocess '{part}': {error}") from error
    return result


def _value(key: str, text: str) -> Any:
    match key:
        case "resize":
            size = _sizes(text)
            return (size[0], size[1]) if len(size) == 2 else size[0]
        case "crop":
            size = _sizes(text)
            return (size[0], size[-1])
        case "fit":
            return _sizes(text)[0]
        case "filter":
            if text not in ("nearest", "bilinear", "bicubic", "lanczos"):
                raise ValueError("filter is nearest, bilinear, bicubic or lanczos")
            return text
        case "scale":
            return _number(text)
        case "mean" | "std":
            values = tuple(_number(part) for part in text.split(":"))
            if key == "std" and 0 in values:
                raise ValueError("std must not be 0")
            return values
        case _:
            raise ValueError("unknown key; known are resize, fit, crop, filter, scale, mean, std")


def _sizes(text: str) -> Sequence[int]:
    """`224` or `224x160`, as one or two positive numbers."""
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError("a size is a number of pixels, or HxW")
    return [int(part) for part in parts]


def _number(text: str) -> float:
    """A decimal number or a quotient such as 1/255."""
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except ValueError as error:
        raise ValueError(f"'{text}' is not a number") from error
