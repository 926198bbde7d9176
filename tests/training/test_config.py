import json
from dataclasses import fields
from pathlib import Path

import jax.numpy as jnp
import pytest

from jtl.data import pipeline
from jtl.errors import UserError
from jtl.strategies import STRATEGIES
from jtl.training import config, optim

SMOKE = "configs/smoke.py"


@pytest.mark.parametrize(
    "spec",
    [
        "configs/clip_ft.py:embedded://vit_mini",
        "configs/cub.py",
        "configs/cub.py:bi_tuning",
        "configs/cub.py:co_tuning",
        "configs/cub.py:delta",
        "configs/cub.py:l2_sp",
        "configs/da.py",
        "configs/da.py:office31,mcc",
        "configs/da.py:officehome,cdan",
        "configs/da.py:officehome,mdd",
        "configs/da.py:officehome,dan",
        "configs/da.py:office31,full",
        *(f"configs/few_shot.py:{name}" for name in ("proto_net", "maml", "anil", "reptile")),
        "configs/ft.py",
        "configs/ft.py:embedded://vit_mini",
        "configs/vit_ft.py",
        "configs/vit_ft.py:ti16",
        "configs/vit_ft.py:b16",
        "configs/vit_probe.py",
        "configs/vit_probe.py:s16",
        *(f"configs/transfer.py:{name}" for name in STRATEGIES),
        "configs/transfer.py:lora,embedded://vit_mini",
        "configs/resnet_ft.py",
        "configs/resnet_ft.py:50",
        "configs/vit_pretrain.py",
        "configs/pretrain_text.py:embedded://vit_mini",
        SMOKE,
    ],
)
def test_every_config_reads_and_survives_json(spec: str) -> None:
    read = config.read(spec)
    again = config.from_dict(json.loads(json.dumps(config.to_dict(read))))
    assert again == read


def test_every_file_in_configs_is_tested_above() -> None:
    marks = test_every_config_reads_and_survives_json.pytestmark  # type: ignore[attr-defined]
    tested = {spec.partition(":")[0] for spec in marks[0].args[1]}
    assert tested == {str(path) for path in Path("configs").glob("*.py")}


@pytest.mark.parametrize(
    ("spec", "rate", "decay", "steps"),
    [
        ("office31,full", 0.001, 0.0003, 2_500),
        ("officehome,dan", 0.003, 0.0003, 10_000),
        ("office31,dann", 0.01, 0.001, 20_000),
        ("officehome,mdd", 0.004, 0.0002, 30_000),
        ("office31,mcc", 0.005, 0.001, 10_000),
        ("officehome,mcc", 0.005, 0.001, 30_000),
    ],
)
def test_rates_of_adaptation_are_those_of_the_published_scripts_at_every_step(
    spec: str, rate: float, decay: float, steps: int
) -> None:
    """The script's rate at step n is rate (1 + decay n)^-0.75 for the head, a tenth of it below."""
    read = config.read(f"configs/da.py:{spec}")
    assert read.train.steps == steps
    at = optim.schedule(read.optim, steps)
    for step in (0, steps // 3, steps - 1):
        expected = rate * (1 + decay * step) ** -0.75
        assert float(at(jnp.asarray(step))) * read.optim.head_multiplier == pytest.approx(expected, rel=1e-5)
    assert read.optim.head_multiplier == 10.0


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("optim.learning_rate", "1e-3", 1e-3),
        ("optim.learning_rate", "1", 1.0),
        ("train.steps", "1e3", 1000),
        ("train.seed", "7", 7),
        ("model.head_widths", "(64, 32)", (64, 32)),
        ("model.head_widths", "[64]", (64,)),
        ("model.image_px", "(32, 64)", (32, 64)),
        ("model.image_px", "32", 32),
        ("model.weights", "1e3", "1e3"),
        ("model.remat", "dots", "dots"),
        ("data.name", "digits", "digits"),
    ],
)
def test_override_takes_the_type_of_its_field(name: str, text: str, expected: object) -> None:
    section, field = name.split(".")
    found = getattr(getattr(config.read(SMOKE, [(name, text)]), section), field)
    assert found == expected
    assert type(found) is type(expected)


