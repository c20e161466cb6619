"""Pictures from every kind of place, Fashion-MNIST among them, and what is no picture."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.errors import InvalidInput
from tuner.tasks import Arrays
from tuner.tasks.images import Images, moments
from tuner.tasks.pictures import idx

FASHION = Path(__file__).parents[4] / "shared" / "data" / "fashion-mnist"
fashion = pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST is not on this machine")


def part(task: Images, name: str) -> Arrays:
    samples = getattr(task.data(), name)
    assert isinstance(samples, Arrays)
    return samples


def pixels(n: int = 60, shape: tuple[int, ...] = (6, 6), classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    labels = np.arange(n) % classes
    x = rng.integers(0, 60, (n, *shape)).astype(np.uint8)
    x += (labels * 60).reshape(-1, *([1] * len(shape))).astype(np.uint8)
    return x, labels


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder: Path, x: Any, y: Any, prefix: str = "train", *, packed: bool = True) -> None:
    for name, array in (("images-idx3-ubyte", x), ("labels-idx1-ubyte", y.astype(np.uint8))):
        content = idx_bytes(array)
        path = folder / f"{prefix}-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)


@fashion
def test_fashion_mnist() -> None:
    task = Images(path=str(FASHION))
    sizes = [len(part(task, name)) for name in ("train", "valid", "test")]
    assert sizes == [50_000, 10_000, 10_000]
    train = part(task, "train")
    assert train.x.shape == (50_000, 1, 28, 28)
    assert train.x.dtype == torch.uint8
    assert train.y.bincount().tolist() == [5000] * 10
    assert task.prepared.mean == pytest.approx(72.9, abs=0.5)
    assert task.prepared.scale == pytest.approx(90.0, abs=0.5)


@fashion
def test_fashion_mnist_is_learned() -> None:
    """Two passes over 2,000 pictures: far better than the 10 % of chance."""
    task = Images(path=str(FASHION), limit=2400)
    train, valid = part(task, "train"), part(task, "valid")
    assert [len(train), len(valid)] == [2000, 400]
    assert train.y.bincount().tolist() == [200] * 10
    torch.manual_seed(0)
    model = task.model({"model.width": 8})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(2):
        for rows in torch.randperm(2000).split(50):
            optimizer.zero_grad()
            task.loss(model(train.x[rows]), train.y[rows], {}).mean().backward()
            optimizer.step()
    accuracy = task.metrics(model(valid.x), valid.y)["accuracy"].mean()
    assert float(accuracy) > 0.6


@pytest.mark.parametrize("packed", [True, False])
def test_idx(tmp_path: Path, packed: bool) -> None:
    x, y = pixels()
    idx_folder(tmp_path, x, y, packed=packed)
    idx_folder(tmp_path, x[:9], y[:9], "t10k", packed=packed)
    task = Images(path=str(tmp_path), valid=0.25)
    assert [len(part(task, name)) for name in ("train", "valid", "test")] == [45, 15, 9]
    assert task.prepared.shape == (1, 6, 6)
    assert torch.equal(part(task, "test").x[:, 0], torch.from_numpy(x[:9]))
    assert torch.equal(part(task, "test").y, torch.from_numpy(y[:9]))


@pytest.mark.parametrize("code", ["B", "b", "h", "i", "f", "d"])
def test_idx_types(tmp_path: Path, code: str) -> None:
    number = {"B": 8, "b": 9, "h": 11, "i": 12, "f": 13, "d": 14}[code]
    (tmp_path / "a").write_bytes(
        struct.pack(">BBBBII", 0, 0, number, 2, 2, 2) + struct.pack(f">4{code}", 1, 2, 3, 4)
    )
    assert idx(tmp_path / "a").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        (("x_train", "y_train"), (6, 6), (1, 6, 6)),
        (("train_images", "train_labels"), (6, 8, 3), (3, 6, 8)),
        (("images", "labels"), (1, 6, 6), (1, 6, 6)),
        (("x", "y"), (3, 8, 8), (3, 8, 8)),
    ],
)
def test_npz(tmp_path: Path, names: Any, shape: Any, expected: tuple[int, ...]) -> None:
    x, y = pixels(shape=shape)
    np.savez_compressed(tmp_path / "a.npz", **{names[0]: x, names[1]: y[:, None]})
    task = Images(path=str(tmp_path / "a.npz"), test=0.2)
    assert task.prepared.shape == expected
    assert len(part(task, "test")) == 12


def test_npz_of_real_numbers_and_names(tmp_path: Path) -> None:
    x, y = pixels()
    names = np.array(["ant", "bee", "cat"])[y]
    np.savez(
        tmp_path / "a.npz", x_train=x / 255.0, y_train=names, x_test=x[:5] / 255.0, y_test=names[:5]
    )
    task = Images(path=str(tmp_path / "a.npz"))
    assert task.prepared.classes == ("ant", "bee", "cat")
    assert part(task, "train").x.dtype == torch.float32
    assert part(task, "test").y.tolist() == y[:5].tolist()


def picture_folder(folder: Path, shape: tuple[int, ...] = (6, 6), suffix: str = "png") -> None:
    x, y = pixels(30, shape)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        place = folder / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:03}.{suffix}")
        (place / "readme.txt").write_text("not a picture", encoding="utf-8")


@pytest.mark.parametrize(("shape", "expected"), [((6, 6), (1, 6, 6)), ((6, 9, 3), (3, 6, 9))])
def test_class_folders(tmp_path: Path, shape: Any, expected: Any) -> None:
    picture_folder(tmp_path, shape)
    task = Images(path=str(tmp_path), valid=0.3)
    assert task.prepared.shape == expected
    assert task.prepared.classes == ("class0", "class1", "class2")
    x, _ = pixels(30, shape)
    seen = {image.numpy().tobytes() for name in ("train", "valid") for image in part(task, name).x}
    channels_first = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    assert seen == {np.ascontiguousarray(image).tobytes() for image in channels_first}


def test_train_and_test_folders(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train")
    picture_folder(tmp_path / "test")
    task = Images(path=str(tmp_path), channels=3, size=8)
    assert task.prepared.shape == (3, 8, 8)
    assert len(part(task, "test")) == 30


def test_sizes_that_differ_need_one(tmp_path: Path) -> None:
    picture_folder(tmp_path)
    Image.fromarray(np.zeros((9, 5), np.uint8)).save(tmp_path / "class1" / "zzz.png")
    with pytest.raises(InvalidInput, match=r"task\.params\.size.*class1/zzz\.png"):
        Images(path=str(tmp_path)).data()
    assert Images(path=str(tmp_path), size=6).prepared.shape == (1, 6, 6)


def test_moments_are_the_training_parts(tmp_path: Path) -> None:
    x, y = pixels()
    np.savez(tmp_path / "a.npz", x=x, y=y)
    task = Images(path=str(tmp_path / "a.npz"))
    values = part(task, "train").x.double()
    assert task.prepared.mean == pytest.approx(float(values.mean()))
    assert task.prepared.scale == pytest.approx(float(values.std(unbiased=False)))
    assert moments(torch.full((5, 1, 2, 2), 7)) == (7.0, 1.0)


def save(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def bad_files(folder: Path) -> dict[str, Path]:
    """Single files that hold no collection of pictures."""
    x, y = pixels()
    places = {"absent": folder / "absent"}
    (folder / "file.bin").write_bytes(b"1")
    places["another file"] = folder / "file.bin"
    (folder / "no.npz").write_bytes(b"no zip")
    places["no zip"] = folder / "no.npz"
    buffer = io.BytesIO()
    np.save(buffer, x)
    (folder / "npy.npz").write_bytes(buffer.getvalue())
    places["npy"] = folder / "npy.npz"
    save(folder / "object.npz", x=np.array([{"a": 1}] * 60), y=y)
    places["pickled objects"] = folder / "object.npz"
    save(folder / "names.npz", a=x, b=y)
    places["other names"] = folder / "names.npz"
    save(folder / "short.npz", x=x, y=y[:5])
    places["too few labels"] = folder / "short.npz"
    save(folder / "flat.npz", x=x.reshape(60, -1), y=y)
    places["flat"] = folder / "flat.npz"
    save(folder / "words.npz", x=np.full((60, 6, 6), "a"), y=y)
    places["words for pixels"] = folder / "words.npz"
    save(folder / "nan.npz", x=np.full((60, 6, 6), np.nan), y=y)
    places["nan"] = folder / "nan.npz"
    save(folder / "one.npz", x=x, y=np.zeros(60, int))
    places["one class"] = folder / "one.npz"
    save(folder / "each.npz", x=x, y=np.arange(60))
    places["each its class"] = folder / "each.npz"
    save(folder / "test.npz", x=x, y=y, x_test=x, y_test=y + 1)
    places["unknown test class"] = folder / "test.npz"
    save(folder / "shapes.npz", x=x, y=y, x_test=x[:, :3], y_test=y)
    places["another test shape"] = folder / "shapes.npz"
    with zipfile.ZipFile(folder / "cut.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY")
        archive.writestr("y.npy", b"\x93NUMPY")
    places["damaged member"] = folder / "cut.npz"
    return places


def bad_folders(folder: Path) -> dict[str, Path]:
    """Folders that hold none."""
    x, y = pixels()
    places = {"empty folder": folder / "empty"}
    (folder / "empty").mkdir()
    for name, images in {
        "idx cut": idx_bytes(x)[:-1],
        "idx long": idx_bytes(x) + b"1",
        "idx head": b"\0\0",
        "idx type": b"\0\0\x07\x03" + bytes(12),
        "idx huge": b"\0\0\x08\x03" + b"\xff" * 12,
        "idx none": b"hello world",
    }.items():
        place = folder / name.replace(" ", "_")
        place.mkdir()
        idx_folder(place, x, y)
        (place / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        places[name] = place
    place = folder / "gzip_cut"
    place.mkdir()
    idx_folder(place, x, y)
    whole = (place / "train-images-idx3-ubyte.gz").read_bytes()
    (place / "train-images-idx3-ubyte.gz").write_bytes(whole[:-100])
    places["gzip cut"] = place
    place = folder / "no_labels"
    place.mkdir()
    idx_folder(place, x, y)
    (place / "train-labels-idx1-ubyte.gz").unlink()
    places["no labels"] = place
    place = folder / "no_train"
    place.mkdir()
    idx_folder(place, x, y, "t10k")
    places["no train"] = place
    place = folder / "damaged"
    picture_folder(place)
    (place / "class0" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    places["damaged picture"] = place
    return places


@pytest.mark.parametrize("make", [bad_files, bad_folders])
def test_what_is_no_collection(tmp_path: Path, make: Callable[[Path], dict[str, Path]]) -> None:
    places = make(tmp_path)
    for name, place in places.items():
        with pytest.raises(InvalidInput) as error:
            Images(path=str(place)).data()
        assert error.value.field == "task.params.path", name
        assert str(tmp_path) not in str(error.value), name


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"size": "big"}, "size"),
        ({"limit": -1}, "limit"),
        ({"channels": 2}, "channels"),
        ({"valid": 0.0}, "valid"),
        ({"test": 1.0}, "test"),
        ({"valid": 0.6, "test": 0.6}, "valid"),
    ],
)
def test_wrong_parameters(tmp_path: Path, params: dict[str, Any], field: str) -> None:
    x, y = pixels()
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(InvalidInput) as error:
        Images(path=str(tmp_path / "a.npz"), **params).data()
    assert error.value.field == f"task.params.{field}"


@pytest.mark.parametrize("shape", [(6, 6), (1, 1), (2, 9)])
def test_pooling_ends_where_nothing_is_left(tmp_path: Path, shape: tuple[int, int]) -> None:
    x, y = pixels(shape=shape)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    task = Images(path=str(tmp_path / "a.npz"))
    model = task.model({"model.layers": 5, "model.width": 2})
    assert model(part(task, "train").x[:4]).shape == (4, 3)
