"""`jtl serve`: what it says, what it refuses before anything is loaded, and with which code it ends."""

import importlib.util
import json
import signal
from typing import Any

import pytest

from jtl import cli
from jtl.errors import UserError
from jtl.serve import server
from jtl.serve.settings import Settings
from jtl.signals import Stopped
from jtl.verbs import serve

ONE = (("sharding.devices", "1"), ("model.image_px", "16"))
DONE = server.Ended(was_ready=True, num_cut=0)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that says how the server, which never runs, comes to its end."""

    def end(how: server.Ended = DONE) -> None:
        def run(served: Any, made: Any, stop: Any, on_warm: Any) -> server.Ended:
            stop.ask(signal.SIGTERM)
            served.counters.answered("/v1/predict", 200, 0.1)
            on_warm()
            return how

        monkeypatch.setattr(server, "run", run)

    return end


def test_what_is_served_where_and_how_it_is_asked_is_said(
    weights: str, ending: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ending()
    found = serve.run(weights=weights, port=0, settings=Settings(max_batch=4), overrides=ONE)
    told = capsys.readouterr().err
    url = found["url"]
    for line in (
        "bound to 127.0.0.1: reached from this machine alone (--host 0.0.0.0: from others)",
        "compiling 4 programs",
        f"at {url}: batches of 1, 2, 4",
        "explained by Grad-CAM",
        f"look at: {url}",
        f"next: curl -F file=@PHOTO.jpg {url}/v1/predict",
        "stopped by SIGTERM: 1 request answered, none lost",
    ):
        assert line in told, told
    assert found == {"model": weights, "url": url, "stopped_by": "SIGTERM", "answered": {"200": 1}}


def test_key_is_in_the_command_and_open_addresses_are_said(
    weights: str, ending: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ending()
    serve.run(weights=weights, port=0, settings=Settings(max_batch=1, key="s3cret"), overrides=ONE)
    told = capsys.readouterr().err
    assert 'next: curl -H "Authorization: Bearer $JTL_SERVE_KEY" -F' in told
    assert "s3cret" not in told
    assert "without a key: whoever reaches it can use it" in serve._reach("0.0.0.0", has_key=False)
    assert "needs the key in JTL_SERVE_KEY" in serve._reach("0.0.0.0", has_key=True)


@pytest.mark.parametrize(
    ("how", "line"),
    [(server.Ended(True, 3), "3 requests cut off"), (server.Ended(False, 0), "compiling")],
)
def test_stop_that_is_no_clean_end_has_the_code_of_its_signal(
    weights: str, ending: Any, capsys: pytest.CaptureFixture[str], how: server.Ended, line: str
) -> None:
    ending(how)
    with pytest.raises(Stopped, match="SIGTERM"):
        serve.run(weights=weights, port=0, settings=Settings(max_batch=1), overrides=ONE)
    assert line in capsys.readouterr().err


def test_command_ends_with_0_and_one_object(
    weights: str, ending: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ending()
    options = [f"--config.{name}={value}" for name, value in ONE]
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--weights", weights, "--port", "0", "--max-batch", "1", "--json", *options])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["answered"] == {"200": 1}


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    missing = ("uvicorn", "python_multipart")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in missing else find(name, *more)
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--run", "nowhere"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "jtl: error: jtl serve needs uvicorn, python-multipart, which are missing; install: "
        "pip install 'jtl[serve]'\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "nowhere", "--max-batch", "0"], "--max-batch is 0; expected 1 <= value <= 4096"),
        (["--run", "nowhere", "--body-seconds", "nan"], "--body-seconds is nan; expected"),
        (["--run", "nowhere", "--port", "70000"], "--port is 70000; expected 0 (some free one) to 65535"),
        (["--run", "nowhere", "--port", "0"], "'nowhere' is no run folder"),
        (["--artefact", "nowhere", "--port", "0"], "'nowhere' is no artefact"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_model_without_labels_is_refused() -> None:
    from jtl.training import config
    from jtl.verbs import given

    settings = config.from_dict({"task": {"name": "masked_tokens"}, "model": {"name": "bert"}})
    with pytest.raises(UserError, match="which has no labels to predict"):
        given.check_predicts(settings, "runs/words")
