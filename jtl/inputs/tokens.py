"""The kind of input "tokens": a text, or a pair of texts, as ids of a vocabulary."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocess:
    """How a text becomes ids; travels with the weights."""

    tokenizer: str = ""
    max_tokens: int = 512
    vocabulary: int = 0
    pad_id: int = 0

    def described(self) -> str:
        """Return the pre-processing in one line, for people."""
        return f"at most {self.max_tokens} tokens of a vocabulary of {self.vocabulary}"
