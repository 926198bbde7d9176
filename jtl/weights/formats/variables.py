"""Which part of a tree of variables (Flax msgpack, Orbax) is the model, and what its tensors are called.

A training state holds much besides: optimizer, step, averages. Names are paths joined by '/'.
"""

from collections.abc import Iterable, Mapping

from jtl.errors import UserError
from jtl.weights.contract import TensorFile
from jtl.weights.report import shorten

# Where training states keep the model, in the order of preference: averages first, as for PyTorch's.
CONTAINERS = ("ema_params", "params_ema", "params")
# A jtl training state keeps what trains and what does not apart (`jtl.training.state.State`).
TRAINABLE, FROZEN, AVERAGED, STATE = "trainable", "frozen", "ema", "model_state"
STATISTICS = "batch_stats"
# What a state may lie under.
OUTER = ("", "state/", "model/", "train_state/", "opt/", "target/", "opt/target/")


def of_model(names: Iterable[str], where: str) -> tuple[str, dict[str, str]]:
    """Return where the model's variables are, for people ("": at the top), and name → name in the tree.

    `params/…` loses its prefix where there are only parameters, as in a file of bare names; beside running
    statistics the names are the model's own: `params/…` and `model_state/…`.

    Raises:
        UserError: two variables come to the same name.
    """
    names = tuple(names)
    found = _of_training_state(names) or _of_variables(names) or ("", [(name, name) for name in names])
    container, pairs = found
    renamed = dict(pairs)
    if len(renamed) != len(pairs):
        twice = [name for name in renamed if sum(name == each for each, _ in pairs) > 1]
        raise UserError(f"{where!r} holds several variables named {shorten(twice, 3)}")
    return container, renamed


def chosen(file: TensorFile, names: Mapping[str, str]) -> TensorFile:
    """Return a file of all tensors of a tree with those of `names` (→ names in the tree) as the model's."""
    taken = set(names.values())
    return file._replace(
        tensors={name: file.tensors[raw] for name, raw in names.items()},
        others={raw: tensor for raw, tensor in file.tensors.items() if raw not in taken},
        raw_names={name: raw for name, raw in names.items() if name != raw},
    )


def _of_training_state(names: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the variables of jtl's own training state, averages before what they average."""
    tops = {name.partition("/")[0] for name in names}
    if not {TRAINABLE, "step", "opt_state"} <= tops:
        return None
    first = AVERAGED if AVERAGED in tops else TRAINABLE
    pairs = [(f"params/{rest}", name) for name in names for rest in _under(name, (first, FROZEN))]
    pairs += [(f"{STATE}/{rest}", name) for name in names for rest in _under(name, (STATE,))]
    return f", {first}", [pair for pair in pairs if not pair[0].startswith("params/extra/")]


def _of_variables(names: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the variables under the first container there is."""
    for container in CONTAINERS:
        for outer in OUTER:
            params = [(rest, name) for name in names for rest in _under(name, (outer + container,))]
            if not params:
                continue
            # Variables of Flax are sometimes kept whole: params/params/…, params/batch_stats/….
            if all(rest.startswith(("params/", f"{STATISTICS}/")) for rest, _ in params):
                outer, params = (
                    f"{outer}{container}/",
                    [
                        (rest.removeprefix("params/"), name)
                        for rest, name in params
                        if rest.startswith("params/")
                    ],
                )
            kept = [
                (f"{STATE}/{STATISTICS}/{rest}", name)
                for name in names
                for rest in _under(name, (f"{outer}{STATISTICS}", f"{outer}{STATE}/{STATISTICS}"))
            ]
            others = len(names) - len(params) - len(kept)
            where = f", entry {outer + container!r}" if outer or others else ""
            if kept:
                return where, [*((f"params/{rest}", name) for rest, name in params), *kept]
            return where, params
    return None


def _under(name: str, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return the rest of a name that lies under one of the folders, () where it does not."""
    return tuple(name.removeprefix(f"{each}/") for each in folders if name.startswith(f"{each}/"))
