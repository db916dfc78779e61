"""Values of all BSON types as bytes, each with its meaning, also values that no driver would send.

The bytes are made from the meaning and never decoded: a decoder could have the same fault as the one under test.
"""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from bson.decimal128 import Decimal128

#: Kinds of meanings. `OTHER` fits no column.
NUMBER, TEXT, BOOLEAN, DATE, UUID, OBJECT_ID, NOTHING, DOCUMENT, ARRAY, OTHER = (
    "number", "text", "boolean", "date", "uuid", "object id", "nothing", "document", "array", "other"
)  # fmt: skip
#: BSON's types of a text. The second one is deprecated.
STRING, SYMBOL = 0x02, 0x0E
#: Levels of nested documents. The server refuses more than 180.
_DEEPEST: Final = 150


@dataclass(frozen=True, slots=True)
class Value:
    """``meaning`` depends on ``kind``: a `Decimal`, a float that is not finite, the bytes of a text, a bool,
    milliseconds since 1970, a `uuid.UUID`, hexadecimal digits, members by name, or elements. ``integer`` is the width
    of an integer in bits. The server stores a ``malformed`` value, but it is not valid BSON."""

    code: int
    payload: bytes
    kind: str
    meaning: Any = None
    integer: int = 0
    malformed: bool = False


def element(name: bytes, value: Value) -> bytes:
    return bytes([value.code]) + name + b"\0" + value.payload