def test_override_reaches_settings_the_file_does_not_name() -> None:
    found = config.read(
        SMOKE, [("strategy.name", "partial"), ("strategy.rules", "(('^head/', 1),)"), ("baseline", "true")]
    )
    assert found.strategy.rules == (("^head/", 1.0),)
    assert found.baseline is True


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("optim.learning_rat", "1", "unknown config key optim.learning_rat; nearest: 'learning_rate'"),
        ("optimizer.learning_rate", "1", "unknown config section 'optimizer'; nearest: 'optim'"),
        ("model.name", "vti", "unknown model.name 'vti'; nearest: 'vit'"),
        ("strategy.name", "prob", "unknown strategy.name 'prob'; nearest: 'probe'"),
        ("strategy.rules", "(('a', 1),)", "unknown config key strategy.rules; nearest: 'name'"),
        (
            "train.steps",
            "many",
            "config.train.steps is 'many'; expected a number, true, false, or a tuple in quotes",
        ),
        ("train.steps", "1.5", "config.train.steps is 1.5; expected int"),
        ("train.steps", "true", "config.train.steps is True; expected int"),
        ("model.remat", "some", "model.remat is 'some'; expected one of .*'dots', 'full', 'none'"),
        ("model.head_widths", "64", "config.model.head_widths is 64; expected a tuple such as"),
        ("augment.crop_scale", "(0.5,)", "config.augment.crop_scale is .*; expected 2 values"),
        ("train.batch_size", "0", "train.batch_size is 0; expected 1 or more"),
        ("train.batch_stats", "thawed", "train.batch_stats is 'thawed'; expected 'frozen' or 'adapt'"),
        ("train", "3", "config.train is '3'; expected a section with settings"),
        ("train.steps.more", "3", "--config.train.steps.more: 'steps' is a value, not a section"),
    ],
)
def test_bad_override_says_what_was_found_and_expected(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.read(SMOKE, [(name, text)])


def test_missing_config_file_and_file_without_function_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config file 'configs/nope.py' is not there"):
        config.read("configs/nope.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="has no function get_config"):
        config.read(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 5\n", "gives 5; expected an ml_collections ConfigDict"),
        (
            "def get_config():\n    return 1 / 0\n",
            "get_config of .* failed: ZeroDivisionError in line 2: division by zero",
        ),
        ("def get_config(:\n", "cannot be read: SyntaxError"),
        ("raise RuntimeError('boom')\n", "cannot be read: RuntimeError in line 1: boom"),
        ("get_config = 5\n", "has no function get_config"),
        ("def deep(): deep()\ndeep()\n", "cannot be read: RecursionError"),
    ],
)
def test_config_file_that_gives_no_settings_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        config.read(str(tmp_path / "mine.py"))


def test_folder_or_json_for_a_config_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a folder; expected a Python file"):
        config.read(str(tmp_path))
    with pytest.raises(UserError, match=r"config.json' is no Python file; .* by the command it began with"):
        config.read(str(tmp_path / "config.json"))


@pytest.mark.parametrize("value", ["9" * 5_000, "(" * 6_000, "x" * 10_000, "0x" + "f" * 5_000])
@pytest.mark.parametrize("name", ["optim.learning_rate", "train.steps", "model.name", "optim.name", "train"])
def test_long_values_and_names_are_cut(name: str, value: str) -> None:
    for overrides in ([(name, value)], [(value, "1")], [(f"train.{value}", "1")], [(f"{value}.x.y", "1")]):
        with pytest.raises(UserError) as caught:
            config.read(SMOKE, overrides)
        assert len(str(caught.value)) < 700
    assert len(config.repeated([(value, value), (value, "1")])[0]) < 400


def test_setting_given_twice_is_said_and_the_last_counts() -> None:
    overrides = [("train.seed", "1"), ("train.steps", "3"), ("train.steps", "3"), ("train.seed", "2")]
    assert config.read(SMOKE, overrides).train.seed == 2
    assert config.repeated(overrides) == ["--config.train.seed is given 2 times: the last, '2', counts"]


def test_argument_the_file_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"size 'ti17' is not in configs/vit_ft.py; expected one of ti16, "):
        config.read("configs/vit_ft.py:ti17")
    with pytest.raises(UserError, match=r"config file 'configs/smoke.py' takes no argument; found 'ti16'"):
        config.read("configs/smoke.py:ti16")
    with pytest.raises(
        UserError, match=r"'office31,adda' is not in configs/da.py; expected one of office31,"
    ):
        config.read("configs/da.py:office31,adda")


