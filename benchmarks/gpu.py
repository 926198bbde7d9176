"""Everything that is to be known of one accelerator, in one record: benchmarks/gpu.sh runs it unattended.

    benchmarks/gpu.sh [--out FILE] [--seconds 520] [--small]

Parts run one after another in processes of their own, the most telling first, each with a limit, until the
time is up; one that hangs or fails is noted and takes no other with it. The record is written after every
part. Packages that are missing are named in it; nothing is installed. `--small` runs the same parts at small
sizes on whatever there is, to check that they run.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
# What jtl imports to train, and what the tests and the comparison need.
NEEDED = (
    *("absl", "filelock", "flax", "grain", "jax", "jaxtyping", "ml_collections", "numpy", "optax", "orbax"),
    *("PIL", "pyarrow", "safetensors", "sklearn", "tensorboardX", "tensorstore", "tokenizers"),
)
COMPARED = ("torch", "timm", "transformers", "pytest")
SECONDS = 520.0
# A part is not begun with less than this left.
LEAST_SECONDS = 15.0
TAIL_CHARS = 1500

BFLOAT16 = "--config.model.dtype=bfloat16"
FROZEN = "--config.strategy.name=probe"
VIT, RESNET = "configs/vit_ft.py", "configs/resnet_ft.py"
# As large as is usual on one card with 80 GB, and half of what fits.
BATCHES = {"s16": 256, "b16": 128, "l16": 64, "50": 256}
# What may make a step faster, one by one: environment, and settings.
O1 = {"JAX_OPTIMIZATION_LEVEL": "O1"}
VARIANTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "baseline": ({}, ()),
    "optimization level O1": (O1, ()),
    "latency hiding scheduler": ({"XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true"}, ()),
    "no command buffers": ({"XLA_FLAGS": "--xla_gpu_enable_command_buffer="}, ()),
    "triton gemm off": ({"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"}, ()),
    "deterministic": ({"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}, ()),
    "memory fraction 0.9": ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}, ()),
    "attention by XLA": ({}, ("--config.model.attention=xla",)),
    "blocks recomputed but for products": ({}, ("--config.model.remat=dots",)),
    "float32": ({}, ("--config.model.dtype=float32",)),
    "batch 256": ({}, ("--config.train.batch_size=256",)),
    "batch 512": ({}, ("--config.train.batch_size=512",)),
}


class Part(NamedTuple):
    """One process: what it is called, its words behind the interpreter, its limit, and its environment.

    It leaves JSON where the word `OUT` stands.
    """

    name: str
    words: tuple[str, ...]
    seconds: float
    environment: dict[str, str]


OUT = "{out}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and write the record; 0 where every part ended well, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--limits", type=float, default=1.0, help="each part's limit times this")
    parser.add_argument("--small", action="store_true", help="small sizes, on whatever there is")
    args = parser.parse_args(argv)
    planned = small_parts() if args.small else parts()
    planned = [part._replace(seconds=part.seconds * args.limits) for part in planned]
    record = measured(planned, args.seconds, args.out)
    sys.stderr.write(summary(record))
    return int(any(each["status"] != "done" for each in record["parts"].values()))


def measured(
    planned: Sequence[Part], seconds: float, out: Path, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Run the parts while there is time, and return the record; it is written after each of them."""
    ends = clock() + seconds
    record: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "missing": missing(),
        "card": card(),
        "parts": {},
    }
    for part in planned:
        left = ends - clock()
        if left < min(LEAST_SECONDS, part.seconds):
            found: dict[str, Any] = {"status": "left out: the time is up"}
        else:
            sys.stderr.write(f"gpu: {part.name} (at most {min(left, part.seconds):.0f} s)\n")
            found = ran(part._replace(seconds=min(left, part.seconds)))
        record["parts"][part.name] = found
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def ran(part: Part) -> dict[str, Any]:
    """Run one part to its end or limit; return its status, its seconds, and what it left."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out, log = Path(folder) / "out.json", Path(folder) / "log"
        words = [str(out) if word == OUT else word for word in part.words]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": _path(), **_merged(part.environment)},
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A group of its own, so that compilers and workers that it started end with it.
                start_new_session=True,
            )
            try:
                code = process.wait(part.seconds)
                status = "done" if code == 0 else f"failed with code {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = f"stopped at its limit of {part.seconds:.0f} s"
        found: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
        try:
            found["result"] = json.loads(out.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found["log"] = log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARS:]
        return found


def parts() -> list[Part]:
    """Return the parts, the most telling first."""
    found = [_tests(100), _against("b16", 100), _against("50", 100), _whole("b16", 60), _whole("50", 60)]
    found.append(_whole("b16", 60, FROZEN, what="frozen backbone end to end"))
    found += [_variant(name, 40) for name in VARIANTS]
    return [*found, _against("s16", 90), _whole("s16", 50), _against("l16", 110)]


def small_parts() -> list[Part]:
    """Return the same kinds of parts at sizes that a CPU runs in seconds."""
    small = ("--config.model.image_px=32", "--config.model.dtype=float32", "--config.train.batch_size=2")
    vit = (*small, "--config.model.dim=48", "--config.model.depth=1", "--config.model.heads=3",
           "--config.model.mlp_dim=96")  # fmt: skip
    return [
        _tests(240, {"JTL_GPU_TESTS_ON_CPU": "1"}),
        _against("b16", 120, *vit, pairs=2, ways="eager contiguous"),
        _against("50", 120, *small, pairs=2, ways="eager channels_last"),
        _whole("b16", 120, *vit),
        *(_variant(name, 60, *vit) for name in ("baseline", "optimization level O1")),
    ]


def missing() -> list[str]:
    """Return the packages that jtl or the comparison needs and that cannot be imported here."""
    return [name for name in (*NEEDED, *COMPARED) if importlib.util.find_spec(name) is None]


def card() -> str:
    """Return what the driver says of the card; "" where there is no driver."""
    words = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version,clocks.max.sm",
        "--format=csv,noheader",
    ]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def summary(record: dict[str, Any]) -> str:
    """Return a line a part, for people."""
    rows = [f"card: {record['card'] or 'none'}; missing packages: {', '.join(record['missing']) or 'none'}"]
    for name, found in record["parts"].items():
        rows.append(f"{name}: {found['status']}{_figures(found.get('result') or {})}")
    return "".join(f"{row}\n" for row in rows)


def _figures(result: dict[str, Any]) -> str:
    shown = [
        f"{mode} {each['best']['ratio']['median']:.2f} x the speed of {each['best']['name']}"
        for mode, each in result.get("against", {}).items()
    ]
    shown += [
        f"{row['batch_size']}: {row.get('examples_per_second', 0):,.0f}/s" for row in result.get("sweep", ())
    ]
    if "loop" in result:
        rates = ", ".join(f"{name} {result[name]['examples_per_second']:,.0f}/s" for name in ("loop", "step"))
        shown.append(f"{rates}, {result['flops']['share_of_peak']:.0%} of the peak")
    return f"; {', '.join(shown)}" if shown else ""


def _tests(seconds: float, environment: dict[str, str] | None = None) -> Part:
    environment = {
        **(environment or {}),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    # The project's own options name packages that a bare machine may lack.
    words = ("-m", "pytest", "-q", "-rs", "-m", "gpu", "tests/gpu", "-c", os.devnull, "--rootdir", ".")
    words += ("--import-mode=importlib", "-p", "no:cacheprovider")
    return Part("tests marked gpu", words, seconds, environment)


def _config(size: str) -> tuple[str, ...]:
    recipe = RESNET if size.isdigit() else VIT
    extra = () if size.isdigit() else ("--config.model.drop_path=0",)
    batch = f"--config.train.batch_size={BATCHES[size]}"
    return ("--config", f"{recipe}:{size}", "--config.model.weights=none", BFLOAT16, batch, *extra)


def _against(size: str, seconds: float, *more: str, pairs: int = 5, ways: str = "") -> Part:
    layout = "channels_last" if size.isdigit() else "contiguous"
    chosen = ways or f"compiled {layout}"
    words = ("-m", "jtl", "bench", *_config(size), "--against", "torch", "--modes", "train,probe")
    words += ("--ways", chosen, "--steps", "10" if pairs == 5 else "1", "--runs", str(pairs))
    return Part(f"{size} beside PyTorch", (*words, "--out", OUT, *more), seconds, {})


def _whole(size: str, seconds: float, *more: str, what: str = "end to end") -> Part:
    words = ("-m", "jtl", "bench", *_config(size), "--steps", "10", "--runs", "3", "--out", OUT)
    return Part(f"{size} {what}", (*words, *more), seconds, {})


def _variant(name: str, seconds: float, *more: str) -> Part:
    environment, settings = VARIANTS[name]
    words = ("-m", "jtl", "bench", *_config("b16"), *more, *settings)
    given = [word.partition("=")[2] for word in words if word.startswith("--config.train.batch_size=")]
    words += ("--sweep", f"batch_size={given[-1]}", "--steps", "10", "--runs", "2", "--out", OUT)
    return Part(f"b16 with {name}", words, seconds, environment)


def _merged(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment with XLA's flags added to those that are set already."""
    flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS", ""), environment.get("XLA_FLAGS", ""))))
    return {**environment, **({"XLA_FLAGS": flags} if flags else {})}


def _path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


if __name__ == "__main__":
    sys.exit(main())
