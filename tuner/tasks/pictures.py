"""Reading labelled pictures: IDX files, one npz, or a folder for each class."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import InvalidInput

FIELD = "task.params.path"
LARGEST = 8 << 30
"""Bytes of pixels in memory."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})
IDX_TYPES: Mapping[int, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}.items()
}
NPZ_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
    ("x", "y", "x_test", "y_test"),
)
"""Names of arrays in an npz: Keras's, MedMNIST's, and plain ones."""

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """Pictures ``[n, channels, height, width]`` and the label of each."""

    pixels: Pixels
    labels: NDArray[Any]


@dataclass(frozen=True)
class Collection:
    """What a path holds: pictures to train on and, where it says so, others to test on."""

    train: Labelled
    test: Labelled | None


def read(path: Path, *, size: int | None = None, channels: int | None = None) -> Collection:
    """The pictures at ``path``.

    Args:
        path: A folder with IDX files as MNIST's, a folder of class folders (or of ``train`` and
            ``test`` with those inside), or an npz.
        size: Height and width to which pictures of a folder are brought.
        channels: 1 or 3, for pictures of a folder; as the first one has them unless given.

    Raises:
        InvalidInput: Nothing there can be read; the message names the file.
    """
    try:
        if path.is_file() and path.suffix.lower() == ".npz":
            return _npz(path)
        if not path.is_dir():
            raise InvalidInput(FIELD, f"{path.name!r} is neither a folder nor an .npz file")
        if any("idx" in entry.name and "ubyte" in entry.name for entry in path.iterdir()):
            return _idx_folder(path)
        train, test = path / "train", path / "test"
        if train.is_dir():
            first = _folder(train, size, channels)
            _, depth, height, width = first.pixels.shape
            second = _folder(test, (height, width), depth) if test.is_dir() else None
            return Collection(first, second)
        return Collection(_folder(path, size, channels), None)
    except OSError as error:
        raise InvalidInput(FIELD, f"cannot be read: {error.strerror or error}") from error


def _shaped(pixels: Pixels, labels: NDArray[Any], name: str) -> Labelled:
    """Channels first; raises InvalidInput where pictures and labels do not fit."""
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] not in (1, 3, 4) and pixels.shape[3] in (1, 3, 4):
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if pixels.ndim != 4 or pixels.dtype.kind not in "uifb":
        raise InvalidInput(FIELD, f"{name}: {pixels.dtype} {pixels.shape} is no stack of pictures")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "uiSUb":
        raise InvalidInput(FIELD, f"{name}: {labels.dtype} {labels.shape} are no labels")
    if len(pixels) != len(labels) or not len(pixels):
        raise InvalidInput(FIELD, f"{name}: {len(pixels)} pictures but {len(labels)} labels")
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise InvalidInput(FIELD, f"{name}: pixels that are no numbers")
    return Labelled(pixels, labels)


def _npz(path: Path) -> Collection:
    try:
        with zipfile.ZipFile(path) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > LARGEST:
                raise InvalidInput(FIELD, f"{path.name}: over {LARGEST} bytes when unpacked")
        with np.load(path, allow_pickle=False) as archive:
            held = set(archive.files)
            for x, y, x_test, y_test in NPZ_NAMES:
                if {x, y} <= held:
                    train = _shaped(archive[x], archive[y], x)
                    if not {x_test, y_test} <= held:
                        return Collection(train, None)
                    test = _shaped(archive[x_test], archive[y_test], x_test)
                    if test.pixels.shape[1:] != train.pixels.shape[1:]:
                        raise InvalidInput(FIELD, "test pictures are of another shape")
                    return Collection(train, test)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        text = (str(error).splitlines() or ["damaged"])[0]
        raise InvalidInput(FIELD, f"{path.name}: no npz of plain arrays: {text[:200]}") from error
    names = sorted(held)[:9]
    raise InvalidInput(FIELD, f"{path.name}: no arrays x_train and y_train among {names}")


def _idx_folder(path: Path) -> Collection:
    def pair(prefix: str) -> Labelled | None:
        names = [f"{prefix}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        found = [
            next((path / (n + end) for end in ("", ".gz") if (path / (n + end)).is_file()), None)
            for n in names
        ]
        if found == [None, None]:
            return None
        if found[0] is None or found[1] is None:
            missing = names[0] if found[0] is None else names[1]
            raise InvalidInput(FIELD, f"{missing} (or {missing}.gz) is missing")
        return _shaped(idx(found[0]), idx(found[1]), found[0].name)

    train = pair("train")
    if train is None:
        raise InvalidInput(FIELD, "train-images-idx3-ubyte (or .gz) is missing")
    return Collection(train, pair("t10k") or pair("test"))


def idx(path: Path) -> NDArray[Any]:
    """The array in an IDX file, as published with MNIST; gzip where the name says so.

    Raises:
        InvalidInput: The header is none, or the length is not what it announces.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            kind = IDX_TYPES.get(head[2]) if len(head) == 4 and head[:2] == b"\0\0" else None
            if kind is None:
                raise InvalidInput(FIELD, f"{path.name}: no IDX file")
            axes = head[3]
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            size = math.prod(shape) * kind.itemsize
            if size > LARGEST:
                raise InvalidInput(FIELD, f"{path.name}: announces more than {LARGEST} bytes")
            content = file.read(size + 1)
    except (EOFError, zlib.error, struct.error) as error:
        raise InvalidInput(FIELD, f"{path.name}: ends too early or is damaged") from error
    if len(content) != size:
        raise InvalidInput(FIELD, f"{path.name}: not the {size} bytes that its header announces")
    array = np.frombuffer(content, kind).reshape(shape)
    return np.array(array, dtype=kind.newbyteorder("="))


def _folder(path: Path, size: int | tuple[int, int] | None, channels: int | None) -> Labelled:
    try:
        from PIL import Image  # noqa: PLC0415  (an extra: only folders of pictures need it)
    except ImportError as error:
        raise InvalidInput(FIELD, "folders of pictures need Pillow: pip install pillow") from error
    files = [
        (file, folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise InvalidInput(FIELD, f"{path.name!r} holds no class folders with pictures")
    shape = (size, size) if isinstance(size, int) else size
    pixels: Pixels | None = None
    for i, (file, _) in enumerate(files):
        name = f"{file.parent.name}/{file.name}"
        try:
            with Image.open(file) as opened:
                if channels is None:
                    channels = 1 if opened.mode in ("1", "L", "I;16", "I", "F") else 3
                picture = opened.convert("L" if channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InvalidInput(FIELD, f"{name}: cannot be read as a picture") from error
        if shape is None:
            shape = (picture.height, picture.width)
        if (picture.height, picture.width) != shape:
            if size is None:
                raise InvalidInput(
                    "task.params.size",
                    f"pictures differ in size ({name} is not {shape[0]} x {shape[1]}): give one",
                )
            picture = picture.resize((shape[1], shape[0]))
        if pixels is None:
            if len(files) * channels * math.prod(shape) > LARGEST:
                raise InvalidInput(FIELD, f"more than {LARGEST} bytes of pixels")
            pixels = np.empty((len(files), channels, *shape), np.uint8)
        pixels[i] = np.asarray(picture).reshape(*shape, channels).transpose(2, 0, 1)
    assert pixels is not None
    return Labelled(pixels, np.array([label for _, label in files]))
