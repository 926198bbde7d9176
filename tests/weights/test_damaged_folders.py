"""Folders of weights that are cut, changed or hostile give one clear line, and lead nowhere else."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jtl.errors import UserError
from jtl.weights.formats.orbax_folder import METADATA
from jtl.weights.open import open_path
from tests.weights import writing

NUM_FUZZED = 60


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small sound checkpoints: in a database, and as plain folders."""
    folder = tmp_path_factory.mktemp("orbax")
    tree = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}}
    for name, settings in {"database": {}, "folders": {"use_ocdbt": False}}.items():
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**settings)) as checkpointer:
            checkpointer.save(folder / name, args=ocp.args.PyTreeSave(tree))
    return {name: folder / name for name in ("database", "folders")}


def copied(sound: dict[str, Path], kind: str, folder: Path) -> Path:
    return Path(shutil.copytree(sound[kind], folder / "x", dirs_exist_ok=True))


def open_and_read(path: Path) -> None:
    for tensor in open_path(path).tensors.values():
        assert tensor.read().shape == tensor.shape


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Change what a JSON file says."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def rename(content: dict[str, Any], *names: str) -> None:
    leaf = content["tree_metadata"]["('params', 'a')"]
    leaf["key_metadata"] = [{"key": name, "key_type": 2} for name in names]


HOSTILE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "metadata cut": (
        "database",
        lambda path: (path / METADATA).write_text('{"tree_metadata'),
        "_METADATA of Orbax checkpoint .* is damaged .JSONDecodeError",
    ),
    "metadata a list": (
        "database",
        lambda path: (path / METADATA).write_text("[]"),
        "is damaged .AttributeError",
    ),
    "metadata empty": ("database", lambda path: (path / METADATA).write_text("{}"), "is damaged .KeyError"),
    "metadata deep": ("database", lambda path: (path / METADATA).write_text("[" * 10**5), "RecursionError"),
    "metadata huge": (
        "database",
        lambda path: os.truncate(path / METADATA, 1 << 32),
        "4294967296 bytes; expected at most",
    ),
    "leaf outside": (
        "folders",
        lambda path: change(path / METADATA, lambda content: rename(content, "..", "..", "etc")),
        r"is damaged .ValueError: a leaf at \('..', '..', 'etc'\)",
    ),
    "leaf of another folder": (
        "folders",
        lambda path: change(path / METADATA, lambda content: rename(content, "../../secret")),
        "names the folder '../../secret/'; expected one inside it",
    ),
    "leaf missing": (
        "database",
        lambda path: change(path / METADATA, lambda content: rename(content, "params", "c")),
        "leaf 'params/c' of Orbax checkpoint .* cannot be read",
    ),
    "folder missing": (
        "folders",
        lambda path: shutil.rmtree(path / "params.a"),
        "leaf 'params/a' .* cannot be read",
    ),
    "part missing": (
        "folders",
        lambda path: (path / "params.a" / "0.0").unlink(),
        "leaf 'params/a' .* cannot be",
    ),
    "part cut": (
        "folders",
        lambda path: (path / "params.a" / "0.0").write_bytes(b"\x28\xb5\x2f\xfd"),
        "leaf 'params/a' .* cannot be read",
    ),
    "shape without measure": (
        "folders",
        lambda path: change(
            path / "params.a" / ".zarray", lambda content: content.update(shape=[1 << 30, 1 << 20])
        ),
        "would expand to 4503599627370512 bytes from",
    ),
    "no numbers": (
        "folders",
        lambda path: change(path / "params.a" / ".zarray", lambda content: content.update(dtype="|O")),
        "leaf 'params/a' .* cannot be read",
    ),
    "database missing": (
        "database",
        lambda path: [each.unlink() for each in (path / "d").iterdir()],
        "cannot be read",
    ),
    "database cut": (
        "database",
        lambda path: (path / "manifest.ocdbt").write_bytes(b"\x0c"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_orbax_checkpoint_is_one_error(sound: dict[str, Path], tmp_path: Path, name: str) -> None:
    kind, damage, message = HOSTILE[name]
    path = copied(sound, kind, tmp_path)
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        open_and_read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["database", "folders"])
def test_changed_bytes_of_orbax_give_the_error_or_tensors(
    sound: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    random = np.random.default_rng(0)
    path = copied(sound, kind, tmp_path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    for _ in range(NUM_FUZZED):
        chosen = files[random.integers(len(files))]
        content = chosen.read_bytes()
        changed = bytearray(content)
        for position in random.integers(0, len(content), min(3, len(content))):
            changed[position] = random.integers(0, 256)
        chosen.write_bytes(changed)
        with contextlib.suppress(UserError):
            open_and_read(path)
        chosen.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged .JSONDecodeError"),
        (b"[]", "is damaged .TypeError"),
        (b"{}", "is damaged .KeyError: 'weight_map'"),
        (b'{"weight_map": []}', "is damaged .AttributeError|maps no tensors"),
        (b'{"weight_map": {}}', "maps no tensors to files"),
        (b'{"weight_map": {"a": 1}}', "maps no tensors to files"),
        (b"[" * 100_000, "is damaged .RecursionError"),
        (b'{"weight_map": {"a": "../secret"}}', "names the shard '../secret'; .* nothing was opened"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "names the shard '/etc/passwd'; .* nothing was opened"),
        (b'{"weight_map": {"a": "..\\\\x"}}', "names the shard .* nothing was opened"),
        (b'{"weight_map": {"a": ".."}}', "names the shard '..'; .* nothing was opened"),
        (b'{"weight_map": {"a": "x.index.json"}}', "names the shard 'x.index.json'; .* nothing was opened"),
        (b'{"weight_map": {"a": "missing"}}', "are not a file; expected safetensors"),
    ],
)
def test_hostile_index_is_one_error(tmp_path: Path, content: bytes, message: str) -> None:
    writing.save_safetensors(tmp_path.parent / "secret", {"a": np.ones(1)})
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_path(tmp_path)
    assert "\n" not in str(caught.value)


def test_huge_index_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors.index.json").open("wb") as stream:
        stream.truncate(1 << 32)
    with pytest.raises(UserError, match="has 4294967296 bytes; expected at most"):
        open_path(tmp_path)
