"""Steps of PyTorch for a configuration: eager and compiled, in both layouts of images in memory."""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from jtl.errors import UserError, shortened
from jtl.verbs.bench.subject import Subject

COMPILERS = ("g++", "clang++", "c++")
BFLOAT16 = "bfloat16"
EAGER, COMPILED = "eager", "compiled"
CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
WAYS = tuple(f"{how} {layout}" for layout in (CONTIGUOUS, CHANNELS_LAST) for how in (EAGER, COMPILED))


class _Torch(NamedTuple):
    """The library, the device that jax uses as it calls it, and what makes it compute in lower precision."""

    library: Any
    device: str
    precision: Callable[[], Any]
    sync: Callable[[], object]


def contenders(
    found: Subject, *, dtype: str, trains: bool, is_probe: bool, ways: Sequence[str] = ()
) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """Return steps by the way they are made, each tried once, and lines on what is left out and why.

    `ways` are those asked for (none: all). Texts have one layout.

    Raises:
        UserError: PyTorch or what it needs is missing, or has no such model, loss or optimizer.
    """
    from jtl.strategies.contract import without_extra
    from jtl.tree import num_values
    from jtl.verbs.bench import torch_models

    parts, settings = found.parts, found.settings
    torch, notes = _opened(dtype)
    image_px = getattr(parts.preprocess, "image_px", (0, 0))
    made = torch_models.make(settings, parts.task.head.num_outputs, image_px)
    name = f"{settings.model.name} {settings.model.size}"
    torch_models.check_same(made, num_values(without_extra(found.built.params)), name)
    if is_probe:
        for each in made.module.parameters():
            each.requires_grad_(False)
        for each in made.classifier:
            each.requires_grad_(True)
    # Frozen layers keep their statistics, as jtl's do.
    made.module.train(trains and not is_probe)
    made.module.to(torch.device)
    inputs, labels = _batch(torch, found)
    has_one_layout = isinstance(inputs, Mapping)
    fault = _compiler_fault(torch)
    notes = [*notes, *made.notes, *([fault] if fault else [])]
    steps: dict[str, Callable[[], object]] = {}
    for way in ways or WAYS:
        how, _, layout = way.partition(" ")
        is_compiled = how == COMPILED
        if (is_compiled and fault) or (layout == CHANNELS_LAST and has_one_layout):
            continue
        module, laid = copy.deepcopy(made.module), inputs
        if layout == CHANNELS_LAST:
            module = module.to(memory_format=torch.library.channels_last)
            laid = inputs.contiguous(memory_format=torch.library.channels_last)
        make = _trains if trains else _forward
        step = make(torch, module, settings, laid, labels, is_compiled=is_compiled)
        try:
            step()
        except Exception as error:
            if not is_compiled:
                raise
            notes.append(f"{way} is left out: {shortened(f'{type(error).__name__}: {error}')}")
            continue
        steps[f"torch {way}"] = step
    if not steps:
        raise UserError(f"none of PyTorch's ways can be had: {'; '.join(notes)}; ask for others by --ways")
    return steps, notes


def _opened(dtype: str) -> tuple[_Torch, list[str]]:
    import jax

    from jtl.data.workers import num_cores
    from jtl.verbs.bench.torch_models import imported

    library = imported("torch")
    is_gpu = jax.default_backend() == "gpu"
    if is_gpu and not library.cuda.is_available():
        raise UserError("jax uses a GPU and PyTorch here sees none; install a PyTorch for CUDA")
    device = "cuda" if is_gpu else "cpu"
    notes = []
    library.manual_seed(0)
    if is_gpu:
        if dtype != BFLOAT16:
            # What XLA multiplies float32 in by default.
            library.set_float32_matmul_precision("high")
            notes.append("float32 matrix products of both are in TF32")
    else:
        library.set_num_threads(num_cores())

    def precision() -> Any:
        if dtype != BFLOAT16:
            return nullcontext()
        return library.autocast(device, dtype=library.bfloat16)

    return _Torch(library, device, precision, library.cuda.synchronize if is_gpu else lambda: None), notes


