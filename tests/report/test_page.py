"""report.html: strangers' texts stay text, one file with no network, and a browser shows it."""

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl import metrics
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.report import card, charts, evaluation, folder, gallery, html, page, scores, summary
from jtl.report.bootstrap import Settings
from jtl.verbs import report

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
NAMES = (EVIL, "bee & wasp", "ünïcode 蜂")
# What a page without scripts may be made of.
TAGS = set(
    [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "footer",
        "section",
        "div",
        "span",
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "b",
        "i",
        "small",
        "pre",
        "ul",
        "li",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "figure",
        "figcaption",
        "blockquote",
        "img",
        "svg",
        "line",
        "polyline",
        "text",
        "circle",
        "rect",
    ]
)


RESULT = {
    "status": "finished",
    "steps": 20,
    "best": {"step": 20},
    "final": {},
    "examples_per_second": 3.5,
    "seconds": {"load": 1.0, "step": 2.0},
    "parameters": {"total": 1000, "trainable": 10},
    "weights": {"source": EVIL, "sha256": ""},
    "digest": "ab",
}


class _Read(HTMLParser):
    """What a browser finds: tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _read(text: str) -> _Read:
    found = _Read()
    found.feed(text)
    return found


def _picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _overlay(*, is_text: bool) -> gallery.Overlay:
    if is_text:
        return gallery.Overlay(tokens=((EVIL, 1.0), ("bad", -0.5)))
    return gallery.Overlay(picture=INPUTS["image"].glimpse(_picture()).picture)


def _config(seed: int) -> dict[str, Any]:
    return {
        "model": {"name": "vit", "size": "ti16", "weights": f"hf://timm/{EVIL}"},
        "strategy": {"name": "lora"},
        "task": {"name": "multiclass"},
        "data": {"path": f"data/{EVIL}"},
        "optim": {"name": "adamw", "learning_rate": 10.0**-seed},
        "train": {"seed": seed},
    }


def _facts(unit: str, count: int) -> dict[str, Any]:
    return {
        "command": f"jtl train {EVIL}",
        "unit": unit,
        "data": {
            "train": {"num_examples": count, "classes": dict.fromkeys(NAMES, 20), "sizes": {EVIL: [1] * 5}}
        },
        "preprocess": EVIL,
        "explained": EVIL,
        "weights": EVIL,
        "freeze": [
            {
                "name": EVIL,
                "num_params": 10,
                "num_trainable": 5,
                "multipliers": [1, 2],
                "weight_decay": 0.1,
                "start_step": 0,
            }
        ],
    }


def write_run(path: Path, *, seed: int = 0, text: str = "") -> Path:
    """Write what a run leaves of itself, with strangers' names; its examples are texts where one is given."""
    random, count = np.random.default_rng(seed), 60
    labels = random.integers(0, 3, count)
    logits = (random.normal(size=(count, 3)) + 2 * np.eye(3)[labels]).astype(np.float32)
    odds = np.exp(logits)
    scored = scores.Scored(logits, odds / odds.sum(1, keepdims=True), labels, NAMES)
    matrix = np.zeros((3, 3), np.int64)
    np.add.at(matrix, (labels, logits.argmax(1)), 1)
    hits, actual, taken = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    (path / "val").mkdir(parents=True)
    accuracy = float(hits.sum() / count)
    kind = INPUTS["tokens" if text else "image"]
    shown = gallery.items(
        gallery.chosen("class", scored),
        lambda index: f"{EVIL}/{index}.png",
        lambda index: kind.glimpse(text or _picture()),
        dict.fromkeys(range(count), _overlay(is_text=bool(text))),
    )
    per_class = {
        "recall": metrics.ratio(hits, actual),
        "precision": metrics.ratio(hits, taken),
        "count": actual,
    }
    settings = Settings(resamples=50)
    measured = {
        "split": "val",
        "num_examples": count,
        "metrics": {"accuracy": accuracy, "loss": 0.5},
        "per_class": per_class,
        "label_names": NAMES,
        **evaluation.as_json(scores.of("class", scored, settings), settings),
        **evaluation.confusions(matrix, NAMES),
    }
    meta = {"label_names": NAMES, "notes": [EVIL], "versions": {"jtl": EVIL}, "device": EVIL}
    about = {"config": _config(seed), "meta": meta, "summary": RESULT, "report": _facts(kind.unit, count)}
    for name, value in about.items():
        summary.write_json(path / f"{name}.json", value)
    summary.write_json(path / "val" / "metrics.json", measured)
    summary.write_json(path / "val" / "gallery.json", shown)
    lines = [{"step": step, "train/loss": 1 / step, "val/accuracy": accuracy} for step in range(1, 400)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "two", seed=1, text=f"{EVIL} bad film\x00")


