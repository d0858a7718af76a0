"""Images from where users keep them, with or without labels, as the arrays that a network takes.

Read are: `.npz` (`x`, and `y` where there are labels), `.npy`, one image, a folder or a `.zip` of images. Labels come
from `y`, from a CSV (`name,label`), from one folder per class (classes in sorted order), or from file names
`index_label.jpg`.

uint8 arrays and image files are pixels and are preprocessed:

    value = (low + pixel/255 · (high − low) − mean) / std

float arrays are taken to be what the network takes already. Image files need the extra `onnx-udfc[images]`.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnx_udfc.errors import RequestError, one_line
from onnx_udfc.inputs.image_labels import labels_from_names, read_labels
from onnx_udfc.numerics.picture_codec import LUMA

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from onnx_udfc.options import Judging, Options

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"})
MOST_PIXELS = 100_000_000  # of one image: a small file can claim any number of them
MOST_BYTES = 1 << 28  # of one encoded image
COMMON = ("x", "images", "data", "input")  # names of the array that holds the images
LABELS = ("y", "labels", "label")
_CHANNELS = (1, 3, 4)
_UNREADABLE = (RuntimeError, OSError, EOFError, zipfile.BadZipFile, zlib.error)  # the first: encrypted, or unknown
_DAMAGED = (*_UNREADABLE, ValueError, KeyError, SyntaxError, TypeError, struct.error)  # a header that is none
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # what SUFFIXES are; others may start programs


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
        return self.scaled(self.coloured(pixels).transpose(0, 3, 1, 2))

    def scaled(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Turn pixels (n, channels, ...) in the network's own order of channels into network values.

        Raises:
            RequestError: The number of means or deviations is not the number of channels.
        """
        x = pixels.astype(np.float32)
        low, high = self.range
        x = x * np.float32((high - low) / 255) + np.float32(low) if low else x * np.float32((high - low) / 255)
        shape = (-1,) + (1,) * (x.ndim - 2)
        mean = _per_channel(self.mean, 0.0, x.shape[1], "mean").reshape(shape)
        std = _per_channel(self.std, 1.0, x.shape[1], "std").reshape(shape)
        result: NDArray[np.float32] = (x - mean) / std
        return result

    def coloured(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB pixels (..., channels) in the order of the network's channels; a fourth one stays last."""
        if self.colour == "bgr" and pixels.shape[-1] >= 3:
            return np.asarray(np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=-1))
        return _luma(pixels) if self.colour == "gray" and pixels.shape[-1] == 3 else pixels

    def ordered(self, pixels: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
        """The same for a network with so many channels: grey for one, three alike of one, no alpha for three.

        Raises:
            RequestError: The pixels have another number of channels, or None of them was declared and nothing helps.
        """
        if channels == 1 and pixels.shape[-1] == 3:
            return _luma(pixels)
        if channels == 3 and pixels.shape[-1] == 4:
            pixels = pixels[..., :3]
        found = self.coloured(pixels)
        if channels == 3 and found.shape[-1] == 1:
            return np.repeat(found, 3, axis=-1)
        if channels is not None and found.shape[-1] != channels:
            raise RequestError(f"the images have {found.shape[-1]} channels but the network's input has {channels}")
        return found


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey (..., 1) of RGB pixels (..., 3): ITU-R BT.601, as Pillow's mode L."""
    gray: NDArray[np.uint8] = np.rint(np.asarray(pixels @ LUMA)).astype(np.uint8)[..., None]
    return gray


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

    There is one name per image; labels are int64 (n,), or None.
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
            items = [self.fitted(i, shape, preprocessing) for i in range(start, min(start + batch, count))]
            yield np.stack(items)

    def fitted(
        self,
        index: int,
        shape: Sequence[int | None],
        preprocessing: Preprocessing,
        channels_last: bool | None = None,
        dtype: DTypeLike = np.float32,
    ) -> NDArray[Any]:
        """One image as an input of `shape` (n, channels, height, width) takes it, without its first axis.

        None in the shape is any size. Whole numbers take pixels as they are, in the order of channels of
        `preprocessing`; `channels_last` says whether they are the input's last axis, None asks the shape.

        Raises:
            RequestError: The image does not fit the input.
        """
        item, wanted = self.source[index], tuple(shape[1:])
        if item.dtype != np.uint8:
            _same_shape(item, shape)
            return item.astype(dtype)
        if len(wanted) != 3:
            raise RequestError(f"pixels need an input (n, channels, height, width), not {tuple(shape)}")
        last = wanted[2] in (1, 3) and wanted[0] not in (1, 3) if channels_last is None else channels_last
        channels, height, width = (wanted[2], *wanted[:2]) if last else wanted
        pixels = preprocessing.ordered(_resize(as_image(item), height, width), channels)[None].transpose(0, 3, 1, 2)
        values = _whole(pixels, dtype) if np.dtype(dtype).kind in "iu" else preprocessing.scaled(pixels)
        fitted: NDArray[Any] = (np.moveaxis(values[0], 0, -1) if last else values[0]).astype(dtype)
        return fitted


def open_images(path: str | Path, labels: str | Path | None = None) -> ImageSet:
    """Open a .npz, .npy, image, folder or zip of images; `labels` is a CSV of `name,label`, or one label a line.

    Raises:
        RequestError: Nothing is there, or it cannot be read; the message says what can.
    """
    path = Path(path)
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder of images")
    if not (path.is_file() or path.is_dir()):
        raise RequestError(f"{path}: neither a file nor a folder, so it is not read")
    images = _open(path)
    if not len(images):
        raise RequestError(f"{path}: no images found; expected {', '.join(sorted(SUFFIXES))}, or an .npz or .npy")
    return images if labels is None else ImageSet(images.source, images.names, read_labels(Path(labels), images.names))


def _open(path: Path) -> ImageSet:
    if is_arrays(path):
        return images_of(read_arrays(path), str(path))
    if path.suffix.lower() == ".zip":
        archive = _open_zip(path)
        names = sorted(n for n in archive.namelist() if PurePosixPath(n).suffix.lower() in SUFFIXES)
        return ImageSet(_Zipped(archive, names), tuple(names), labels_from_names(names))
    if path.is_dir():
        names = sorted(
            p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
        )
        return ImageSet(_Files(path, names), tuple(names), labels_from_names(names))
    if path.suffix.lower() in SUFFIXES:
        return ImageSet(_Files(path.parent, [path.name]), (path.name,), None)
    raise RequestError(f"{path}: not images; give a folder, a .zip, an .npz (x, y), an .npy or an image file")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise RequestError(f"{path}: not a zip file ({one_line(error)})") from error


def is_arrays(path: Path) -> bool:
    """Whether a path is a file of numpy arrays."""
    return path.suffix.lower() in {".npz", ".npy"}


def array_names(arrays: Mapping[Any, NDArray[Any]]) -> list[Any]:
    """Names of the arrays that may be the one input, the likeliest first; labels are none."""
    common = [name for name in COMMON if name in arrays]
    return common + [name for name in arrays if name not in common and name not in LABELS]


def images_of(arrays: Mapping[Any, NDArray[Any]], place: str) -> ImageSet:
    """Images, and labels where there are some, among arrays by name; `place` says where they lie.

    Raises:
        RequestError: There are no images, or not as many labels.
    """
    names = array_names(arrays)
    if not names:
        raise RequestError(f"{place}: holds no images; expected an array x (and y for labels)")
    x = arrays[names[0]]
    if x.ndim < 1 or (x.dtype != np.uint8 and x.dtype.kind not in "fiu"):
        raise RequestError(f"{place}: `{names[0] or 'x'}` is {x.dtype} of shape {x.shape}, not a batch of images")
    label = next((arrays[k] for k in LABELS if k in arrays), None)
    if label is not None and label.shape != x.shape[:1]:
        raise RequestError(f"{place}: {len(x)} images but labels of shape {label.shape}")
    return ImageSet(x, tuple(map(str, range(len(x)))), None if label is None else _labels(label, place))


def _labels(label: NDArray[Any], place: str) -> NDArray[np.int64]:
    if label.dtype.kind not in "iuf" or (label.dtype.kind == "f" and not (label == np.rint(label)).all()):
        raise RequestError(f"{place}: labels are {label.dtype}; expected whole numbers, the indices of the classes")
    return label.astype(np.int64)


def read_arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """The arrays of an .npz, each read when it is asked for, or the one of an .npy as `x`; pickles are refused.

    Raises:
        RequestError: The file is damaged or holds Python objects; also later, when an array is asked for.
    """
    if not path.is_file():
        raise RequestError(f"{path}: {'no regular file' if path.exists() else 'no such file'}")
    with _numpy_errors(path):
        loaded = np.load(path, allow_pickle=False)
    return {"x": loaded} if isinstance(loaded, np.ndarray) else _Lazy(path, loaded)


@dataclass(frozen=True)
class _Lazy(Mapping[str, "NDArray[Any]"]):
    """The arrays of an .npz."""

    path: Path
    file: Any

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.file.files:
            raise KeyError(name)
        with _numpy_errors(self.path):
            value: NDArray[Any] = self.file[name]
        if not isinstance(value, np.ndarray):
            raise RequestError(f"{self.path}: {name} is no array")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.files)

    def __len__(self) -> int:
        return len(self.file.files)

    def __contains__(self, name: object) -> bool:
        return name in self.file.files