def document(elements: Sequence[tuple[bytes, Value]]) -> bytes:
    body = b"".join(element(name, value) for name, value in elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def text(content: bytes, code: int = STRING) -> Value:
    return Value(code, struct.pack("<i", len(content) + 1) + content + b"\0", TEXT, content)


def int32(number: int) -> Value:
    return Value(0x10, struct.pack("<i", number), NUMBER, Decimal(number), 32)


def int64(number: int) -> Value:
    return Value(0x12, struct.pack("<q", number), NUMBER, Decimal(number), 64)


def double(number: float) -> Value:
    """A double means the shortest decimal that reads back as the same double."""
    return Value(0x01, struct.pack("<d", number), NUMBER, Decimal(repr(number)))


def decimal(number: str) -> Value:
    value = Decimal128(number)
    return Value(0x13, value.bid, NUMBER, Decimal(number))


def boolean(value: bool) -> Value:
    return Value(0x08, bytes([value]), BOOLEAN, value)


def date(milliseconds: int) -> Value:
    return Value(0x09, struct.pack("<q", milliseconds), DATE, milliseconds)


def object_id(content: bytes) -> Value:
    return Value(0x07, content, OBJECT_ID, content.hex())


def binary(content: bytes, subtype: int) -> Value:
    """Subtype 2 has a second length inside; 4 is a UUID of 16 bytes."""
    payload = struct.pack("<iB", len(content), subtype) + content
    if subtype == 4:
        whole = len(content) == 16
        return Value(0x05, payload, UUID, uuid.UUID(bytes=content) if whole else None, malformed=not whole)
    malformed = subtype == 2 and content[:4] != struct.pack("<i", len(content) - 4)
    return Value(0x05, payload, OTHER, malformed=malformed)


def embedded(members: Sequence[tuple[bytes, Value]]) -> Value:
    malformed = any(value.malformed for _, value in members)
    return Value(0x03, document(members), DOCUMENT, list(members), malformed=malformed)


def array(values: Sequence[Value]) -> Value:
    inner = embedded([(str(place).encode(), value) for place, value in enumerate(values)])
    return Value(0x04, inner.payload, ARRAY, list(values), malformed=inner.malformed)


NULL: Final = Value(0x0A, b"", NOTHING)
UNDEFINED: Final = Value(0x06, b"", NOTHING)
MIN_KEY, MAX_KEY = Value(0xFF, b"", OTHER), Value(0x7F, b"", OTHER)

_WORDS = [
    "tea",
    "Ring ü",
    "日本",
    "🎈",
    "e\u0301",
    "''; DROP TABLE product; --",
    "{{x}}",
    "\\N",
    "%s",
    "\u202e",
    "\ufeff",
]
_BROKEN = [b"\xff", b"caf\xe9", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"ab\xe2\x82", b"\xff\0"]
_EDGES = [0, 1, -1, 2**15 - 1, 2**15, -(2**15), -(2**15) - 1, 2**31 - 1, 2**31, -(2**31) - 1, 2**53, 2**53 + 1,
          -(2**53) - 1, 2**63 - 1, -(2**63), 10**8 - 1, 10**8]  # fmt: skip
_DOUBLES = [0.0, -0.0, 0.1, 2.5, 99.99, 99.999, 1e15, 1e16, 1e22, 1e300, 5e-324, 1.7976931348623157e308, 2.0**62, 0.005,
            16777217.0, 3.4028235e38, 3.5e38, 1e-45, 99999999.99, 1e8,
            float("nan"), float("inf"), float("-inf")]  # fmt: skip
_DECIMALS = ["0", "-0", "0E+100", "1.10", "99.999", "NaN", "sNaN", "Infinity", "-Infinity", "9" * 34, "1E+6144",
             "1E-6176", "-12.50", "1E+7", "99999999.99", "100000000", "0.1", "1E+2", "9007199254740993"]  # fmt: skip
_DATES = [0, -1, 2**63 - 1, -(2**63), 253_402_300_800_000, -62_135_596_800_001, -210_866_803_200_000,
          -210_866_803_200_001, 9_223_372_036_854_775, 9_223_372_036_854_776]  # fmt: skip
#: Midnights, the hour that Berlin has twice, the one that it skips, the last hour of Python, the last day of a `date`.
_DATES += [1_704_067_200_000, 1_729_987_200_000, 1_729_990_800_000, 1_729_994_399_999, 1_729_994_400_000,
           1_711_846_800_000, 1_711_846_799_999, -86_400_000, 253_402_297_200_000, 2_145_042_905 * 86_400_000,
           2_145_042_906 * 86_400_000]  # fmt: skip
_LABELS_AND_DAYS = [b"ok", b"sad", b"Ok", b"ok ", b"2024-03-01", b"0001-01-01", b"9999-12-31", b"2024-02-30",
                    b"2024-3-1", b"0000-01-01", b"20240301"]  # fmt: skip


def any_text(draw: random.Random) -> Value:
    words = "".join(draw.choices(_WORDS, k=draw.randint(0, 9))).encode()
    broken = [draw.choice(_BROKEN), words + draw.choice(_BROKEN), draw.randbytes(draw.randint(0, 40)), b"a\0b"]
    short = draw.choices(_LABELS_AND_DAYS, k=4)
    content = draw.choice([*[words] * 4, *short, *broken, b"", b" " * 3, b"x" * 40, b"x" * 41, "ü".encode() * 40])
    return text(content, draw.choice([STRING] * 9 + [SYMBOL]))


def any_number(draw: random.Random) -> Value:
    edge = draw.choice(_EDGES)
    some_double = draw.choice([*_DOUBLES, float(edge), draw.uniform(-1e9, 1e9), draw.randint(-(10**6), 10**6) / 100])
    makers: list[Callable[[], Value]] = [
        lambda: int32(edge) if -(2**31) <= edge < 2**31 else int64(edge),
        lambda: int64(draw.choice([edge, draw.getrandbits(63)])),
        lambda: double(some_double),
        lambda: double(struct.unpack("<d", draw.randbytes(8))[0]),
        lambda: decimal(draw.choice([*_DECIMALS, f"{draw.randint(-(10**34) + 1, 10**34 - 1)}E{draw.randint(-40, 9)}"])),
    ]
    return draw.choice(makers)()


def any_date(draw: random.Random) -> Value:
    return date(draw.choice(_DATES))


def any_value(draw: random.Random, depth: int = 0) -> Value:
    """A value of any type."""
    makers: list[Callable[[], Value]] = [
        lambda: any_text(draw),
        lambda: any_number(draw),
        lambda: boolean(draw.random() < 0.5),
        lambda: any_date(draw),
        lambda: object_id(draw.randbytes(12)),
        lambda: binary(draw.randbytes(16), draw.choice([0, 3, 4, 4, 4, 5, 6, 128])),
        lambda: binary(draw.randbytes(draw.randint(0, 20)), draw.choice([0, 1, 2, 4, 255])),
        lambda: text(str(uuid.UUID(bytes=draw.randbytes(16))).encode()),
        lambda: text(str(uuid.UUID(bytes=draw.randbytes(16))).upper().encode()),
        lambda: NULL,
        lambda: draw.choice([UNDEFINED, MIN_KEY, MAX_KEY]),
        lambda: Value(0x11, draw.randbytes(8), OTHER),
        lambda: Value(0x0B, draw.choice([b"a.*\0i\0", b"\0\0", b"(\0imsx\0", b"\xff\0\0"]), OTHER),
        lambda: Value(0x0C, struct.pack("<i", 2) + b"c\0" + draw.randbytes(12), OTHER),
        lambda: Value(0x0D, text(b"function () {}").payload, OTHER),
        lambda: _scoped(draw),
        lambda: embedded([(b"$ref", text(b"c")), (b"$id", any_number(draw))]),
    ]
    if depth < 3:
        makers += [
            lambda: embedded([(odd_name(draw), any_value(draw, depth + 1)) for _ in range(draw.randint(0, 3))]),
            lambda: array([any_value(draw, depth + 1) for _ in range(draw.randint(0, 3))]),
            lambda: _deep(draw),
        ]
    return draw.choice(makers)()


def _scoped(draw: random.Random) -> Value:
    """Code with a scope: the total length, the code, the scope."""
    parts = text(b"x").payload + document([(b"y", any_number(draw))])
    return Value(0x0F, struct.pack("<i", len(parts) + 4) + parts, OTHER)


def _deep(draw: random.Random) -> Value:
    value = int32(1)
    for _ in range(draw.randint(1, _DEEPEST)):
        value = embedded([(b"a", value)]) if draw.random() < 0.5 else array([value])
    return value


def odd_name(draw: random.Random) -> bytes:
    """The name of a field that no column is made of."""
    return draw.choice([b"a.b", b"", b"$x", b"$oid", b"$numberInt", b"\xff\xfe", "ü".encode(), b"x" * 2_000, b" price",
                        b"Price", b"price.", b"0", b"__proto__", draw.randbytes(5).replace(b"\0", b"")])  # fmt: skip
