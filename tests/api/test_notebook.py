"""docs/finetune.ipynb, executed cell by cell as a notebook's kernel does."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "finetune.ipynb"


def cells() -> list[str]:
    """Return the code of the notebook's cells."""
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code"]


def shown(code: str, names: dict[str, Any]) -> Any:
    """Execute a cell, and return what its last line is worth, None where that is a statement."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_notebook_holds_no_results_of_another_machine() -> None:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in found["cells"])
    assert len(cells()) > 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    results = [shown(code, names) for code in cells()]
    model, predicted = results[1], results[3]
    assert "of the validation digits, best at step" in results[2]
    assert (len(model.label_names), len(predicted), predicted.probabilities.shape) == (10, 3, (3, 10))
    assert predicted[0].name == "digits/3/3.png"
    assert results[5][0] == len(list(Path("digits/3").iterdir()))
    assert results[6]._repr_png_().startswith(b"\x89PNG")
    assert results[7]["accuracy"][0] == pytest.approx(model.summary["best"]["val/accuracy"], abs=1e-3)
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
