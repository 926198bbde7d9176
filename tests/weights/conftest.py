"""The server that downloads of tests come from."""

from collections.abc import Iterator

import pytest

from tests.weights import serving


@pytest.fixture
def server() -> Iterator[serving.Server]:
    """A server on this machine."""
    with serving.running() as running:
        yield running


@pytest.fixture
def hugging_face(server: serving.Server, monkeypatch: pytest.MonkeyPatch) -> serving.Server:
    """The server, taken for the hub; the client's own cache is not touched."""
    monkeypatch.setenv("HF_ENDPOINT", server.base)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return server
