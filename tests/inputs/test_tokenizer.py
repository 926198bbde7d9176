"""Files of tokenizers that are not there or damaged: one line each, and no stack of the library."""

import json
from pathlib import Path

import pytest

from jtl.errors import UserError
from jtl.inputs import tokens

WORDS = Path(__file__).parents[1] / "goldens" / "tokens" / "words" / "tokenizer.json"


def test_tokenizer_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"tokenizer 'gone/tokenizer.json' cannot be read .*No such file"):
        tokens.of_file(Path("gone/tokenizer.json"), max_tokens=8)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", WORDS.read_bytes()[:-40]])
def test_damaged_tokenizer_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged") as caught:
        tokens.of_file(path, max_tokens=8)
    assert "\n" not in str(caught.value)


def test_template_with_a_token_that_nothing_describes_is_refused_before_the_library_shouts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads(WORDS.read_text(encoding="utf-8"))
    del whole["post_processor"]["special_tokens"]["[SEP]"]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole))
    message = (
        r"is damaged: its template has the token '\[SEP\]', expected one of its special_tokens: '\[CLS\]'"
    )
    with pytest.raises(UserError, match=message):
        tokens.of_file(path, max_tokens=8)
    assert capfd.readouterr().err == ""
