"""The command line as a user meets it: help, exit codes, and one clear line for each fault."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl import cli
from jtl.verbs import VERBS

TINY = [
    *("train", "--config", "configs/smoke.py", "--config.train.steps=2", "--config.sharding.devices=1"),
    *("--config.model.depth=1", "--config.train.eval_every=2"),
]


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the last line on stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(words))
    return int(stop.value.code or 0), capsys.readouterr().err.strip().rpartition("\n")[2]


def _image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes with 12 images each."""
    for seed in range(24):
        _image(tmp_path / "photos" / ("cat" if seed % 2 else "dog") / f"{seed}.png", seed)
    return tmp_path / "photos"


class _Evil:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_help_comes_without_heavy_imports_and_lists_every_verb() -> None:
    code = (
        "import sys; from jtl import cli; cli._parser().print_help(); "
        "heavy = {'jax', 'flax', 'grain', 'orbax', 'numpy'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert all(verb in shown.stdout for verb in VERBS)


def test_module_and_console_script_are_the_same_command() -> None:
    shown = [
        subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=True).stdout
        for words in (["jtl", "train", "--help"], ["jtl.main", "--help"])
    ]
    assert shown[0] == shown[1]


def test_good_run_exits_0_and_prints_one_json_object(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*TINY, "--workdir", str(tmp_path / "run"), "--json"])
    shown = capsys.readouterr()
    assert stop.value.code == 0
    assert json.loads(shown.out)["status"] == "finished"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.optim.learning_rat=1"], "config key optim.learning_rat; nearest: 'learning_rate'"),
        (["--config.data.name=image_folder", "--config.data.path=nowhere"], "nowhere"),
        (["--config.strategy.name=partial", "--config.strategy.rules=(('haed',1.),)"], "matches no param"),
        (["--config.model.weights=nowhere.safetensors"], "weights 'nowhere.safetensors' are not there"),
        (["--config.model.weights=ftp://host/file"], "unknown ftp://"),
        (["--config.optim.name=sgd", "--config.optim.learning_rate=1e38", "--config.optim.clip_norm=0",
          "--config.optim.warmup=0", "--config.train.steps=20"], "expected finite numbers"),
    ],
)  # fmt: skip
def test_fault_is_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    code, line = _run(capsys, *TINY, "--workdir", str(tmp_path / "run"), *words)
    assert code == 2
    assert line.startswith("jtl: error: ")
    assert message in line


def test_missing_config_is_one_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = _run(capsys, "train", "--config", "configs/vit_tf.py")
    assert (code, line.startswith("jtl: error: config file 'configs/vit_tf.py' is not there")) == (2, True)


def test_existing_run_of_another_configuration_is_one_line_and_stays(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, line = _run(capsys, *TINY, "--workdir", str(tmp_path))
    assert code == 2
    assert "is not empty and no run folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_class_is_named(capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path) -> None:
    (photos / "bird").mkdir()
    words = [
        "--config.data.name=image_folder",
        f"--config.data.path={photos}",
        "--workdir",
        str(tmp_path / "run"),
    ]
    code, line = _run(capsys, *TINY, *words)
    assert code == 2
    assert "bird" in line


def test_unreadable_image_is_named_and_skipped_only_within_a_limit(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    (photos / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 this is no image")
    words = ["--config.data.name=image_folder", f"--config.data.path={photos}", "--config.train.batch_size=4"]
    code, line = _run(capsys, *TINY, *words, "--workdir", str(tmp_path / "strict"))
    assert code == 2
    assert "broken.jpg" in line
    assert "max_unreadable" in line
    with pytest.raises(SystemExit) as stop:
        cli.main([*TINY, *words, "--config.data.max_unreadable=1", "--workdir", str(tmp_path / "lenient")])
    assert stop.value.code == 0
    assert "broken.jpg" in capsys.readouterr().err


def test_label_out_of_range_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8), np.uint8)
    labels = np.array([0, 1, 2, 0, -1, 2])
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels)
    words = ["--config.data.name=arrays", f"--config.data.path={tmp_path / 'data.npz'}"]
    code, line = _run(capsys, *TINY, *words, "--workdir", str(tmp_path / "run"))
    assert code == 2
    assert "-1" in line


def test_malicious_pickle_is_refused_and_does_not_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": _Evil(tmp_path / "proof")}))
    code, line = _run(
        capsys, *TINY, f"--config.model.weights={tmp_path / 'evil.pth'}", "--workdir", str(tmp_path / "run")
    )
    assert code == 2
    assert line.startswith("jtl: error: ")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_truncated_weights_are_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str, kept: float
) -> None:
    path, arrays = tmp_path / f"weights{suffix}", {"head/kernel": np.ones((64, 10), np.float32)}
    (save_file if suffix == ".safetensors" else lambda arrays, path: np.savez(path, **arrays))(arrays, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    code, line = _run(capsys, *TINY, f"--config.model.weights={path}", "--workdir", str(tmp_path / "run"))
    assert code == 2
    assert path.name in line


def test_weights_of_another_model_are_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_file({"fc.weight": np.ones((10, 64), np.float32)}, tmp_path / "other.safetensors")
    words = [f"--config.model.weights={tmp_path / 'other.safetensors'}", "--workdir", str(tmp_path / "run")]
    code, line = _run(capsys, *TINY, *words)
    assert code == 2
    assert "other.safetensors" in line


def test_bug_shows_its_traceback_and_exits_1() -> None:
    code = (
        "from jtl import cli, verbs; from jtl.verbs.contract import Verb; "
        "verbs.VERBS['train'] = Verb('', lambda parser: None, lambda *_: 1 / 0); cli.main(['train'])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "ZeroDivisionError" in shown.stderr


def test_weights_verbs_list_inspect_and_convert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["weights", "list", "--json"])
    assert not stop.value.code
    names = [each["name"] for each in json.loads(capsys.readouterr().out)["weights"]]
    assert "vit_tiny_patch16_224.augreg_in21k_ft_in1k" in names
    out = tmp_path / "mini.safetensors"
    with pytest.raises(SystemExit) as stop:
        cli.main(["weights", "convert", "embedded://vit_mini", "--to", "safetensors-timm", "--out", str(out)])
    assert not stop.value.code
    assert "timm names" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["weights", "inspect", str(out), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["origin"], found["model"]["name"]) == ("timm", "vit")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("weights", "convert", "embedded://vit_mini", "--to", "pickle", "--out", "x"), "--to is 'pickle'"),
        (("weights", "inspect", "embedded://vit_mino"), "nearest: 'vit_mini'"),
        (("weights", "inspect", "embedded://vit_mini", "--config.a.b=1"), "reads no configuration"),
        (
            ("predict", "--weights", "embedded://vit_mini", "nowhere.png"),
            "'nowhere.png' is not there; expected a file",
        ),
        (
            ("features", "--weights", "embedded://vit_mini", "--data", "nowhere", "--out", "x.npz"),
            "'nowhere' is not there",
        ),
        (("weights", "verify", "embedded://vit_mini", "--against", "nowhere"), "'nowhere' is not there"),
    ],
)
def test_bad_requests_of_the_weights_verbs_are_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, line = _run(capsys, *words)
    assert code == 2
    assert line.startswith("jtl: error: ")
    assert message in line
