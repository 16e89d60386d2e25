"""A file is whole or as it was, whatever happens while it is written."""

from pathlib import Path

import pytest

from lmplay_tui.files import replacing, sync, write_whole


def test_a_file_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for data in (b"first", b"second"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_block_ends_the_old_file_is_there(tmp_path: Path) -> None:
    path, beside = tmp_path / "a", tmp_path / ".mine"
    path.write_bytes(b"old")
    with replacing(path, beside) as temporary:
        assert temporary == beside
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a", b"")
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")


def test_files_and_folders_are_synced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    sync(path)
    sync(tmp_path)
