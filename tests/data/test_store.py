"""The store of arrays: what is believed, what is not, who waits, what goes first."""

import errno
import multiprocessing
import multiprocessing.context
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jtl import files
from jtl.data import entry, store
from jtl.data.store import Store, kept

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)


@pytest.fixture
def place(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "arrays", 1 << 20)


@pytest.fixture
def said() -> list[str]:
    return []


def write(writer: entry.Writer) -> None:
    """Two arrays, row by row and all at once."""
    for row in ROWS:
        writer.append("rows", row[None])
    writer.append("pixels", np.arange(10, dtype=np.uint8))


def refuse(writer: entry.Writer) -> None:
    raise AssertionError(f"written again: {writer}")


def keep(
    place: Store,
    said: list[str],
    key: str = "a",
    make: Callable[[entry.Writer], None] = write,
    num_bytes: int = 106,
) -> entry.Entry | None:
    return kept(place, key, make, num_bytes=num_bytes, about="decoded images", say=said.append)


def test_what_is_written_comes_back_mapped_and_is_not_written_again(place: Store, said: list[str]) -> None:
    for make in (write, refuse):
        found = keep(place, said, make=make)
        assert found is not None
        assert isinstance(found.arrays["rows"], np.memmap)
        assert not found.arrays["rows"].flags.writeable
        np.testing.assert_array_equal(found.arrays["rows"], ROWS)
        np.testing.assert_array_equal(found.arrays["pixels"], np.arange(10))
        assert found.num_bytes == 106
        found.close()
    assert said == []


def test_folders_are_for_their_user_alone(place: Store, said: list[str]) -> None:
    assert keep(place, said) is not None
    assert [path.stat().st_mode & 0o777 for path in (place.folder, place.folder / "a")] == [0o700, 0o700]


def test_an_entry_crosses_to_another_process(place: Store, said: list[str]) -> None:
    found = keep(place, said)
    assert found is not None
    copy = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copy.arrays["rows"], ROWS)


def _flipped(folder: Path, name: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])


def _removed(folder: Path, name: str) -> None:
    (folder / name).unlink()


def _renamed(folder: Path, name: str) -> None:
    del name
    folder.rename(folder.with_name("b"))


@pytest.mark.parametrize(
    ("damage", "name", "told"),
    [
        (_flipped, "rows.bin", "rows.bin differs from byte 0 on"),
        (_flipped, "entry.json", "entry.json is not what was written"),
        (_cut, "rows.bin", "rows.bin has 95 bytes, expected 96"),
        (_cut, "entry.json", "entry.json is not what was written"),
        (_removed, "pixels.bin", "pixels.bin is missing"),
        (_removed, "entry.json", ""),
        (_renamed, "", "of a"),
    ],
)
def test_damage_is_named_and_the_entry_made_anew(
    place: Store, said: list[str], damage: Callable[[Path, str], None], name: str, told: str
) -> None:
    first = keep(place, said)
    assert first is not None
    first.close()
    damage(place.folder / "a", name)
    key = "b" if damage is _renamed else "a"
    again = keep(place, said, key)
    assert again is not None
    np.testing.assert_array_equal(again.arrays["rows"], ROWS)
    assert said == ([f"kept decoded images are damaged ({told}) and are made anew"] if told else [])
    assert keep(place, said, key, refuse) is not None


def test_another_version_is_made_anew(place: Store, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "FORMAT", entry.FORMAT - 1)
        keep(place, said)
    said.clear()
    assert keep(place, said) is not None
    assert said == ["kept decoded images are damaged (of format 0, expected 1) and are made anew"]


