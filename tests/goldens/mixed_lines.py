"""Texts of every sort, alike in the goldens' script and the tests: what a tokenizer may meet, and worse."""

import random
import zlib
from collections.abc import Sequence

COUNT = 1000
MAX_TOKENS, MAX_PAIR_TOKENS = 128, 48

ENGLISH = (
    *("the", "film", "is", "an", "honest,", "utterly", "charming", "story", "of", "two", "brothers", "who"),
    *("can't", "agree", "on", "anything", "but", "unbelievable", "café", "naïve", "coöperate", "Zürich"),
    *("e-mail", "state-of-the-art", "3.14", "$1,000", "50%", "U.S.A.", "O'Neill", "I'm", "you've", "we'll"),
    *("http://example.org/a?b=c&d=%20", "WORSE-than-ever", "(sigh)", "[sic]", "{x}", "<br/>", "#", "@me"),
)
CHINESE = (
    "酒店的房间很大，早餐也不错！服务员态度差，下次不会再来了。「電影」非常好看；性价比高、交通方便？一二三"
)
OTHERS = (
    "これは映画です カタカナ ｶﾀｶﾅ",
    "한국어 문장입니다",
    "Привет, мир! Ёлка",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Γειά σου Κόσμε",
    "İstanbul ırmak ß ẞ",
    "ﬁne ﬂow ½ ² Ⅳ ℌ 𝐛𝐨𝐥𝐝 ＦＵＬＬｗｉｄｔｈ",
)
EMOJI = (
    *("😀", "👍\U0001f3fd", "👩\u200d👩\u200d👧\u200d👦", "🇨🇭", "❤\ufe0f", "1\ufe0f\u20e3", "☺"),
    *("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🤷\U0001f3ff\u200d♀\ufe0f"),
)
MARKS = ("e\u0301", "n\u0303", "a\u0308\u0304", "o\u0323\u0302", "z" + "\u0335\u0316\u0311" * 6, "\u0300")
CONTROLS = (
    "\x00\x01\x07\x08\t\n\r\x0b\x0c\x1b\x7f\x85\xa0\xad"
    "\u200b\u200d\u200e\u2028\u2029\u202e\u3000\ufeff\ufffd\ufffe"
)
SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[PAD]", "<s>", "</s>", "<mask>", "<pad>", "[unk]", "##ing", "▁a", "Ġ")
EMPTY = ("", " ", "\n", "\t \u3000", "\u200b", "\x00", "\u0301", ".")


def lines(count: int = COUNT) -> list[str]:
    """Return texts of all sorts in turn; the same on every machine."""
    return [SORTS[place % len(SORTS)](random.Random(place)) for place in range(count)]


def digest(ids: list[int], segments: list[int]) -> int:
    """Return a checksum of ids and segments."""
    return zlib.crc32(repr((list(map(int, ids)), list(map(int, segments)))).encode())


def _pick(draw: random.Random, choices: Sequence[str]) -> str:
    return choices[int(draw.random() * len(choices))]


def _many(
    draw: random.Random, choices: "tuple[str, ...] | list[str] | str", most: int, glue: str = " "
) -> str:
    return glue.join(_pick(draw, choices) for _ in range(1 + int(draw.random() * most)))


def _english(draw: random.Random) -> str:
    text = _many(draw, ENGLISH, 40)
    return text.upper() if draw.random() < 0.1 else text.capitalize()


def _chinese(draw: random.Random) -> str:
    return _many(draw, CHINESE, 60, "")


def _mixed(draw: random.Random) -> str:
    return _many(draw, [*ENGLISH, *CHINESE, *EMOJI, *OTHERS], 30, _pick(draw, [" ", "", "\t"]))


def _other(draw: random.Random) -> str:
    return _many(draw, OTHERS, 4)


def _emoji(draw: random.Random) -> str:
    return _many(draw, [*EMOJI, *ENGLISH], 12, _pick(draw, ["", " "]))


def _marks(draw: random.Random) -> str:
    return _many(draw, [*MARKS, *ENGLISH], 20, "")


def _controls(draw: random.Random) -> str:
    return _many(draw, [*CONTROLS, *ENGLISH, *CHINESE], 30, "")


def _special(draw: random.Random) -> str:
    return _many(draw, [*SPECIAL, *ENGLISH], 12, _pick(draw, ["", " ", "  "]))


def _empty(draw: random.Random) -> str:
    return _pick(draw, EMPTY)


def _long(draw: random.Random) -> str:
    return " ".join(_many(draw, [*ENGLISH, *CHINESE], 600) for _ in range(2))


def _long_word(draw: random.Random) -> str:
    return _many(draw, "abcdefghijklmnopqrstuvwxyz0123456789", 250, "") + _english(draw)


def _any_characters(draw: random.Random) -> str:
    points = [int(draw.random() * 0x110000) for _ in range(1 + int(draw.random() * 30))]
    return "".join(chr(each) for each in points if not 0xD800 <= each < 0xE000)


def _low_characters(draw: random.Random) -> str:
    return "".join(chr(int(draw.random() * 0x3000)) for _ in range(1 + int(draw.random() * 40)))


SORTS = (
    _english,
    _chinese,
    _mixed,
    _other,
    _emoji,
    _marks,
    _controls,
    _special,
    _empty,
    _long,
    _long_word,
    _any_characters,
    _low_characters,
)
