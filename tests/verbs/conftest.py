"""What all tests of verbs run under: a batch takes nothing to the devices but itself."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl.training import evaluate
from jtl.weights import FAMILIES
from tests.weights import writing

NUM_IMAGES = 5


@pytest.fixture(autouse=True, scope="module")
def _values_stay_on_the_devices() -> Iterator[None]:
    """Refuse what is copied to the devices unasked: values on the host are, whole, with every batch."""
    ahead = evaluate.ahead

    def guarded(begin: Any, batches: Iterable[Any], **options: Any) -> Iterator[Any]:
        def watched(batch: Any) -> Any:
            with jax.transfer_guard_host_to_device("disallow"):
                return begin(batch)

        return ahead(watched, batches, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "ahead", guarded)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CIFAR ResNet of three classes in PyTorch's names."""
    origin = FAMILIES["cifar_resnet"].origins["pytorch_resnet_cifar10"]
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(writing.named(origin, writing.leaves_of("cifar_resnet")), path)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of a class, five images in all."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(NUM_IMAGES):
        path = folder / ("ants" if index % 2 else "bees") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 36, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder
