"""Says what is wrong in a mapping: every mistake in one error, in our own words, each with its place.

The keys that are allowed, and the nearest one, come from the models of `definition`. A place is a path of keys, such as
``("columns", "price")``; who knows the file adds the line of each.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from product_sync.errors import MappingError, Mistake

Place = tuple[str | int, ...]

_HINT = "Correct the mapping; the page mapping.md of the guide explains every key."
_MISTAKE = "mapping_mistake"
_SHOWN = 60
#: What a key expects, by the type of pydantic's error.
_EXPECTED = {
    "string_type": "text",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "dict_type": "a mapping",
    "list_type": "a list",
    "enum": "{expected}",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "at most {le}",
}


def explained(model: type[BaseModel], error: ValidationError) -> MappingError:
    """The error of pydantic about ``model``, in our own words."""
    # A default that is made of other fields cannot be made if these are not valid.
    found = [each for each in error.errors() if each["type"] != "default_factory_not_called"]
    return all_of([_mistake(model, each) for each in found])


def all_of(mistakes: Iterable[Mistake], where: Callable[[Place], str] = lambda _: "") -> MappingError:
    """One error of all mistakes, a line for each. ``where`` names the file and the line of a place."""
    known = tuple(dict.fromkeys(mistakes))
    return MappingError("\n".join(f"{where(each.place)}{each.text}" for each in known), hint=_HINT, mistakes=known)


def mistaken(mistakes: Iterable[Mistake], error: ValidationError | None = None) -> ValidationError:
    """For validators: these mistakes in the words of `Mistake`, beside those of ``error``."""
    found = [
        InitErrorDetails(type=each["type"], loc=each["loc"], input=each["input"], ctx=each.get("ctx", {}))
        for each in (error.errors() if error else ())
    ]
    found += [
        InitErrorDetails(type=PydanticCustomError(_MISTAKE, "{text}", {"text": text}), loc=place, input=None)
        for place, text in mistakes
    ]
    return ValidationError.from_exception_data("columns", found)


def _mistake(model: type[BaseModel], error: ErrorDetails) -> Mistake:
    kind, place, value = error["type"], error["loc"], error["input"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind == _MISTAKE:
        return Mistake(place, f"{named(place)} {context['text']}")
    if kind in ("extra_forbidden", "missing"):
        return Mistake(place, _about_key(model, place, is_missing=kind == "missing"))
    is_key = place[-1:] == ("[key]",)
    if is_key:
        place, value = place[:-1], place[-2]
    owner = None if is_key else _model(_annotation(model, place))
    if owner and kind != "value_error":
        example = ", such as {source: price}" if "source" in owner.model_fields and len(place) > 1 else ""
        return Mistake(place, f"{named(place)} is {shown(value)}; expected a mapping{example}. {_allowed(owner)}")
    if kind == "value_error":
        said = context["error"]
        if not owner:
            said = f"expected {said}"
        is_short = owner is None and not isinstance(value, Mapping | list)
        return Mistake(place, f"{named(place)}{f' is {shown(value)};' if is_short else ':'} {said}.")
    return Mistake(place, f"{named(place)} is {_wrong(kind, context, value)}")


def _about_key(model: type[BaseModel], place: Place, *, is_missing: bool) -> str:
    key, holder = str(place[-1]), named(place[:-1])
    owner = _model(_annotation(model, place[:-1]))
    if owner is None:
        return f"{holder} has the key {_quoted(key)}, which is not allowed."
    if is_missing:
        return f"{holder} lacks the key {_quoted(key)}. {_allowed(owner)}"
    near = get_close_matches(key.lower(), _keys(owner), n=1)
    meant = f", did you mean {_quoted(near[0])}?" if near else ", which does not exist."
    return f"{holder} has the key {_quoted(key)}{meant} {_allowed(owner)}"


def _wrong(kind: str, context: Mapping[str, Any], value: object) -> str:
    if kind == "string_too_short":
        return "empty."
    if kind == "string_too_long":
        text = str(value)
        return f"{shown(text)}, which has {len(text)} characters; at most {context['max_length']} are allowed."
    if kind == "string_pattern_mismatch":
        expected = "the name of an environment variable: letters, digits and `_`, without a digit at the beginning"
    else:
        expected = _EXPECTED.get(kind, "another value").format(**context).replace("'", "`")
    return f"{shown(value)}; expected {expected}."


def named(place: Place) -> str:
    """``columns.price``"""
    return _printable(".".join(map(str, place))) if place else "the mapping"


def shown(value: object) -> str:
    """A value as a person wrote it, cut. An address is not repeated: it may contain a password."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "an address" if "://" in value else f"the text {_quoted(value)}"
    return f"the {'number' if isinstance(value, int | float) else 'value'} {_printable(str(value))}"


def _quoted(text: str) -> str:
    cut = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    return f'"{_printable(cut)}"'


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _allowed(model: type[BaseModel]) -> str:
    return f"Allowed: {', '.join(_keys(model))}."


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _annotation(model: type[BaseModel], place: Place) -> Any:
    """The annotation of the value at ``place``."""
    found: Any = model
    for key in place:
        if owner := _model(found):
            known = {field.alias or name: field.annotation for name, field in owner.model_fields.items()}
            found = known.get(str(key))
        else:
            found = (get_args(found) or (None,))[-1]
    return found


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that a value of this annotation is given as."""
    of_members = get_origin(annotation) in (dict, list, tuple)
    for each in (annotation, *(() if of_members else get_args(annotation))):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None