def test_blocks_are_checked_each_by_itself(
    place: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "BLOCK_BYTES", 40)
    first = keep(place, said)
    assert first is not None
    _flipped(place.folder / "a", "rows.bin")
    with pytest.raises(entry.Damaged, match="from byte 40 on"):
        store.opened(place, "a")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_told_in_one_line_and_leaves_nothing(
    place: Store, said: list[str], number: int
) -> None:
    def fail(writer: entry.Writer) -> None:
        write(writer)
        raise OSError(number, os.strerror(number))

    assert keep(place, said, make=fail) is None
    assert said == [f"decoded images are not kept: {str(place.folder)!r} fails ({os.strerror(number)})"]
    assert [each.name for each in place.folder.iterdir()] == ["a.lock"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    place = Store(tmp_path / "file" / "arrays", 1 << 20)
    assert keep(place, said) is None
    assert said == [f"decoded images are not kept: {str(place.folder)!r} fails (Not a directory)"]


def test_an_error_of_the_writer_leaves_nothing(place: Store, said: list[str]) -> None:
    def fail(writer: entry.Writer) -> None:
        write(writer)
        raise ValueError("a bad example")

    with pytest.raises(ValueError, match="a bad example"):
        keep(place, said, make=fail)
    assert not store.is_there(place, "a")
    assert list(place.folder.glob("*.part")) == []


def test_the_entry_unused_for_longest_goes_first(place: Store, said: list[str]) -> None:
    for order, key in enumerate("abc"):
        found = keep(place, said, key)
        assert found is not None
        found.close()
        os.utime(place.folder / key / entry.HEADER, (order, order))
    opened = store.opened(place, "a")
    assert opened is not None
    opened.close()
    room = Store(place.folder, 3 * store._size(place.folder / "a") + 50)
    assert keep(room, said, "d") is not None
    assert [store.is_there(place, key) for key in "abcd"] == [True, False, True, True]


def test_what_is_in_use_stays_and_what_finds_no_room_is_told(place: Store, said: list[str]) -> None:
    held = keep(place, said, "a")
    assert held is not None
    small = Store(place.folder, store._size(place.folder / "a") + 50)
    assert keep(small, said, "b") is None
    assert said[0].startswith("decoded images are not kept: 106 bytes or more of them are over what is free")
    held.close()
    assert keep(small, said, "b") is not None
    assert not store.is_there(place, "a")


def test_more_than_was_said_is_not_written_over_the_bound(place: Store, said: list[str]) -> None:
    assert keep(Store(place.folder, 60), said, num_bytes=10) is None
    assert len(said) == 1
    assert list(place.folder.glob("*.part")) == []


def test_what_a_killed_writer_left_is_not_believed_and_goes(place: Store, said: list[str]) -> None:
    place.folder.mkdir(parents=True)
    left = place.folder / files.PART.format(name="a", mark="1-ff")
    left.mkdir()
    writer = entry.Writer(left, 1 << 20)
    write(writer)
    entry.write_header(left, {"format": entry.FORMAT, "key": "a", "arrays": writer.finish()})
    assert store.opened(place, "a") is None
    assert keep(place, said, "b") is not None
    assert not left.exists()


def _keep_there(place: Store, results: "multiprocessing.Queue[int]") -> None:
    """Write in another process; say how often it was written there."""
    counted: list[int] = []

    def count(writer: entry.Writer) -> None:
        counted.append(1)
        write(writer)

    found = keep(place, [], make=count)
    assert found is not None
    assert np.array_equal(found.arrays["rows"], ROWS)
    results.put(len(counted))


@pytest.fixture
def processes() -> multiprocessing.context.SpawnContext:
    return multiprocessing.get_context("spawn")


@pytest.mark.slow
def test_of_two_processes_one_writes(place: Store, processes: multiprocessing.context.SpawnContext) -> None:
    results = processes.Queue()
    both = [processes.Process(target=_keep_there, args=(place, results)) for _ in range(2)]
    for each in both:
        each.start()
    counts = [results.get(timeout=60) for _ in both]
    for each in both:
        each.join()
    assert sorted(counts) == [0, 1]


def test_who_comes_second_waits_and_reads(place: Store, said: list[str]) -> None:
    """The lock is another's: whoever waits finds the entry when it is given back."""
    place.folder.mkdir(parents=True)
    lock = store.FileLock(store._lock_path(place, "a"))
    lock.acquire()

    def tell(line: str) -> None:
        said.append(line)
        lock.release()

    found = kept(place, "a", write, num_bytes=106, about="decoded images", say=tell)
    assert found is not None
    assert said == ["another process writes the decoded images: waiting for it"]


@pytest.mark.parametrize(
    ("surroundings", "expected"),
    [
        ({"JTL_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b/x"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/jtl/x"),
        ({"HOME": "/h"}, "/h/.cache/jtl/x"),
    ],
)
def test_the_cache_lies_where_the_user_says(
    surroundings: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JTL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    assert files.cache_folder("x") == Path(expected)
