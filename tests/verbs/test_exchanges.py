"""What the devices of a compiled program exchange, as its text says it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import scale
from jtl.training import sharding
from jtl.verbs.bench import exchanges
from jtl.verbs.bench.exchanges import Exchange

LINES = {
    "  %a = f32[32,256]{1,0} all-reduce(%b), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add": (
        "all-reduce",
        32 * 256 * 4,
        (0, 1),
    ),
    "  ROOT %a = (bf16[8]{0}, /*index=1*/f32[]) all-reduce(%b, %c), replica_groups=[1,4]<=[4], to_apply=%s": (
        "all-reduce",
        8 * 2 + 4,
        (0, 1, 2, 3),
    ),
    "  %a = pred[6]{0} all-gather(%b), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}": (
        "all-gather",
        6,
        (0, 2),
    ),
    "  %a = (f32[4]{0}, f32[16]{0}) all-gather-start(%b), replica_groups={}, dimensions={0}": (
        "all-gather",
        64,
        (0, 1, 2, 3),
    ),
    "  %a = f32[4]{0} reduce-scatter(%b), replica_groups=mesh['x'=2,'y'=2] {'y'}, to_apply=%add": (
        "reduce-scatter",
        4 * 4 * 2,
        (0, 1),
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_bytes_and_devices_are_read_off_a_line(line: str) -> None:
    (found,) = exchanges.of_text(f"HloModule a\n{line}, metadata={{}}\n", 4)
    assert found == Exchange(*LINES[line])


def test_what_no_two_devices_exchange_and_what_only_names_it_is_none() -> None:
    text = "  %a = f32[4]{0} all-reduce(%b), replica_groups={{0},{1}}, to_apply=%add\n"
    text += "  %c = f32[4]{0} fusion(%all-reduce.1), kind=kLoop, calls=%d\n"
    assert exchanges.of_text(text, 2) == []


def test_groups_that_are_written_otherwise_are_an_error() -> None:
    with pytest.raises(ValueError, match="groups of devices are written as 'of another kind"):
        exchanges.of_text("  %a = f32[4]{0} all-reduce(%b), replica_groups=of another kind, x=1\n", 2)


def test_program_of_this_jax_exchanges_what_its_places_ask_for() -> None:
    mesh = sharding.mesh(sharding.Config(mesh=(2, 4, 1)))
    cut, kept = (NamedSharding(mesh, PartitionSpec(axes)) for axes in (("data", "fsdp"), "fsdp"))
    rows = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=cut)
    kernel = jax.ShapeDtypeStruct((128, 256), jnp.float32, sharding=kept)
    program = jax.jit(jnp.matmul, out_shardings=cut).lower(rows, kernel).compile()
    assert exchanges.of_text(program.as_text(), 8) == [Exchange("all-gather", 128 * 256 * 4, (0, 1, 2, 3))]
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec())).lower(rows).compile()
    assert exchanges.of_text(total.as_text(), 8) == [Exchange("all-reduce", 4, tuple(range(8)))]
    assert exchanges.summed([Exchange("all-reduce", 800, tuple(range(8)))] * 2) == {
        "all-reduce": {"num": 2, "moved_bytes": 2800.0}
    }


def test_plan_of_the_table_is_arithmetic_on_what_the_compiler_says() -> None:
    assert scale.over_nodes(Exchange("all-gather", 800, tuple(range(8)))) == (700.0, 0.0)
    assert scale.over_nodes(Exchange("all-reduce", 800, (3, 11))) == (0.0, 800.0)
    assert scale.over_nodes(Exchange("all-reduce", 800, tuple(range(16)))) == (1400.0, 100.0)
    found = scale.expected(scale.PEAK_FLOPS * scale.USUAL_SHARE * 8, 8, scale.NVLINK_BYTES / 2, 0.0)
    assert (found.compute, found.inside, found.between, found.best) == (1.0, 0.5, 0.0, 1.0)
    assert found.worst == pytest.approx(2 / 3)
