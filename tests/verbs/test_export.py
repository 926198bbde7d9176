"""`jtl export`: what is written is compared before it is kept, and predicts what the model predicts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import jtl
from jtl.errors import UserError
from jtl.export import TARGETS, parity, write
from jtl.verbs import export, predict
from jtl.weights import FAMILIES
from tests.weights import writing

OPTIONS: dict[str, Any] = {
    "batch_size": 2,
    "overrides": (("sharding.devices", "1"), ("model.image_px", "16")),
}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ViT of three classes in timm's names."""
    path = tmp_path_factory.mktemp("vit") / "tiny.safetensors"
    save_file(writing.named(FAMILIES["vit"].origins["timm"], writing.leaves_of("vit")), path)
    return str(path)


def exported(weights: str, photos: Path, to: str, out: Path, **options: Any) -> dict[str, Any]:
    return export.run(weights=weights, data=str(photos), to=to, out=str(out), **{**OPTIONS, **options})


def test_program_predicts_what_the_model_predicts(weights: str, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="programs are written with the package flatbuffers")
    out = tmp_path / "out"
    done = exported(weights, photos, "stablehlo", out, num_examples=0)
    assert done["files"] == ["README.md", "export.json", "model.safetensors", "model.stablehlo"]
    assert done["compared"]["num_examples"] == done["compared"]["num_same"] == 5
    assert done["compared"]["largest"] <= parity.TOLERANCE
    found = predict.run(artefact=str(out), inputs=(str(photos),), batch_size=3)
    expected = predict.run(weights=weights, inputs=(str(photos),), **OPTIONS)
    for ours, theirs in zip(found["images"], expected["images"], strict=True):
        assert ours["path"] == theirs["path"]
        for one, other in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert one["index"] == other["index"]
            assert one["value"] == pytest.approx(other["value"], abs=1e-5)
    record = json.loads((out / "export.json").read_text())
    assert record["inputs"] == {"": "uint8 [batch, 16, 16, 3]"}
    loaded = jtl.load(out)
    first = [row["predictions"][0]["value"] for row in found["images"]]
    np.testing.assert_allclose([each.value for each in loaded.predict(photos)], first, atol=1e-6)
    for asked in (loaded.explain, loaded.evaluate):
        with pytest.raises(ValueError, match=r"is a program, which|is an artefact, whose data"):
            asked(photos)
    with pytest.raises(ValueError, match="which names its own classes; leave it out"):
        jtl.load(out, classes=["a", "b", "c"])
    assert str(tmp_path) not in (out / "README.md").read_text() + (out / "export.json").read_text()
    assert str(photos) not in (out / "README.md").read_text() + (out / "export.json").read_text()


@pytest.mark.parametrize("to", ["timm", "huggingface"])
def test_folder_of_a_library_is_read_from_its_files_alone(
    vit: str, photos: Path, tmp_path: Path, to: str
) -> None:
    done = exported(vit, photos, to, tmp_path / "out", overrides=(("sharding.devices", "1"),))
    assert done["compared"]["largest"] <= parity.TOLERANCE * done["compared"]["scale"]
    assert done["compared"]["num_same"] == 5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {"timm": config.get("num_classes"), "huggingface": len(config.get("id2label", ()))}[to] == 3


def test_artefact_that_says_something_else_is_not_kept(
    weights: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, opened = tmp_path / "out", TARGETS["timm"]
    logits = iter([np.zeros((5, 3)), np.ones((5, 3))])
    monkeypatch.setattr(parity, "logits", lambda *_: next(logits))
    monkeypatch.setitem(TARGETS, "timm", opened._replace(write=lambda job, part: [], open=lambda part: None))
    with pytest.raises(UserError, match=r"does not say what the model says: .* 1.0e\+00 .* nothing was kept"):
        exported(weights, photos, "timm", out)
    assert list(tmp_path.iterdir()) == []


def test_int8_that_changes_classes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from jtl.export import Job
    from tests import tiny

    job, notes = Job(tiny.make_predictor("vit"), "runs/tiny", is_int8=True), []
    write._check(job, parity.Parity(100, 0.3, 5.0, 99), notes)
    assert notes == ["int8: kernels as whole numbers, one scale an output channel; computed in float32"]
    with pytest.raises(UserError, match=r"another class for 2 of 100 .* at most 1%: leave out --int8"):
        write._check(job, parity.Parity(100, 0.3, 5.0, 98), notes)


def test_what_cannot_be_exported_is_refused_before_anything_is_read(
    weights: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--to is 'onyx'; expected one of .*; nearest: 'onnx'"):
        exported(weights, photos, "onyx", tmp_path / "out")
    with pytest.raises(UserError, match="--weights needs --data"):
        export.run(weights=weights, to="timm", out=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"is there already; give another folder"):
        exported(weights, photos, "timm", photos)
    with pytest.raises(UserError, match=r"folder .*nowhere' is not there; make it first"):
        exported(weights, photos, "timm", tmp_path / "nowhere" / "out")
    with pytest.raises(UserError, match=r"is no artefact: export.json is missing; expected what jtl export"):
        predict.run(artefact=str(tmp_path), inputs=(str(photos),))


def test_models_and_options_that_a_library_has_not_got_are_refused(
    weights: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="timm has no models of family 'cifar_resnet'; choose another --to"):
        exported(weights, photos, "timm", tmp_path / "out")
    with pytest.raises(UserError, match="--int8 is given with --to timm, which is weights for the program"):
        exported(weights, photos, "timm", tmp_path / "out", is_int8=True)
    assert list(tmp_path.iterdir()) == []
