"""The page in a real browser: what is dropped or typed is predicted and explained, on any screen."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl import signals
from jtl.serve import server
from tests.serve import browser
from tests.serve.conftest import make_served, png

pytestmark = pytest.mark.slow
ANSWERED = "document.querySelectorAll('article').length === {0} && !document.querySelector('article.waiting')"


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Function that serves a tiny model and returns its address."""
    stop, threads = signals.StopRequest(), list[threading.Thread]()

    def start(family: str, **changes: object) -> str:
        made, ready, served = server.bound("127.0.0.1", 0), threading.Event(), make_served(family, **changes)
        url = server.url_of(made)
        threads.append(threading.Thread(target=server.run, args=(served, made, stop, ready.set)))
        threads[-1].start()
        assert ready.wait(100)
        return url

    yield start
    stop.ask(signal.SIGTERM)
    for each in threads:
        each.join(60)


@pytest.mark.parametrize("width", [390, 1280])
def test_picture_that_is_dropped_is_predicted_and_explained(
    start: Callable[..., str], tmp_path: Path, width: int
) -> None:
    url = start("vit")
    picture = tmp_path / "a <b>cat.png"
    picture.write_bytes(png(0, 60))
    with browser.opened(tmp_path / "profile") as page:
        page.open(url, width, 900)
        page.until("document.title === 'tiny'")
        page.drop("#drop", picture)
        page.until(ANSWERED.format(1))
        assert page.value("document.querySelector('.name').textContent") == picture.name
        labels = page.value("[...document.querySelectorAll('.classes .label')].map(e => e.textContent)")
        assert sorted(labels) == ["ant", "bee", "cow"]
        source = "document.querySelector('.picture').src.slice(0, 5)"
        assert page.value(source) == "data:"
        page.until("document.querySelector('.picture').naturalWidth > 0")
        page.value("document.querySelector('.toggle input').click()")
        assert page.value(source) == "blob:"
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        page.picture(tmp_path / "page.png")
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no picture")
        page.drop("#drop", broken)
        page.until(ANSWERED.format(2))
        assert "none of JPEG" in page.value("document.querySelector('article .note').textContent")
        # The refusal itself, which the page shows, is all that the browser complains of.
        assert [each for each in page.problems if "422" not in each] == []
    with Image.open(tmp_path / "page.png") as shown:
        assert min(shown.size) >= 390


def test_text_that_is_typed_is_predicted_and_its_tokens_coloured(
    start: Callable[..., str], tmp_path: Path
) -> None:
    url = start("bert")
    with browser.opened(tmp_path / "profile") as page:
        page.open(url, 1280, 900)
        page.until("document.title === 'tiny'")
        page.value("document.getElementById('text').value = 'a <i>good</i> film'")
        page.value("document.getElementById('send').click()")
        page.until(ANSWERED.format(1))
        assert page.value("document.querySelectorAll('.classes li').length") == 3
        assert page.value("document.querySelectorAll('.text .token').length") > 3
        assert page.value("document.querySelectorAll('article i').length") == 3
        assert page.problems == []


def test_page_asks_for_a_key_where_the_server_has_one(start: Callable[..., str], tmp_path: Path) -> None:
    url = start("vit", key="s3cret")
    with browser.opened(tmp_path / "profile") as page:
        page.open(url, 390, 900)
        page.until("!document.getElementById('key-form').hidden")
        page.value("document.getElementById('key').value = 's3cret'")
        page.value("document.querySelector('#key-form button').click()")
        page.until("document.title === 'tiny'")
        assert page.value("document.getElementById('key-form').hidden")


def test_page_is_dark_where_the_screen_is(start: Callable[..., str], tmp_path: Path) -> None:
    url, lightness = start("vit"), []
    with browser.opened(tmp_path / "profile") as page:
        for is_dark in (False, True):
            page.open(url, 800, 600, is_dark=is_dark)
            page.until("document.title === 'tiny'")
            page.picture(tmp_path / "page.png")
            with Image.open(tmp_path / "page.png") as shown:
                lightness.append(float(np.asarray(shown.convert("L")).mean()))
    assert lightness[0] > 200 > 80 > lightness[1]
