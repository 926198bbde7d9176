"""Measures `jtl serve` on a run of images: its throughput, what malformed requests do to it, and its end.

    python -m benchmarks.serve RUN DATA [--parts throughput,malformed,stop] [--out record.json] [--json]

`throughput`: 32 clients send the pictures of DATA, one a request, and the batch predictor (`jtl predict`'s
own path) reads the same ones, in turns. `malformed`: 10,000 requests that are empty, huge, cut, of another
type, bombs, or slow. `stop`: a signal comes while 32 clients ask. Everything is on this machine. Prints a
table for docs/serve.md; exits with 1 where something was not as it must be.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np

from benchmarks import malformed

NUM_CLIENTS, BATCH_SIZE = 32, 64
# Whole batches of the predictor, so that it computes nothing in vain.
ROUNDS, PICTURES_A_ROUND = 5, 10 * BATCH_SIZE
NUM_MALFORMED, MALFORMED_CLIENTS, WARM_REQUESTS = 10_000, 16, 1_000
STOPS, SECONDS_UNDER_LOAD = 5, 3.0
LEAST_SHARE = 0.9
# RSS may rise by so much from the first thousand malformed requests to the last.
FLAT_BYTES = 64 << 20
READY = re.compile(r"ready after .* at http://([\d.]+):(\d+)")
SLOW_LIMITS = ("--header-seconds", "1", "--body-seconds", "1")


class Server(NamedTuple):
    """A server in a process of its own, and the file of what it says."""

    process: subprocess.Popen[str]
    host: str
    port: int
    said: Any

    def text(self) -> str:
        """Return what it has said."""
        self.said.seek(0)
        return self.said.read()


class Sent(NamedTuple):
    """One request as a client saw it: its status (0: none came), its seconds, and whether it was sent."""

    status: int
    seconds: float
    was_sent: bool = True


def main() -> None:
    """Measure, print a table, and exit with 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("data", metavar="DATA", help="a folder of pictures")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", default="", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    raws = [path.read_bytes() for path in sorted(Path(args.data).rglob("*")) if path.is_file()]
    record: dict[str, Any] = {"machine": _machine(), "run": Path(args.run).name, "num_pictures": len(raws)}
    for name in args.parts.split(","):
        record[name] = PARTS[name](args.run, raws)
        sys.stderr.write(f"{name}: {json.dumps(record[name])}\n")
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=1), encoding="utf-8")
    sys.stdout.write(json.dumps(record) + "\n" if args.json else "\n".join(table(record)) + "\n")
    sys.exit(0 if all(record[name]["is_good"] for name in PARTS if name in record) else 1)


def table(record: Mapping[str, Any]) -> list[str]:
    """Return the lines of a record for the documentation."""
    lines = ["| what | result |", "|---|---|"]
    if found := record.get("throughput"):
        lines += [
            f"| {NUM_CLIENTS} clients, one picture a request | {found['served']:.1f} pictures/s, "
            f"p50 {found['p50_ms']:.0f} ms, p95 {found['p95_ms']:.0f} ms |",
            f"| the batch predictor on the same pictures, in turns | {found['predicted']:.1f} pictures/s |",
            f"| share of it | {found['share']:.2f} "
            f"({min(found['shares']):.2f} to {max(found['shares']):.2f}, "
            f"{len(found['shares'])} rounds) |",
        ]
    if found := record.get("malformed"):
        codes = ", ".join(f"{code}: {count:,}" for code, count in found["by_status"].items())
        lines += [
            f"| {found['num_requests']:,} malformed requests | {codes}; tracebacks: {found['tracebacks']} |",
            f"| memory (RSS) after {WARM_REQUESTS:,} of them, and after all | "
            f"{found['rss_first'] / 2**20:.0f} MiB, {found['rss_last'] / 2**20:.0f} MiB |",
        ]
    if found := record.get("stop"):
        lines.append(
            f"| SIGTERM under load, {found['stops']} times | {found['answered']:,} requests answered, "
            f"{found['lost']} lost, exit codes {found['exit_codes']} |"
        )
    machine = record["machine"]
    return [*lines, "", f"On {machine['processor']}, {machine['cores']} cores, {machine['versions']}."]


