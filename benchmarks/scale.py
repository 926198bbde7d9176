"""What large ViTs need on meshes of 8, 64 and 256 devices: memory, FLOPs and bytes exchanged, compiled ahead.

    python -m benchmarks.scale run --out benchmarks/records/scale.json [--only h14]
    python -m benchmarks.scale table --record benchmarks/records/scale.json

Every case is a process of its own with as many CPU devices as it asks for, which do not exist: the whole
training step is compiled for shapes, and nothing is allocated or run. A record that is there is gone on with,
so that a run may be stopped. `table` prints docs/scale.md's table: what the compiler says, and what that
comes to on H100s by the arithmetic of `expected`.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from jtl.verbs.bench import exchanges
from jtl.verbs.bench.exchanges import RINGS, Exchange

ROOT = Path(__file__).parents[1]
SIZES, STRATEGIES = ("h14", "g14"), ("full", "lora")
# Devices along data, fsdp and tensor: nodes of eight, the state of full fine-tuning cut inside of each.
MESHES = {"full": ((1, 8, 1), (8, 8, 1), (32, 8, 1)), "lora": ((8, 1, 1), (64, 1, 1), (256, 1, 1))}
BATCH_A_DEVICE, NODE, DEVICE_BYTES = 16, 8, 80 * 10**9
# One device of an H100 SXM node. Data sheets of NVIDIA: 989.4 TFLOP/s of dense bfloat16; NVLink 4 moves 900
# GB/s both ways together; ConnectX-7 400 Gbit/s each way, one a GPU in a DGX H100.
PEAK_FLOPS, NVLINK_BYTES, NETWORK_BYTES = 989.4e12, 450e9, 50e9
# What a well-made step of a ViT reaches of the peak (docs/speed.md says the same of `jtl estimate`).
USUAL_SHARE = 0.4
# Compiles half as long, to the same plan of memory.
FLAGS = "--xla_cpu_parallel_codegen_split_count=1"


class Expected(NamedTuple):
    """Seconds of a step: of computing, and of exchanging inside of a node and between nodes.

    `best` and `worst` are the efficiencies where all of the exchange is hidden behind computing, and nothing.
    """

    compute: float
    inside: float
    between: float

    @property
    def best(self) -> float:
        """Efficiency where computing and exchanging go on side by side."""
        return self.compute / max(self.compute, self.inside + self.between)

    @property
    def worst(self) -> float:
        """Efficiency where a device exchanges or computes."""
        return self.compute / (self.compute + self.inside + self.between)


def expected(flops: float, num_devices: int, inside: float, between: float) -> Expected:
    """Return what a step of so many FLOPs takes, of whose devices each sends so many bytes.

    >>> found = expected(989.4e12 * 0.4 * 8, 8, 225e9, 0.0)
    >>> found.compute, found.inside, round(found.worst, 3), found.best
    (1.0, 0.5, 0.667, 1.0)
    """
    compute = flops / num_devices / (PEAK_FLOPS * USUAL_SHARE)
    return Expected(compute, inside / NVLINK_BYTES, between / NETWORK_BYTES)


def cases(only: str = "") -> list[dict[str, Any]]:
    """Return what is compiled, the small first."""
    found = [
        {"size": size, "strategy": strategy, "mesh": list(MESHES[strategy][place])}
        for size in SIZES
        for strategy in STRATEGIES
        for place in range(3)
    ]
    return [case for case in found if only in _name(case)]


def main() -> None:
    """Compile all that is not in the record yet, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("run", "one", "table"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--only", default="", help="cases whose name holds this, such as g14-lora")
    parser.add_argument("--case", default="")
    args = parser.parse_args()
    if args.action == "one":
        sys.stdout.write(json.dumps(_compiled(json.loads(args.case))) + "\n")
    elif args.action == "table":
        sys.stdout.write(table(json.loads(args.record.read_text(encoding="utf-8"))))
    else:
        _run(args.out, args.only)


def table(record: dict[str, Any]) -> str:
    """Return the table of a record, in Markdown."""
    head = (
        "| ViT | strategy | mesh | batch | memory a device | GFLOP an image | sent in a node | sent between "
        "nodes | ms: compute, node, network | efficiency |\n|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_line(row) for row in record["rows"])


def _line(row: dict[str, Any]) -> str:
    case = row["case"]
    devices = _num_devices(case)
    found = expected(row["flops"], devices, row["inside_bytes"], row["between_bytes"])
    data, fsdp, _ = case["mesh"]
    return (
        f"| {case['size']} | {case['strategy']} | {data} x {fsdp} | {row['batch_size']:,} "
        f"| {row['memory']['total'] / 2**30:.1f} GiB, state {row['state_bytes'] / 2**30:.1f} "
        f"| {row['flops'] / row['batch_size'] / 1e9:,.0f} "
        f"| {row['inside_bytes'] / 1e9:.2f} GB | {row['between_bytes'] / 1e9:.2f} GB "
        f"| {1e3 * found.compute:.0f}, {1e3 * found.inside:.0f}, {1e3 * found.between:.0f} "
        f"| {found.worst:.0%} to {found.best:.0%} |\n"
    )


def _run(out: Path, only: str) -> None:
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"rows": []}
    record |= {
        "command": "python -m benchmarks.scale run",
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "jax": version("jax"),
        "jaxlib": version("jaxlib"),
    }
    known = {_name(row["case"]) for row in record["rows"]}
    for case in cases(only):
        if _name(case) in known:
            continue
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", "one", "--case", json.dumps(case)],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={_num_devices(case)} {FLAGS}",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "JAX_ENABLE_COMPILATION_CACHE": "false",
            },
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        row = json.loads(done.stdout.splitlines()[-1])
        record["rows"].append({"case": case, **row, "seconds": round(time.monotonic() - began, 1)})
        record["rows"].sort(key=lambda row: [_name(each) for each in cases()].index(_name(row["case"])))
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        sys.stderr.write(f"{_name(case)}: {record['rows'][-1]['seconds']} s\n")