@pytest.mark.parametrize("which", ["run", "other"])
def test_names_and_texts_of_strangers_are_no_markup(which: str, request: pytest.FixtureRequest) -> None:
    found = _read(page.of_run(folder.read(request.getfixturevalue(which))))
    assert found.tags <= TAGS
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    words = "".join(found.words)
    # The title and the classes in it are shown as they are.
    assert words.count("<script>alert(1)</script>") > 10
    links = [value for name, value in found.attributes if name in ("src", "href", "action", "data")]
    assert all(value.startswith("data:image/jpeg;base64,") for value in links)


def test_page_says_what_was_trained_and_how_well_and_shows_every_part(run: Path) -> None:
    text = page.of_run(folder.read(run))
    words = "".join(_read(text).words)
    for part in (
        *(
            "Results on val",
            "Curves",
            "Classes, the worst first",
            "Confusions, the largest first",
            "Calibration",
        ),
        *("The mistakes it is surest of", "Taken by chance", "The data before training", "Speed and memory"),
        *("Weights, and what of them trained", "How to make it again", "configuration", "versions", "Notes"),
    ):
        assert part in words
    found = json.loads((run / "val" / "metrics.json").read_text())
    row = found["scores"]["auroc"]
    assert f"{row['value']:.4f}" in words
    assert f"{row['low']:.4f} to {row['high']:.4f}" in words
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert not re.search(r"https?://(?!huggingface)", text.replace("hf://", ""))
    assert len(text) < 5_000_000


def test_largest_confusion_comes_first(run: Path) -> None:
    found = json.loads((run / "val" / "metrics.json").read_text())["confusions"]
    assert [row["count"] for row in found] == sorted((row["count"] for row in found), reverse=True)
    assert all(row["true"] != row["predicted"] for row in found)


def test_mistakes_come_from_the_surest_and_the_random_ones_are_the_same_again() -> None:
    labels = np.array([0, 0, 1, 1])
    logits = np.array([[5, 0], [0, 1], [4, 0], [0, 2]], np.float32)
    scored = scores.Scored(logits, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels, ("a", "b"))
    picks = gallery.chosen("class", scored)
    assert [pick.row for pick in picks if pick.why == gallery.MISTAKES] == [2, 1]
    assert picks == gallery.chosen("class", scored)
    assert (picks[0].label, picks[0].predicted, picks[0].is_right) == ("b", "a", False)


def test_texts_are_shown_as_texts(other: Path) -> None:
    text = page.of_run(folder.read(other))
    assert "<blockquote" in text
    assert "<img" not in text


