"""What tests of checkpoints share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def older_objects_frozen() -> Iterator[None]:
    """Spare collections the second or two that looking through what other modules left takes."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def collected(older_objects_frozen: None) -> Iterator[None]:
    """Collect, after the test, the coroutines of Orbax that it left unawaited."""
    del older_objects_frozen
    yield
    gc.collect()
