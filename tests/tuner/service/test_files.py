from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tuner.service.simulation import spec
from tuner import service
from tuner.errors import InvalidInput, UnknownName
from tuner.service import Context, ServiceSettings
from tuner.spec import StudySpec

TEXT = "the quick brown fox jumps over the lazy dog, again and again. " * 200


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder for data, beside one that is none of the server's business."""
    for name in ("data", "data-private"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(TEXT)
    return tmp_path / "data"


@pytest.fixture
def guarded(ctx: Context, root: Path) -> Context:
    settings = ServiceSettings(data_roots=(root / "nothing-here", root))
    return Context(ctx.db, ctx.now, settings)


def study(path: Any, **params: Any) -> StudySpec:
    return spec(task={"name": "text", "params": {"path": path, **params}})


@pytest.mark.parametrize("use", [service.submit, service.preview])
def test_files_below_a_root_are_taken(guarded: Context, root: Path, use: Any) -> None:
    assert use(guarded, study(str(root / "text.txt")))


@pytest.mark.parametrize("use", [service.submit, service.preview])
@pytest.mark.parametrize(
    "path",
    [
        "{root}/../data-private/text.txt",
        "{root}-private/text.txt",
        "{root}/link.txt",
        "{root}/folder/text.txt",
        "{root}/loop",
        "/etc/passwd",
        "text.txt",
        "{root}/text\0.txt",
        7,
    ],
)
def test_files_elsewhere_are_refused(
    guarded: Context, root: Path, monkeypatch: pytest.MonkeyPatch, use: Any, path: Any
) -> None:
    monkeypatch.chdir(root.parent / "data-private")
    (root / "link.txt").symlink_to(root.parent / "data-private" / "text.txt")
    (root / "folder").symlink_to(root.parent / "data-private")
    (root / "loop").symlink_to(root.parent / "data-private" / "loop")
    (root.parent / "data-private" / "loop").symlink_to(root / "loop")
    given = path.format(root=root) if isinstance(path, str) else path
    with pytest.raises(InvalidInput) as caught:
        use(guarded, study(given))
    assert caught.value.field == "task.params.path"
    assert service.list_studies(guarded).items == []


def test_the_refusal_says_what_to_do(guarded: Context, root: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"'/etc/passwd' is outside .*TUNER_DATA_ROOTS"
    ) as caught:
        service.submit(guarded, study("/etc/passwd"))
    assert str(root) in caught.value.message


def test_whether_a_file_exists_elsewhere_is_not_told(guarded: Context) -> None:
    found = []
    for path in ("/etc/passwd", "/etc/no-such-file"):
        with pytest.raises(InvalidInput) as caught:
            service.submit(guarded, study(path))
        found.append(caught.value.message.replace(path, "PATH"))
    assert found[0] == found[1]


def test_weights_to_start_from_are_files_too(guarded: Context, root: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        service.submit(guarded, study(str(root / "text.txt"), checkpoint="/etc/passwd"))
    assert caught.value.field == "task.params.checkpoint"


def test_a_link_between_two_roots_is_fine(ctx: Context, root: Path) -> None:
    other = root.parent / "data-private"
    (root / "link.txt").symlink_to(other / "text.txt")
    both = Context(ctx.db, ctx.now, ServiceSettings(data_roots=(root, other)))
    assert service.submit(both, study(str(root / "link.txt"))).state == "queued"


def test_studies_without_files_need_no_root(ctx: Context) -> None:
    none = Context(ctx.db, ctx.now, ServiceSettings(data_roots=()))
    assert service.submit(none, spec()).state == "queued"
    assert service.submit(none, spec("own", task=None)).state == "queued"


def test_an_unknown_task_is_named_as_ever(guarded: Context) -> None:
    with pytest.raises(UnknownName):
        service.submit(guarded, spec(task={"name": "txt", "params": {"path": "/etc/passwd"}}))


def test_a_service_of_ones_own_reads_any_file(ctx: Context, root: Path) -> None:
    """As ``tuner run`` does: who can start it can read the file anyway."""
    assert service.submit(ctx, study(str(root.parent / "data-private" / "text.txt"))).id