def test_conflicts_name_what_changed_and_pass_over_what_may_change() -> None:
    old = json.loads(json.dumps(config.to_dict(config.read(SMOKE))))
    faster = config.read(SMOKE, [("input.threads", "7"), ("input.workers", "2"), ("train.log_every", "5")])
    assert config.conflicts(faster, old) == []
    other = config.read(SMOKE, [("optim.learning_rate", "1"), ("train.seed", "3")])
    assert config.conflicts(other, old) == ["optim.learning_rate: 0.003 -> 1.0", "train.seed: 0 -> 3"]
    # What others follow from is told first.
    other = config.read(SMOKE, [("model.dim", "8"), ("strategy.name", "probe")])
    assert [each.partition(":")[0] for each in config.conflicts(other, old)][:2] == [
        "strategy.name",
        "model.dim",
    ]


def test_how_batches_are_read_may_change_but_for_what_is_in_them() -> None:
    names = {f"inputs.{field.name}" for field in fields(pipeline.Config)}
    assert names - set(config.RESUMABLE) == {"inputs.buckets", "inputs.route"}


def test_settings_newer_than_a_saved_run_count_at_their_defaults() -> None:
    now = config.read(SMOKE)
    old = json.loads(json.dumps(config.to_dict(now)))
    del old["optim"]["swa_start"], old["data"]["folds"]
    assert config.conflicts(now, old) == []
    assert config.conflicts(config.read(SMOKE, [("optim.swa_start", "0.5")]), old) == [
        "optim.swa_start: 0.0 -> 0.5"
    ]
    old["optim"]["nesterovs"] = True
    assert "optim.nesterovs: True -> None" in config.conflicts(now, old)


def test_another_kind_drops_what_the_file_set_for_its_own_and_checks_what_the_user_sets() -> None:
    found = config.read("configs/vit_ft.py:ti16", [("task.name", "regression"), ("task.huber_delta", "1")])
    assert found.task.huber_delta == 1.0
    with pytest.raises(UserError, match=r"unknown config key task.label_smoothing"):
        config.read("configs/vit_ft.py:ti16", [("task.name", "regression"), ("task.label_smoothing", "0.2")])


def test_config_file_with_a_fault_of_its_own_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(UserError, match=r"broken.py' cannot be read: ModuleNotFoundError"):
        config.read(str(tmp_path / "broken.py"))


def test_model_auto_is_the_one_its_weights_are_of() -> None:
    read = config.read("configs/ft.py", [("model.image_px", "28"), ("optim.learning_rate", "1e-4")])
    assert (read.model.name, read.model.size) == ("vit", "mini")
    assert read.model.weights == "embedded://vit_mini"
    assert read.model.image_px == 28


def test_model_auto_keeps_what_is_set_and_another_name_turns_it_off() -> None:
    read = config.read("configs/ft.py", [("model.name", "resnet"), ("model.size", "18")])
    assert read.model.name == "resnet"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([("model.weights", "none")], "model.name is 'auto' and model.weights 'none'"),
        ([("model.weights", "nothing.safetensors")], "weights 'nothing.safetensors' are not there"),
        ([("model.sise", "b16")], "unknown config key model.sise; nearest: 'size'"),
    ],
)
def test_model_auto_without_weights_to_tell_from_is_refused(
    overrides: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        config.read("configs/ft.py", overrides)


def test_model_auto_of_a_run_that_began_is_what_it_was_then(tmp_path: Path) -> None:
    """The weights may be gone, or others under the same name, when a command is repeated."""
    gone = str(tmp_path / "gone.safetensors")
    stored = config.to_dict(config.read("configs/ft.py", [("model.name", "vit"), ("model.weights", gone)]))
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="are not there"):
        config.read("configs/ft.py", [("model.weights", gone)], tmp_path)
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    read = config.read("configs/ft.py", [("model.weights", gone)], tmp_path)
    assert read.model == config.from_dict(stored).model
    with pytest.raises(UserError, match="are not there"):
        config.read("configs/ft.py", [("model.weights", str(tmp_path / "other"))], tmp_path)


def test_runs_saved_before_false_could_be_chosen_keep_their_models() -> None:
    now = config.read(SMOKE, [("model.size", "clip_b32")])
    old = json.loads(json.dumps(config.to_dict(now)))
    for name in ("entry", "prefix", "leave_out"):
        del old["weights"][name]
    old["model"] |= {"has_pre_norm": False, "has_patch_bias": True}
    assert config.from_dict(old).model == now.model
    assert config.conflicts(now, old) == []
    chosen = config.read(SMOKE, [("model.size", "clip_b32"), ("model.has_pre_norm", "false")])
    saved = json.loads(json.dumps(config.to_dict(chosen)))
    assert config.from_dict(saved).model.has_pre_norm is False
