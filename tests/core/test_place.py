"""Places: a path is looked up once, name by name, and everything after that goes through the held folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.core.errors import StageFailed
from release_tasks.core.place import Place, find, found, trusted

USER = 54321

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: folders of another user: needs root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder ``data`` of another user with a file ``app.db``; ``vault`` next to it is root's."""
    for name in ("data", "vault"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.db").write_text(name)
    if os.geteuid() == 0:
        for path in (tmp_path / "data", tmp_path / "data" / "app.db"):
            os.chown(path, USER, USER)
    return tmp_path / "data"


def exchange(folder: Path) -> None:
    """Put a link to ``vault`` in the place of the folder."""
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(folder.with_name("vault"))


READS: dict[str, Callable[[Place], object]] = {
    "open": lambda place: os.pread(place.open(), 10, 0),
    "look": lambda place: place.look(),
    "names": lambda place: place.names(),
    "reference": lambda place: Path(place.reference).read_text(),
}


@pytest.mark.parametrize("name", READS)
def test_a_held_place_is_read_in_the_folder_that_was_found(folder: Path, name: str) -> None:
    """Although its path leads elsewhere now."""
    with found(folder / "app.db") as place:
        before = READS[name](place)
        exchange(folder)
        assert READS[name](place) == before


WRITES: dict[str, Callable[[Place], object]] = {
    "new file": lambda place: os.close(place.sibling("new").open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    "folder": lambda place: place.sibling("new").make_folder(),
    "tree": lambda place: place.sibling("new").new_tree().close(),
    "remove": lambda place: place.remove(),
    "unlink": lambda place: place.unlink(),
    "rename": lambda place: place.rename(place.sibling("renamed")),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_held_place_is_changed_in_the_folder_that_was_found(folder: Path, name: str) -> None:
    """The folder that the path leads to now stays as it is."""
    vault = folder.with_name("vault")
    with found(folder / "app.db") as place:
        exchange(folder)
        before = sorted(os.listdir(folder.with_name("moved")))
        WRITES[name](place)
    assert sorted(os.listdir(folder.with_name("moved"))) != before
    assert {path.name: path.read_text() for path in vault.iterdir()} == {"app.db": "vault"}


def test_exchange_of_two_places_and_flushes(folder: Path) -> None:
    """Both names stay in the held folder."""
    (folder / "other").write_text("other")
    with found(folder / "app.db") as place:
        place.exchange(place.sibling("other"))
        place.flush()
        place.flush_file()
        place.flush_folder()
    assert ((folder / "app.db").read_text(), (folder / "other").read_text()) == ("other", "data")


def test_the_last_name_is_never_followed(folder: Path) -> None:
    """A link in the last place is a link."""
    link = folder / "link"
    link.symlink_to(folder / "app.db")
    with found(link) as place:
        assert stat.S_ISLNK(place.info().st_mode) and place.read_link() == str(folder / "app.db")
        with pytest.raises(OSError, match="Too many levels"):
            place.open()
        place.remove()
    assert (folder / "app.db").read_text() == "data"


@as_root
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_root_follows_a_link_of_root_alone(folder: Path, relative: bool) -> None:
    """In a folder of root; a link of another user is refused, and so is one that another user can exchange."""
    link = folder.parent / "link"
    link.symlink_to("data" if relative else folder)
    with found(link / "app.db") as place:
        assert place.look() is not None
    os.lchown(link, USER, USER)
    with pytest.raises(StageFailed, match=rf"{link} is a link that uid {USER} made, and root does not follow it"):
        found(link / "app.db").__enter__()
    inner = folder / "inner"
    inner.symlink_to(folder.with_name("vault"))
    with pytest.raises(StageFailed, match=rf"{inner} is a link that uid {USER} can exchange"):
        found(inner / "app.db").__enter__()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, FileNotFoundError),
        (lambda path: path.write_text(""), NotADirectoryError),
        (lambda path: path.symlink_to(path.name), OSError),
        (lambda path: path.symlink_to("nothing"), FileNotFoundError),
    ],
    ids=["missing", "file", "loop", "dead link"],
)
def test_a_folder_that_does_not_exist(tmp_path: Path, make: Callable[[Path], object], error: type[OSError]) -> None:
    """``found`` raises, and ``find`` yields None."""
    make(tmp_path / "folder")
    with pytest.raises(error) as raised, found(tmp_path / "folder" / "app.db"):
        pass
    assert raised.value.filename == str(
        tmp_path / "folder" if error is not FileNotFoundError else raised.value.filename
    )
    with find(tmp_path / "folder" / "app.db") as place:
        assert place is None


@as_root
def test_the_stranger_who_may_exchange_a_place(tmp_path: Path) -> None:
    """The owner of a folder; all users or a group for an open folder; in a sticky folder the owner of the name."""

    def stranger(path: Path) -> str | None:
        with found(path) as place:
            return place.stranger

    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    os.chown(top, 0, 4)
    cases = {0o755: None, 0o775: "group 4", 0o777: "every user", 0o1777: None}
    for mode, expected in cases.items():
        top.chmod(mode)
        assert stranger(top / "inner" / "name") == expected, oct(mode)
    assert stranger(top / "missing") == "every user"  # each user can make it in a sticky folder
    os.chown(top / "inner", USER, USER)
    assert stranger(top / "inner") == stranger(top / "inner" / "name") == f"uid {USER}"
    os.chown(top, USER, USER)
    assert stranger(top / "inner") == f"uid {USER}"
    assert trusted(top / "inner").stranger is None


@as_root
@pytest.mark.parametrize(
    ("uid", "links", "is_refused"),
    [(USER, 1, False), (USER, 2, False), (0, 1, False), (0, 2, True), (54322, 2, True)],
)
def test_root_writes_to_no_file_that_can_be_of_another_user(
    folder: Path, uid: int, links: int, is_refused: bool
) -> None:
    """A file with a second name that is not of the owner of the folder."""
    path = folder / "app.db"
    os.chown(path, uid, uid)
    if links > 1:
        os.link(path, folder.with_name("second"))
    with found(path) as place, place.opened(os.O_RDWR) as fd:
        if not is_refused:
            place.require_writable(fd)
            return
        with pytest.raises(
            StageFailed, match=f"{path} belongs to .*uid {USER} may write its folder.*Remove the other names"
        ):
            place.require_writable(fd)
        folder.with_name("second").unlink()
        path.rename(folder / "away")  # one name, and another place
        with pytest.raises(StageFailed):
            place.require_writable(fd)


@as_root
def test_a_new_tree_that_was_exchanged_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of the folder puts a folder of his own in its place."""
    real = os.mkdir

    def mkdir(path: str, mode: int, *, dir_fd: int | None = None) -> None:
        real(path, mode, dir_fd=dir_fd)
        os.rename(folder / "new", folder / "away")
        real(folder / "new", 0o700)
        os.chown(folder / "new", USER, USER)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with found(folder / "new") as place, pytest.raises(StageFailed, match="was exchanged by another process"):
        place.new_tree()
