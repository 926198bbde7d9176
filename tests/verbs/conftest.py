"""What all tests of verbs run under: a batch takes nothing to the devices but itself."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import pytest

from jtl.training import evaluate


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
