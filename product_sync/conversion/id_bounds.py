"""Finds the ids of each kind whose text lies in a range of texts.

A range of ids is a range of texts in the order of their bytes (`schema.scope.KeyRange`). The indexes of the two
databases have their own order for each kind: ObjectIds, UUIDs and integers are not stored as texts. All texts of a kind
have the same form, so the range of texts is a range of values, and for integers one range for each number of digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from product_sync.schema.scope import KeyRange

_DIGITS: Final = "0123456789"
_HEX: Final = "0123456789abcdef"
#: The texts of a kind: at each place one character of an alphabet, which rises.
Form = Sequence[str]
OBJECT_ID: Final[Form] = (_HEX,) * 24
UUID: Final[Form] = tuple("-" if place in (8, 13, 18, 23) else _HEX for place in range(36))
#: The most digits that are looked at: those of the largest int64.
MOST_DIGITS: Final = 19


@dataclass(frozen=True, slots=True)
class Bounds:
    """The texts of a form from ``first`` on; below ``end``, if there is an end."""

    first: str
    end: str | None


def of_form(form: Form, scope: KeyRange) -> Bounds | None:
    """The texts of ``form`` in the range; ``None`` if it has none."""
    first = _not_below(form, scope.first)
    end = None if scope.end is None else _not_below(form, scope.end)
    return None if first is None or first == end else Bounds(first, end)


def integers(scope: KeyRange) -> Iterator[tuple[int, int]]:
    """The integers of up to `MOST_DIGITS` digits whose text is in the range, as intervals with both ends. In all ranges
    together, the intervals of one sign have no gaps."""
    for count in range(1, MOST_DIGITS + 1):
        for sign in ("-", ""):
            leading = _DIGITS if count == 1 and not sign else _DIGITS[1:]
            found = of_form((*sign, leading, *[_DIGITS] * (count - 1)), scope)
            if found is not None:
                first = int(found.first)
                end = int(f"{sign}{10**count}" if found.end is None else found.end)
                yield (first, end - 1) if not sign else (end + 1, first)


def _not_below(form: Form, text: str) -> str | None:
    """The smallest text of ``form`` that is not below ``text``."""
    for place, alphabet in enumerate(form):
        if place == len(text):
            return text + _smallest(form[place:])
        if text[place] not in alphabet:
            return _above(form, text[:place], text[place])
    return text if len(text) == len(form) else _above(form, text[: len(form) - 1], text[len(form) - 1])


def _above(form: Form, same: str, character: str) -> str | None:
    """The smallest text of ``form`` that begins with ``same`` and goes on with a character above this one; else the
    smallest above all that begin with ``same``."""
    higher = [each for each in form[len(same)] if each > character]
    if higher:
        return same + higher[0] + _smallest(form[len(same) + 1 :])
    return _above(form, same[:-1], same[-1]) if same else None


def _smallest(form: Form) -> str:
    return "".join(alphabet[0] for alphabet in form)