def test_picture_that_is_no_base64_is_left_out(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    items = json.loads((copy / "val" / "gallery.json").read_text())
    summary.write_json(
        copy / "val" / "gallery.json", [{**items[0], "picture": '"onerror=alert(3)', "overlay": ""}]
    )
    assert "<img" not in page.of_run(folder.read(copy))


def test_run_that_measured_nothing_has_a_page_all_the_same(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "val")
    for name in ("metrics.jsonl", "report.json"):
        (copy / name).unlink()
    assert "finished" in page.of_run(folder.read(copy))
    assert "model-index" not in card.metadata(folder.read(copy))


def test_runs_stand_side_by_side_with_the_settings_that_differ(
    run: Path, other: Path, tmp_path: Path
) -> None:
    found = report.run(runs=[str(run), str(other)], out=str(tmp_path / "both.html"))
    text = (tmp_path / "both.html").read_text()
    words = "".join(_read(text).words)
    assert found["num_bytes"] == len(text.encode())
    assert "2 runs side by side" in words
    assert "optim.learning_rate" in words
    assert "train.seed" in words
    assert "strategy.namelora" not in words.replace(" ", "")
    assert _read(text).tags <= TAGS


def test_report_of_a_folder_that_is_no_run_is_one_line(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        report.run(runs=[str(tmp_path)])
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "report.json").write_text('{"freeze": [3]}')
    with pytest.raises(UserError, match="does not say what a run writes"):
        report.run(runs=[str(copy)])
    (copy / "summary.json").unlink()
    with pytest.raises(UserError, match=r"has no summary\.json yet"):
        report.run(runs=[str(copy)])


def test_attributes_and_text_are_escaped_and_markup_is_kept() -> None:
    assert html.element("p", html.element("b", "x"), "<", title="'\"<") == (
        '<p title="&#x27;&quot;&lt;"><b>x</b>&lt;</p>'
    )
    assert html.text("a\x00\ud800b") == "a\ufffd\\ud800b"


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    series = {"train/loss": [(step, 1.0 + step) for step in range(100_000)]}
    drawn = charts.lines(series, label="step")
    assert len(drawn) < 30_000
    assert "nan" not in drawn
    assert charts.lines({"a": [(1, 0.5)]}, label="step").count("circle") > 0


def test_card_is_read_by_the_hub_library_with_results_and_intervals(run: Path) -> None:
    from huggingface_hub import ModelCard

    path = card.write(run, licence="apache-2.0")
    found = ModelCard.load(path)
    assert found.data.license == "apache-2.0"
    assert found.data.library_name == "jtl"
    assert found.data.pipeline_tag == "image-classification"
    results = {each.metric_type: each for each in found.data.eval_results or []}
    told = json.loads((run / "val" / "metrics.json").read_text())
    assert results["accuracy"].metric_value == told["metrics"]["accuracy"]
    row = told["scores"]["auroc"]
    assert results["roc_auc"].metric_args == {"interval_95": [row["low"], row["high"]]}
    assert "<script" not in found.text.replace("&lt;script", "")
    for part in ("## Results", "## Recipe", "## Use", "## Limits", "worst class on val"):
        assert part in found.text


def _browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return found


def _in_browser(browser: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_screen_of_a_browser_and_runs_no_script(run: Path, tmp_path: Path, width: int) -> None:
    """The page stands in a frame as wide as the screen, and a script outside measures it."""
    path = report.run(runs=[str(run)], out=str(tmp_path / "report.html"))["report"]
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f src='report.html' width={width} height=900></iframe><pre id=o></pre><script>"
        "f.onload = () => { const d = f.contentDocument; const out = [];"
        "out.push(d.documentElement.scrollWidth <= f.clientWidth);"
        "out.push(d.querySelectorAll('img').length);"
        "out.push([...d.images].every(i => i.complete && i.naturalWidth > 0));"
        "out.push(d.scripts.length); o.textContent = 'found ' + out.join(' '); }</script>",
        encoding="utf-8",
    )
    done = _in_browser(
        _browser(),
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        "--dump-dom",
        frame.as_uri(),
    )
    shown = re.search(r"found (\w+) (\d+) (\w+) (\d+)", done.stdout)
    assert shown, done.stdout[-500:] + done.stderr[-500:]
    pictures = Path(path).read_text().count("<img")
    assert shown.groups() == ("true", str(pictures), "true", "0")


@pytest.mark.slow
def test_page_is_dark_where_the_screen_is(run: Path, tmp_path: Path) -> None:
    browser, lightness = _browser(), []
    path = Path(report.run(runs=[str(run)], out=str(tmp_path / "report.html"))["report"])
    for name, options in {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}.items():
        picture = tmp_path / f"{name}.png"
        _in_browser(browser, *options, "--window-size=800,600", f"--screenshot={picture}", path.as_uri())
        lightness.append(float(np.asarray(Image.open(picture).convert("L")).mean()))
    assert lightness[0] > 200 > 80 > lightness[1]