@contextlib.contextmanager
def _numpy_errors(path: Path) -> Iterator[None]:
    """What numpy raises for damaged files as one line."""
    try:
        yield
    except MemoryError as error:
        raise RequestError(f"{path}: larger than the memory; give fewer inputs") from error
    except _DAMAGED as error:
        raise RequestError(f"{path}: not a readable numpy file ({one_line(error)})") from error


@dataclass(frozen=True)
class _Files:
    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        path = self.root / self.names[index]
        try:
            if path.stat().st_size > MOST_BYTES:
                raise RequestError(f"{path}: too large for one image")
            return _decode(path.read_bytes(), self.names[index])
        except OSError as error:
            raise RequestError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class _Zipped:
    archive: zipfile.ZipFile
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        name = self.names[index]
        if self.archive.getinfo(name).file_size > MOST_BYTES:
            raise RequestError(f"{name}: too large for one image")
        try:
            data = self.archive.read(name)
        except _UNREADABLE as error:
            raise RequestError(f"{name}: cannot be read from the zip file ({one_line(error)})") from error
        return _decode(data, name)


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Return RGB pixels (height, width, 3) of an encoded image."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise RequestError("image files need Pillow: pip install 'onnx-udfc[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that nobody reads, and of size, which is looked at here
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image, _libtiff_says_nothing(image.format):
                if image.width * image.height > MOST_PIXELS:
                    raise RequestError(f"{name}: {image.width} x {image.height} pixels are too many for one image")
                return np.asarray(image.convert("RGB"))
    except RequestError:
        raise
    except UnidentifiedImageError as error:
        raise RequestError(f"{name}: no image that can be read ({', '.join(_FORMATS)} can)") from error
    except Image.DecompressionBombError as error:
        raise RequestError(f"{name}: too many pixels for one image") from error
    except Exception as error:  # a decoder may raise anything on damaged data
        raise RequestError(f"{name}: cannot be read as an image ({one_line(error)})") from error