def _compiled(case: dict[str, Any]) -> dict[str, Any]:
    """Compile the step of a case, and return what its compiler says."""
    from jtl import memory
    from jtl.training import config, meta, sharding
    from jtl.verbs import estimate
    from jtl.verbs.bench import program, subject

    devices = _num_devices(case)
    # That of the devices that do not exist: a batch is checked against it.
    memory.device_bytes = memory.host_bytes = lambda: devices * DEVICE_BYTES
    settings = config.read(
        "configs/vit_ft.py:l16",
        [
            ("model.size", case["size"]),
            ("model.weights", "none"),
            ("model.image_px", "224"),
            ("model.dtype", "bfloat16"),
            ("strategy.name", case["strategy"]),
            ("sharding.mesh", ",".join(map(str, case["mesh"]))),
            ("train.batch_size", str(BATCH_A_DEVICE * devices)),
        ],
    )
    found = subject.subject(settings, has_values=False)
    shapes, place = subject.state_shapes(found)
    lowered, compiled = estimate.compiled(found, shapes, place)
    moved = exchanges.of_text(compiled.as_text(), devices)
    sent = [over_nodes(each) for each in moved]
    return {
        "batch_size": settings.train.batch_size,
        "dtype": subject.dtype_of(found.built),
        "parameters": meta.parameters(found.built),
        "state_bytes": sharding.bytes_a_device(shapes, place),
        "memory": program.memory_of(compiled),
        "flops": program.flops(lowered, compiled, devices).asked,
        "exchanged": exchanges.summed(moved),
        "inside_bytes": sum(inside for inside, _ in sent),
        "between_bytes": sum(between for _, between in sent),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def over_nodes(exchange: Exchange) -> tuple[float, float]:
    """Return the bytes that a device sends inside of its node, and to others, as NCCL does: first inside.

    >>> over_nodes(Exchange("all-reduce", 800, tuple(range(8))))
    (1400.0, 0.0)
    >>> over_nodes(Exchange("all-reduce", 800, (0, 8)))
    (0.0, 800.0)
    >>> over_nodes(Exchange("all-reduce", 800, tuple(range(16))))
    (1400.0, 100.0)
    """
    nodes = len({device // NODE for device in exchange.group})
    own = len(exchange.group) // nodes
    whole = RINGS[exchange.kind] * exchange.num_bytes
    return whole * (own - 1) / own, whole / own * (nodes - 1) / nodes


def _num_devices(case: dict[str, Any]) -> int:
    data, fsdp, tensor = case["mesh"]
    return data * fsdp * tensor


def _name(case: dict[str, Any]) -> str:
    return f"{case['size']}-{case['strategy']}-{'x'.join(map(str, case['mesh']))}"


if __name__ == "__main__":
    main()