def _batch(torch: _Torch, found: Subject) -> tuple[Any, Any]:
    """Return jtl's own batch on the device, inputs and labels; images are normalised, channels first."""
    import numpy as np

    from jtl.strategies.contract import TRAIN
    from jtl.verbs.bench import subject

    batch = subject.batch(found)[TRAIN]
    label = torch.library.from_numpy(np.asarray(batch["label"])).to(torch.device)
    if isinstance(batch["inputs"], Mapping):
        tensors = {name: torch.library.from_numpy(leaf) for name, leaf in batch["inputs"].items()}
        return {
            name: (leaf if leaf.dtype == torch.library.bool else leaf.long()).to(torch.device)
            for name, leaf in tensors.items()
        }, label
    images = np.ascontiguousarray(np.moveaxis(batch["inputs"], -1, 1), np.float32) / 127.5 - 1
    return torch.library.from_numpy(images).to(torch.device), label


def _compiler_fault(torch: _Torch) -> str:
    """Return why `torch.compile` cannot work here; "" where it may."""
    if torch.device == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        return f"torch.compile is left out: it needs a C++ compiler ({', '.join(COMPILERS)})"
    return ""


def _trains(
    torch: _Torch, module: Any, settings: Any, inputs: Any, labels: Any, *, is_compiled: bool
) -> Callable[[], object]:
    trained = [each for each in module.parameters() if each.requires_grad]
    optimizer = _optimizer(torch, trained, settings.optim)
    loss_of = _loss(torch, settings)

    def forward(inputs: Any, labels: Any) -> Any:
        with torch.precision():
            return loss_of(module(inputs), labels)

    run = torch.library.compile(forward) if is_compiled else forward

    def step() -> None:
        loss = run(inputs, labels)
        loss.backward()
        if settings.optim.clip_norm:
            torch.library.nn.utils.clip_grad_norm_(trained, settings.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.sync()

    return step


def _forward(
    torch: _Torch, module: Any, settings: Any, inputs: Any, labels: Any, *, is_compiled: bool
) -> Callable[[], object]:
    del settings, labels

    def forward(inputs: Any) -> Any:
        with torch.precision():
            return module(inputs)

    run = torch.library.compile(forward) if is_compiled else forward

    def step() -> None:
        with torch.library.inference_mode():
            run(inputs)
        torch.sync()

    return step


def _loss(torch: _Torch, settings: Any) -> Callable[[Any, Any], Any]:
    functional = torch.library.nn.functional
    smoothing = getattr(settings.task, "label_smoothing", 0.0)
    losses = {
        "multiclass": lambda logits, labels: functional.cross_entropy(
            logits, labels, label_smoothing=smoothing
        ),
        "multilabel": functional.binary_cross_entropy_with_logits,
        "regression": functional.mse_loss,
    }
    if settings.task.name not in losses:
        raise UserError(
            f"--against torch has no loss for task.name {settings.task.name!r}; expected {', '.join(losses)}"
        )
    return losses[settings.task.name]


def _optimizer(torch: _Torch, trained: list[Any], config: Any) -> Any:
    optim = torch.library.optim
    rate, betas = config.learning_rate, (config.momentum, config.beta2)
    made: dict[str, Callable[[], Any]] = {
        "adamw": lambda: optim.AdamW(trained, rate, betas, config.epsilon, config.weight_decay, fused=True),
        "adam": lambda: optim.Adam(trained, rate, betas, config.epsilon, fused=True),
        "sgd": lambda: optim.SGD(trained, rate, config.momentum, fused=True),
        "nesterov": lambda: optim.SGD(trained, rate, config.momentum, nesterov=True, fused=True),
    }
    if config.name not in made:
        raise UserError(
            f"--against torch has no optimizer like optim.name {config.name!r}; expected one of "
            f"{', '.join(made)}"
        )
    return made[config.name]()