@contextlib.contextmanager
def _libtiff_says_nothing(form: str | None) -> Iterator[None]:
    """The library writes its own lines on standard error, whatever becomes of its error; Pillow cannot stop it."""
    if form != "TIFF":
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _same_shape(item: NDArray[Any], shape: Sequence[int | None]) -> None:
    wanted = tuple(shape[1:])
    if len(item.shape) != len(wanted) or any(w not in (None, s) for s, w in zip(item.shape, wanted, strict=True)):
        raise RequestError(f"an array of shape {item.shape} does not fit the input {tuple(shape)}")


def as_image(item: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (height, width, channels) of pixels with the channels first, last, or none.

    Raises:
        RequestError: They are neither.
    """
    if item.ndim == 2:
        return item[..., None]
    if item.ndim != 3:
        raise RequestError(f"pixels of shape {item.shape} are no image (height, width, channels)")
    first = item.shape[0] in _CHANNELS and item.shape[2] not in _CHANNELS
    return np.moveaxis(item, 0, -1) if first else item


def _whole(pixels: NDArray[np.uint8], dtype: DTypeLike) -> NDArray[Any]:
    """Pixels for an input of whole numbers: 0..255, or -128..127 where it is int8."""
    return pixels.astype(np.int16) - 128 if np.dtype(dtype) == np.int8 else pixels


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


def asked_preprocessing(options: Options | Judging) -> Preprocessing:
    """What becomes of the pixels of images, as the user says or by default."""
    span = options.input_range or (0.0, 1.0)
    return Preprocessing(options.input_mean, options.input_std, span, options.input_colour or "rgb")
