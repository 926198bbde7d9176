"""Tables as files: forms, delimiters, encodings, and what is said of damaged ones."""

import json
from pathlib import Path

import pytest

from jtl.errors import UserError
from tests.data.test_texts import only, open_kind, raws, write


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": 0}\n{"text"\n', r"row 2 of .*a.jsonl is no JSON \(.*\): '{\"text\"'"),
        ('{"text": "a", "label": 0}\n3\n', "row 2 of .*a.jsonl is a int, expected an object"),
        ('[{"text": "a", "label": 0}, [1]]', "row 2 of .*a.jsonl is a list, expected an object"),
        ("", "a.jsonl has the columns ; expected one of path"),
        ('{"id": 1}', "a.jsonl has the columns id; expected one of path"),
    ],
)
def test_bad_json_lines_are_told_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_kind(write(tmp_path / "a.jsonl", content))


def test_json_lines_are_not_split_within_a_text(tmp_path: Path) -> None:
    texts = ["one\u2028two", "three\u0085four"]
    lines = "".join(json.dumps({"text": text, "label": 0}, ensure_ascii=False) + "\n" for text in texts)
    assert raws(only(write(tmp_path / "a.jsonl", lines))) == texts
