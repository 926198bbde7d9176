"""The verb `jtl serve`: a run, pretrained weights or an artefact behind HTTP, with a page to try it on."""

import argparse
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, counted
from jtl.serve.settings import KEY_VARIABLE, Settings, key_of
from jtl.verbs import given
from jtl.verbs.contract import Overrides, Verb, add_model, show

if TYPE_CHECKING:
    import jtl.predictor
    import jtl.serve.state

HOST, PORT = "127.0.0.1", 8000
PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")
# Flags of settings: by field, what the value is called and what it is for.
FLAGS = {
    "max_wait_ms": ("MS", "how long a batch waits for more that is on its way"),
    "max_batch": ("N", "items of a batch"),
    "max_queue": ("N", "items that wait for the model; more are answered with 503"),
    "max_body_mb": ("N", "length of a request's body, in MB"),
    "max_items": ("N", "items of one request"),
    "max_pixels": ("N", "pixels of a picture"),
    "max_letters": ("N", "letters of a text"),
    "max_connections": ("N", "connections at a time"),
    "header_seconds": ("S", "time for the head of a request"),
    "body_seconds": ("S", "time for the body of a request"),
    "write_seconds": ("S", "time to take an answer"),
    "stop_seconds": ("S", "time to answer what has come, after a signal"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_model(parser, has_artefact=True, has_batch_size=False)
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAMES",
        help="names of the outputs, or for CLIP and SigLIP the classes to tell apart: a,b,c or a file",
    )
    parser.add_argument(
        "--host", default=HOST, metavar="ADDRESS", help=f"the address to listen on (default: {HOST})"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"default: {PORT}; 0: some free one"
    )
    for name, (metavar, text) in FLAGS.items():
        default = getattr(Settings(), name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar=metavar,
            help=f"{text} (default: {default:,.10g})",
        )


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    artefact: str = "",
    classes: str = "",
    host: str = HOST,
    port: int = PORT,
    settings: Settings | None = None,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Serve a model until a signal comes, and return what was answered; lines for people go to stderr.

    The model is named as in `predict.run`.

    Raises:
        UserError: the model or the address cannot be had, or the extra `serve` is not installed.
        Stopped: a signal came before it was ready, or requests were cut off.
    """
    _check_packages()
    from jtl import signals
    from jtl.serve import server

    settings = settings or Settings(key=key_of())
    if not 0 <= port <= 65_535:
        raise UserError(f"--port is {port}; expected 0 (some free one) to 65535")
    made = server.bound(host, port)
    with made:
        _say(_reach(host, has_key=bool(settings.key)))
        served = _served(run_folder, weights, artefact, classes, settings, overrides)
        url = server.url_of(made)
        begin = time.monotonic()
        _say(f"compiling {served.engine.num_programs} programs …")

        def on_warm() -> None:
            sizes = ", ".join(map(str, served.engine.sizes))
            _say(f"ready after {time.monotonic() - begin:.1f} s at {url}: batches of {sizes}")
            _say(f"look at: {url}\nnext: {_curl(served, url)}")

        with signals.listening() as stop:
            ended = server.run(served, made, stop, on_warm)
    by_code = served.counters.by_code()
    name = signal.Signals(stop.number).name if stop.number else ""
    if ended.num_cut:
        _say(f"{counted(ended.num_cut, 'requests')} cut off: not answered within --stop-seconds")
    if ended.num_cut or not ended.was_ready:
        raise signals.Stopped(stop.number)
    _say(f"stopped by {name}: {counted(sum(by_code.values()), 'requests')} answered, none lost")
    return {"model": artefact or run_folder or weights, "url": url, "stopped_by": name, "answered": by_code}


def _served(
    run_folder: str, weights: str, artefact: str, classes: str, settings: Settings, overrides: Overrides
) -> "jtl.serve.state.Served":
    """Return the model as it is served, and say how it sees its inputs."""
    from jtl import predictor
    from jtl.explain import examples
    from jtl.export import artefact as artefacts
    from jtl.serve import engine
    from jtl.serve.state import Served
    from jtl.training import config

    is_program = bool(artefact) and artefacts.is_program(artefact)
    names = given.class_names(classes)
    if artefact:
        opened = given.of_artefact(artefact, names, overrides)
    else:
        found = given.of_model(run_folder, weights, names, overrides)
        found = found._replace(settings=config.with_overrides(found.settings, overrides))
        given.check_predicts(found.settings, run_folder)
        opened = examples.open_model(found)
    _say(predictor.described(opened))
    made = engine.of_model(opened, settings.max_batch, is_program=is_program)
    _say(made.method if made.explain is None else f"explained by {made.method}")
    name = artefact or run_folder or weights
    return Served(made, settings, name if "://" in name else Path(name).resolve().name)


def _check_packages() -> None:
    import importlib.util

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"jtl serve needs {', '.join(name.replace('_', '-') for name in missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} missing; install: pip install 'jtl[serve]'"
        )


def _reach(host: str, *, has_key: bool) -> str:
    """Return who can reach the server, in a line."""
    from jtl.serve.server import LOOPBACK

    if host in LOOPBACK:
        key = f"; {KEY_VARIABLE} is asked for" if has_key else ""
        return f"bound to {host}: reached from this machine alone{key} (--host 0.0.0.0: from others)"
    if has_key:
        return f"bound to {host}: whoever reaches it needs the key in {KEY_VARIABLE}; there is no encryption"
    return (
        f"bound to {host} without a key: whoever reaches it can use it; set {KEY_VARIABLE} to a key, and put "
        f"a proxy that encrypts in front"
    )


def _curl(served: "jtl.serve.state.Served", url: str) -> str:
    """Return the command that asks for a prediction, for a shell that knows the key."""
    key = f'-H "Authorization: Bearer ${KEY_VARIABLE}" ' if served.settings.key else ""
    ways = {"image": "-F file=@PHOTO.jpg", "text": "-H 'Content-Type: text/plain' -d TEXT"}
    return f"curl {key}{ways[served.holds]} {url}/v1/predict"


def _say(lines: str) -> None:
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    try:
        settings = Settings(**{name: getattr(args, name) for name in FLAGS}, key=key_of())
    except UserError as error:
        flag = re.sub(r"^serve\.(\w+)", lambda found: f"--{found[1].replace('_', '-')}", str(error))
        raise UserError(flag) from error
    result = run(
        run_folder=args.run,
        weights=args.weights,
        artefact=args.artefact,
        classes=args.classes,
        host=args.host,
        port=args.port,
        settings=settings,
        overrides=overrides,
    )
    show(args, result)
    return 0


VERB = Verb("answer predictions over HTTP, with a page to try it", add_arguments, _command)
