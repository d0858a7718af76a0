"""Images from where users keep them, with or without labels, as the arrays that a network takes.

Read are: `.npz` (`x`, and `y` where there are labels), `.npy`, one image, a folder or a `.zip` of images. Labels come
from `y`, from a CSV (`name,label`), from one folder per class (classes in sorted order), or from file names
`index_label.jpg`.

uint8 arrays and image files are pixels and are preprocessed:

    value = (low + pixel/255 · (high − low) − mean) / std

float arrays are taken to be what the network takes already. Image files need the extra `onnx-udfc[images]`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.image_labels import labels_from_names, read_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"})
COLOURS = ("rgb", "bgr", "gray")


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects at its input; `mean` and `std` are in the order of `colour`, after `range` is applied.

    Attributes:
        mean: One value, or one per channel; empty means 0.
        std: One value, or one per channel; empty means 1.
        range: The values (low, high) that pixels 0 and 255 become.
        colour: Order of the channels: `rgb`, `bgr` or `gray`.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    range: tuple[float, float] = (0.0, 1.0)
    colour: str = "rgb"

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn RGB pixels (n, height, width, channels) into network values (n, channels, height, width).

        Raises:
            RequestError: The number of means or deviations is not the number of channels.
        """
        x = self._coloured(pixels).transpose(0, 3, 1, 2).astype(np.float32)
        low, high = self.range
        x = x * np.float32((high - low) / 255) + np.float32(low) if low else x * np.float32((high - low) / 255)
        mean, std = _per_channel(self.mean, 0.0, x.shape[1], "mean"), _per_channel(self.std, 1.0, x.shape[1], "std")
        result: NDArray[np.float32] = (x - mean) / std
        return result

    def _coloured(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.colour == "bgr":
            reversed_: NDArray[np.uint8] = pixels[..., ::-1]
            return reversed_
        if self.colour == "gray" and pixels.shape[-1] == 3:
            luma = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L
            gray: NDArray[np.uint8] = np.rint(luma).astype(np.uint8)[..., None]
            return gray
        return pixels


def _per_channel(values: Sequence[float], default: float, channels: int, name: str) -> NDArray[np.float32]:
    """Return (channels, 1, 1) values from none, one or `channels` of them."""
    if len(values) not in (0, 1, channels):
        raise RequestError(f"--input-{name} has {len(values)} values but the images have {channels} channels")
    return np.resize(np.array(values or (default,), dtype=np.float32), (channels, 1, 1))


class _Source(Protocol):
    """Where the arrays lie: the i-th item is uint8 (height, width, channels), or float in the network's own layout."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class ImageSet:
    """Images that are read when they are asked for.

    Attributes:
        source: Indexable store of single images.
        names: One name per image.
        labels: int64 (n,), or None.
    """

    source: _Source
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.names)

    def batches(
        self, shape: Sequence[int | None], preprocessing: Preprocessing, batch: int, limit: int | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield (≤ batch, …) float32 arrays for an input of `shape` (n, channels, height, width); None is any size.

        Raises:
            RequestError: The images do not fit the input.
        """
        count = len(self) if limit is None else min(limit, len(self))
        for start in range(0, count, batch):
            items = [_fit(self.source[i], shape, preprocessing) for i in range(start, min(start + batch, count))]
            yield np.stack(items)


def open_images(path: str | Path, labels: str | Path | None = None) -> ImageSet:
    """Open a .npz, .npy, image, folder or zip of images; `labels` is a CSV of `name,label`, or one label a line.

    Raises:
        RequestError: Nothing is there, or it cannot be read; the message says what can.
    """
    path = Path(path)
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder of images")
    images = _open(path)
    if not len(images):
        raise RequestError(f"{path}: no images found; expected {', '.join(sorted(SUFFIXES))}, or an .npz or .npy")
    return images if labels is None else ImageSet(images.source, images.names, read_labels(Path(labels), images.names))


@dataclass(frozen=True)
class Labelled:
    """Where labelled images are and how a network wants them; small, and passes between processes."""

    images: str
    labels: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    limit: int | None = None

    def open(self) -> ImageSet:
        """Open the images.

        Raises:
            RequestError: As open_images, or there are no labels.
        """
        found = open_images(self.images, self.labels)
        if found.labels is None:
            raise RequestError(
                f"{self.images}: no labels; give --labels CSV, a folder per class, or index_label.jpg names"
            )
        return found


def _open(path: Path) -> ImageSet:
    if path.suffix in {".npz", ".npy"}:
        return _open_arrays(path)
    if path.suffix == ".zip":
        archive = _open_zip(path)
        names = sorted(n for n in archive.namelist() if PurePosixPath(n).suffix.lower() in SUFFIXES)
        return ImageSet(_Zipped(archive, names), tuple(names), labels_from_names(names))
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        return ImageSet(_Files(path, names), tuple(names), labels_from_names(names))
    if path.suffix.lower() in SUFFIXES:
        return ImageSet(_Files(path.parent, [path.name]), (path.name,), None)
    raise RequestError(f"{path}: not images; give a folder, a .zip, an .npz (x, y), an .npy or an image file")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise RequestError(f"{path}: not a zip file ({error})") from error


def _open_arrays(path: Path) -> ImageSet:
    arrays = read_arrays(path)
    names = [k for k in ("x", "images", "data", "input") if k in arrays] or list(arrays)
    x = arrays[names[0]]
    if x.ndim < 1 or (x.dtype != np.uint8 and x.dtype.kind not in "fiu"):
        raise RequestError(f"{path}: `{names[0]}` is {x.dtype} of shape {x.shape}, not a batch of images")
    label = next((arrays[k] for k in ("y", "labels", "label") if k in arrays), None)
    if label is not None and label.shape != x.shape[:1]:
        raise RequestError(f"{path}: {len(x)} images but labels of shape {label.shape}")
    return ImageSet(x, tuple(map(str, range(len(x)))), None if label is None else label.astype(np.int64))


def read_arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """Read all arrays of an .npz, or the one of an .npy under the name `x`; pickles are refused.

    Raises:
        RequestError: The file is damaged or holds Python objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        return {"x": loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path}: not a readable numpy file ({error})") from error


@dataclass(frozen=True)
class _Files:
    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return _decode((self.root / self.names[index]).read_bytes(), self.names[index])


@dataclass(frozen=True)
class _Zipped:
    archive: zipfile.ZipFile
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return _decode(self.archive.read(self.names[index]), self.names[index])


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Return RGB pixels (height, width, 3) of an encoded image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise RequestError("image files need Pillow: pip install 'onnx-udfc[images]'") from error
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except OSError as error:
        raise RequestError(f"{name}: cannot be read as an image ({error})") from error


def _fit(item: NDArray[Any], shape: Sequence[int | None], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return one image as the network's input without its batch axis; pixels are resized and preprocessed."""
    wanted = tuple(shape[1:])
    if item.dtype != np.uint8:
        if len(item.shape) != len(wanted) or any(w not in (None, s) for s, w in zip(item.shape, wanted, strict=True)):
            raise RequestError(f"an array of shape {item.shape} does not fit the input {tuple(shape)}")
        return item.astype(np.float32)
    if len(wanted) != 3:
        raise RequestError(f"pixels need an input (n, channels, height, width), not {tuple(shape)}")
    pixels = item if item.ndim == 3 else item[..., None]
    channels_last = wanted[2] in (1, 3) and wanted[0] not in (1, 3)
    channels, height, width = (wanted[2], *wanted[:2]) if channels_last else wanted
    if channels == 1 and pixels.shape[-1] == 3:
        preprocessing = Preprocessing(preprocessing.mean, preprocessing.std, preprocessing.range, "gray")
    values = preprocessing.apply(_resize(pixels, height, width)[None])[0]
    if channels is not None and values.shape[0] != channels:
        raise RequestError(f"the images have {values.shape[0]} channels but the network's input has {channels}")
    fitted: NDArray[np.float32] = values.transpose(1, 2, 0) if channels_last else values
    return fitted


def _resize(pixels: NDArray[np.uint8], height: int | None, width: int | None) -> NDArray[np.uint8]:
    """Bring (h, w, c) to (height, width, c): shorter side to 8/7 and a centre crop if square, else a plain resize."""
    height, width = height or pixels.shape[0], width or pixels.shape[1]
    if pixels.shape[:2] == (height, width):
        return pixels
    try:
        from PIL import Image
    except ImportError as error:
        raise RequestError("resizing images needs Pillow: pip install 'onnx-udfc[images]'") from error
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    if height != width:
        resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return resized.reshape(height, width, pixels.shape[-1])
    factor = round(height * 8 / 7) / min(pixels.shape[:2])
    size = (max(width, round(pixels.shape[1] * factor)), max(height, round(pixels.shape[0] * factor)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], pixels.shape[-1])
    return resized[top : top + height, left : left + width]
