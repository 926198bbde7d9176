"""The route of training examples: which is chosen and why, what is refused, and that a run keeps its own."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.data import SOURCES, Labels, Source, cache
from jtl.data.entry import HEADER
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess
from jtl.strategies.contract import TRAIN
from jtl.training import config, routes, sharding
from jtl.training import run as train
from jtl.training.dispatch import Dispatches

AUGMENT = Augment(crop_scale=(0.5, 1.0))

TINY: dict[str, Any] = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16},
    "data": {"name": "image_folder", "val_fraction": 0.0},
    "augment": {"crop_scale": (0.5, 1.0)},
    "train": {"steps": 6, "batch_size": 4, "checkpoint_every": 2, "log_every": 1},
    "sharding": {"devices": 1},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten JPEG files of two classes."""
    root = tmp_path_factory.mktemp("images")
    for place in range(10):
        folder = root / "ab"[place % 2]
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 256, (13, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.jpg")
    return root


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "kept"))


def settings_of(path: Path, **changes: Any) -> config.Config:
    found = config.from_dict({**TINY, "data": {**TINY["data"], "path": str(path)}})
    return config.with_overrides(
        found, [(name.replace("__", "."), str(each)) for name, each in changes.items()]
    )


def opened(
    settings: config.Config, source: Source, *, begun: str = "", said: list[str] | None = None
) -> routes.Routed:
    parts: Any = SimpleNamespace(
        input=INPUTS["image"],
        preprocess=Preprocess((8, 8), 9),
        augment=AUGMENT,
        num_steps=6,
        strategy=SimpleNamespace(streams={}),
    )
    mesh = sharding.mesh(settings.sharding)
    say = ([] if said is None else said).append
    return routes.opened(settings, parts, {TRAIN: source}, mesh, begun=begun, say=say)


def source_of(path: Path) -> Source:
    kind = SOURCES["image_folder"]
    settings = kind.Config(name="image_folder", path=str(path), val_fraction=0.0)
    return kind.open(settings, Labels())["train"]


def test_files_that_are_read_twice_or_more_are_kept(images: Path) -> None:
    routed = opened(settings_of(images), source_of(images))
    assert routed.name == "cache"
    assert isinstance(routed.streams[TRAIN], cache.Cached)
    assert routed.lines() == [
        "inputs.route: cache (7.6 KiB of images read are kept, short side at most 14 px)"
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train__batch_size": 3}, "each of the images is read about 1.8 times"),
        (
            {"inputs__store_bytes": 7000},
            "7.6 KiB of images read are more than inputs.store_bytes, 6.8 KiB",
        ),
        ({"inputs__route": "stream"}, "as set"),
    ],
)
def test_otherwise_they_are_read_anew(images: Path, changes: dict[str, Any], reason: str) -> None:
    source = source_of(images)
    assert opened(settings_of(images, **changes), source) == routes.Routed({TRAIN: source}, "stream", reason)


def test_pixels_are_not_kept_once_more() -> None:
    kind = SOURCES["digits"]
    source = kind.open(kind.Config(name="digits"), Labels())["train"]
    settings = config.from_dict({**TINY, "data": {"name": "digits"}, "train": {"batch_size": 2000}})
    assert opened(settings, source).reason == "nothing of the images needs decoding"


def test_what_is_set_is_done_whatever_it_pays(images: Path) -> None:
    routed = opened(settings_of(images, inputs__route="cache", train__batch_size=1), source_of(images))
    assert (routed.name, routed.reason) == ("cache", "as set")


def test_a_run_keeps_the_route_it_began_with(images: Path) -> None:
    source = source_of(images)
    for begun in ("stream", "cache"):
        routed = opened(settings_of(images), source, begun=begun)
        assert (routed.name, routed.reason) == (begun, "as the run began")


def test_a_route_that_cannot_be_had_any_more_is_told(images: Path) -> None:
    said: list[str] = []
    settings = settings_of(images, inputs__store_bytes=1)
    routed = opened(settings, source_of(images), begun="cache", said=said)
    assert (routed.name, routed.reason) == ("stream", "images could not be kept")
    assert said[0].startswith("images of ")
    assert said[1] == (
        "this run began with inputs.route=cache: from here on its batches are not as they would be"
    )


def test_unknown_route_is_refused(images: Path) -> None:
    with pytest.raises(UserError, match=r"inputs\.route 'cahce' is unknown; nearest: 'cache'"):
        settings_of(images, inputs__route="cahce")


def test_kinds_that_are_not_kept_refuse_other_routes(images: Path) -> None:
    source = source_of(images)
    of_text = {"input": INPUTS["tokens"], "preprocess": None, "augment": object(), "num_steps": 6}
    parts: Any = SimpleNamespace(**of_text, strategy=SimpleNamespace(streams={}))
    settings = settings_of(images)
    mesh = sharding.mesh(settings.sharding)
    routed = routes.opened(settings, parts, {TRAIN: source}, mesh, begun="", say=print)
    assert routed.lines() == []
    with pytest.raises(UserError, match=r"inputs\.route is 'cache', and texts are read anew every time"):
        routes.opened(
            settings_of(images, inputs__route="cache"), parts, {TRAIN: source}, mesh, begun="", say=print
        )


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("damage", [False, True])
def test_a_run_of_the_cache_stopped_and_resumed_ends_in_the_bits_of_the_stream(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, damage: bool
) -> None:
    whole = train.run(settings_of(images, inputs__route="stream"), tmp_path / "whole")
    settings, folder = settings_of(images), tmp_path / "cut"
    read = Dispatches.spans

    def cut(*args: Any) -> Any:
        for number, batch in enumerate(read(*args)):
            if number == 3:
                raise RuntimeError("cut")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Dispatches, "spans", cut)
        with pytest.raises(RuntimeError, match="cut"):
            train.run(settings, folder)
    assert json.loads((folder / "meta.json").read_text())["route"] == "cache"
    header = next((tmp_path / "kept" / cache.FOLDER).glob(f"*/{HEADER}"))
    values = header.with_name("values.bin")
    if damage:
        data = bytearray(values.read_bytes())
        data[7] ^= 1
        values.write_bytes(data)
    found = train.run(settings, folder)
    assert found["digest"] == whole["digest"]
    about = json.loads((folder / "meta.json").read_text())
    assert (about["route"], about["notes"][-1]) == ("cache", "inputs.route: cache (as the run began)")