def throughput(run: str, raws: Sequence[bytes]) -> dict[str, Any]:
    """Return pictures a second of the server and of the batch predictor, measured in turns."""
    predict = _predictor(run)
    given = list(itertools.islice(itertools.cycle(raws), PICTURES_A_ROUND))
    with started(run) as server:
        asyncio.run(_all(server, given[: 4 * NUM_CLIENTS]))
        predict(given[:BATCH_SIZE])
        served, predicted, latencies = [], [], []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            predict(given)
            predicted.append(len(given) / (time.perf_counter() - begin))
            begin = time.perf_counter()
            found = asyncio.run(_all(server, given))
            served.append(len(given) / (time.perf_counter() - begin))
            assert {each.status for each in found} == {200}, Counter(each.status for each in found)
            latencies += [each.seconds for each in found]
    shares = [one / other for one, other in zip(served, predicted, strict=True)]
    p50, p95 = np.percentile(latencies, (50, 95)) * 1000
    share = statistics.median(shares)
    return {
        "served": statistics.median(served),
        "predicted": statistics.median(predicted),
        **{"share": share, "shares": shares, "p50_ms": p50, "p95_ms": p95, "is_good": share >= LEAST_SHARE},
    }


def malformed_requests(run: str, raws: Sequence[bytes]) -> dict[str, Any]:
    """Return how the server answers what is malformed, and what its memory does meanwhile."""
    kinds = malformed.kinds(raws[0])
    with started(run, *SLOW_LIMITS) as server:
        found: list[tuple[str, int]] = []
        memory = []
        names = itertools.cycle(kinds)
        for _ in range(NUM_MALFORMED // WARM_REQUESTS):
            found += asyncio.run(_malformed(server, kinds, list(itertools.islice(names, WARM_REQUESTS))))
            memory.append(_rss(server.process.pid))
        after = asyncio.run(_all(server, [raws[0]]))
        text = server.text()
    wrong = Counter((name, status) for name, status in found if not 400 <= status < 500)
    statuses = dict(sorted(Counter(str(status) for _, status in found).items()))
    is_flat = memory[-1] - memory[0] <= FLAT_BYTES
    return {
        "num_requests": len(found),
        "by_status": statuses,
        "wrong": {f"{name}: {status}": count for (name, status), count in wrong.items()},
        "tracebacks": text.count("Traceback"),
        "rss_first": memory[0],
        "rss_last": memory[-1],
        "rss": memory,
        "is_good": not wrong and is_flat and "Traceback" not in text and after[0].status == 200,
    }


def stop(run: str, raws: Sequence[bytes]) -> dict[str, Any]:
    """Return what became of requests when the server was told to stop under load."""
    outcomes, codes = Counter[str](), []
    for _ in range(STOPS):
        with started(run) as server:
            outcomes.update(asyncio.run(until_stopped(server, raws)))
            codes.append(server.process.wait(60))
    is_good = not outcomes["lost"] and set(codes) == {0}
    return {
        "stops": STOPS,
        **{name: outcomes[name] for name in ("answered", "lost", "not connected")},
        "exit_codes": codes,
        "is_good": is_good,
    }


@contextmanager
def started(run: str, *options: str) -> Iterator[Server]:
    """Start a server on some free port, and yield it when it is ready."""
    words = [sys.executable, "-m", "jtl", "serve", "--run", run, "--port", "0", *options]
    with TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(words, stderr=said, stdout=subprocess.DEVNULL, text=True)
        try:
            server = Server(process, "", 0, said)
            while not (found := READY.search(server.text())):
                assert process.poll() is None, server.text()
                time.sleep(0.2)
            yield server._replace(host=found[1], port=int(found[2]))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def post(raw: bytes) -> bytes:
    """Return the request that sends a picture."""
    rows = ("POST /v1/predict HTTP/1.1", "Host: a", "Content-Type: image/jpeg", f"Content-Length: {len(raw)}")
    return "\r\n".join((*rows, "", "")).encode() + raw


async def _all(server: Server, raws: Sequence[bytes]) -> list[Sent]:
    """Send pictures by so many clients, each one after another on one connection."""
    waiting, found = iter(raws), list[Sent]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        for raw in waiting:
            found.append(await _asked(reader, writer, post(raw)))
        writer.close()

    await asyncio.gather(*(client() for _ in range(min(NUM_CLIENTS, len(raws)))))
    return found


async def _asked(reader: Any, writer: Any, request: bytes) -> Sent:
    begin = time.perf_counter()
    writer.write(request)
    status, _ = await answer(reader)
    return Sent(status, time.perf_counter() - begin)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Return the status of an answer that is read to its end, and whether the connection stays."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length: ")[2].split("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(" ", 2)[1]), "connection: close" not in head


async def _malformed(
    server: Server, kinds: Mapping[str, malformed.Kind], names: Sequence[str]
) -> list[tuple[str, int]]:
    """Send one request of each kind named, a connection each, and return the statuses; 0 where none came."""
    waiting, found = iter(names), list[tuple[str, int]]()

    async def client() -> None:
        for name in waiting:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            sending = asyncio.create_task(kinds[name](writer))
            try:
                status, _ = await asyncio.wait_for(answer(reader), 60)
            except (OSError, EOFError, TimeoutError):
                status = 0
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            found.append((name, status))
            writer.transport.abort()

    await asyncio.gather(*(client() for _ in range(MALFORMED_CLIENTS)))
    return found


async def until_stopped(
    server: Server, raws: Sequence[bytes], seconds: float = SECONDS_UNDER_LOAD
) -> Counter[str]:
    """Ask without pause by many clients, stop the server meanwhile, and count what became of each request."""
    outcomes = Counter[str]()

    async def client(number: int) -> None:
        connection = None
        for raw in itertools.islice(itertools.cycle(raws), number, None):
            try:
                connection = connection or await asyncio.open_connection(server.host, server.port)
            except OSError:
                outcomes["not connected"] += 1
                return
            try:
                connection[1].write(post(raw))
                status, stays = await answer(connection[0])
            except (OSError, EOFError):
                outcomes["lost"] += 1
                return
            outcomes["answered" if status == 200 else f"status {status}"] += 1
            if not stays:
                connection[1].close()
                connection = None

    async def ask_to_stop() -> None:
        await asyncio.sleep(seconds)
        server.process.send_signal(signal.SIGTERM)

    await asyncio.gather(ask_to_stop(), *(client(number) for number in range(NUM_CLIENTS)))
    return outcomes


def _predictor(run: str) -> Callable[[Sequence[bytes]], None]:
    """Return what predicts pictures as `jtl predict` does, from their bytes on, in batches read ahead."""
    from jtl import predictor as predictors
    from jtl import runtime
    from jtl.data import Info
    from jtl.data.files import Files

    runtime.prepare()
    opened = predictors.open(predictors.of_run(run))
    compiled = predictors.make_predict_step(opened)

    class InMemory(Files):
        """Pictures that were read already, as the clients have theirs."""

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"raw": given[index], "label": None, "id": index}

    given: list[bytes] = []

    def predict(pictures: Sequence[bytes]) -> None:
        given[:] = pictures
        source = InMemory(Info("pictures", ()), "", tuple(map(str, range(len(pictures)))), None)
        batches = predictors.batches(opened, source, BATCH_SIZE, marks_unreadable=True)
        for _, found in predictors.stepped(opened, compiled, batches):
            np.asarray(found)

    return predict


def _rss(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024


def _machine() -> dict[str, Any]:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = re.findall(r"model name\s*: (.*)", described)
    versions = [f"{each} {version(each)}" for each in ("jax", "starlette", "uvicorn")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


PARTS: dict[str, Callable[[str, Sequence[bytes]], dict[str, Any]]] = {
    "throughput": throughput,
    "malformed": malformed_requests,
    "stop": stop,
}

if __name__ == "__main__":
    main()
