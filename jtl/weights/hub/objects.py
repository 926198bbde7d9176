"""The small JSON files beside weights, read whole, and refused in one line where they make no sense."""

import json
from pathlib import Path
from typing import Any

from jtl.errors import UserError

MAX_JSON_BYTES = 16_000_000


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None where there is no file.

    Raises:
        UserError: it is damaged, too large, or no object.
    """
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes; expected at most {MAX_JSON_BYTES}")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}; expected an object")
    except (ValueError, RecursionError) as error:
        raise damaged(str(path), error) from error
    return content


def damaged(where: str, error: Exception) -> UserError:
    """Return the error of a file that cannot be understood."""
    return UserError(f"{where!r} cannot be understood ({type(error).__name__}: {error}); {cure(where)}")


def cure(where: str) -> str:
    """Return what to do about a file beside weights."""
    return f"give the file of weights itself to load without {Path(where).name}"
