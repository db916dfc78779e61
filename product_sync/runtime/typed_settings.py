"""The base of all settings models: values from the environment, and errors in plain words.

A field is declared once, with its type, bounds, unit, variable and description. The launchpad, ``--help``, the guide
and the errors show what is declared here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from product_sync.errors import ConfigurationError

Environment = Mapping[str, str]


def setting(
    default: object,
    text: str = "",
    unit: str = "",
    *,
    variable: str = "",
    flag: str = "",
    form: str = "",
    **bounds: Any,
) -> Any:
    """A field of a settings model. ``form`` says how a value is written that is neither number, choice nor switch."""
    extra = {"unit": unit, "variable": variable, "flag": flag, "form": form}
    return Field(default, description=text, json_schema_extra=dict(extra), **bounds)


class Setting:
    """A field of a settings model, as people see it."""

    def __init__(self, name: str, field: FieldInfo) -> None:
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        self.unit, self.variable, self.form = (str(extra[key]) for key in ("unit", "variable", "form"))
        self.name = name
        self.flag = str(extra["flag"]) or f"--{name.replace('_', '-')}"
        self.default, self.text = field.default, field.description or ""
        #: Whether the value is a list of texts.
        self.is_list = list[str] in get_args(field.annotation)
        kinds = [each for each in get_args(field.annotation) if isinstance(each, type) and each is not NoneType]
        kinds = [str] if self.is_list else kinds
        #: `bool`, `int`, `float`, `str` or a `Literal`, without the ``None`` of a setting that has no default.
        self.type: Any = kinds[0] if kinds else field.annotation
        self.choices: tuple[str, ...] = () if kinds else get_args(field.annotation)
        limits = {
            key: getattr(each, key, None) for key in ("ge", "gt", "le") for each in field.metadata if hasattr(each, key)
        }
        least = f"more than {limits['gt']}" if "gt" in limits else limits.get("ge")
        #: ``0 to 3600``; empty if the value is not a number.
        self.bounds = "" if least is None else f"{least} to {limits['le']}" if "le" in limits else f"{least} or more"

    @property
    def explained(self) -> str:
        """What it does, in one sentence with the bounds."""
        return f"{self.text} ({self.bounds})." if self.bounds else f"{self.text}."

    @property
    def help(self) -> str:
        """`explained`, and what holds if nobody sets it."""
        default = ", else ".join(filter(None, (self.variable, "" if self.default is None else written(self.default))))
        return f"{self.explained} Default: {default}." if default else self.explained

    def mistake(self, label: str, found: ErrorDetails) -> ConfigurationError:
        """The error of pydantic in our own words."""
        if found["type"] == "value_error" and isinstance(found["ctx"]["error"], _NotShown):
            return ConfigurationError(
                f"{label} is not a web address.", hint=f"Expected form: {label}=https://host/path"
            )
        expected = self.form
        if self.choices:
            expected = " or ".join(f"`{choice}`" for choice in self.choices)
        elif self.type is bool:
            expected = "`true` or `false`"
        elif self.bounds:
            expected = f"{'a whole number' if self.type is int else 'a number'}, {self.bounds} ({self.unit})"
        return ConfigurationError(f"{label} is {found['input']!r}.", hint=f"Expected: {expected}.")


def written(value: object) -> str:
    """A default as people type it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


class Settings(BaseModel):
    """Settings that the environment may hold. An empty variable counts as not set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def each(cls) -> dict[str, Setting]:
        return {name: Setting(name, field) for name, field in cls.model_fields.items()}

    @classmethod
    def from_environment(cls, env: Environment) -> Self:
        """Raises the first mistake."""
        settings, mistakes = cls.with_mistakes(env)
        for mistake in mistakes.values():
            raise mistake
        return settings

    @classmethod
    def with_mistakes(cls, env: Environment) -> tuple[Self, dict[str, ConfigurationError]]:
        """All settings, with the default for each value that is not valid, and the mistakes by variable."""
        known = cls.each()
        texts = {name: text for name, each in known.items() if (text := env.get(each.variable, "").strip())}
        mistakes = {}
        for name, found in cls.errors(texts).items():
            mistakes[known[name].variable] = known[name].mistake(known[name].variable, found)
            del texts[name]
        return cls.model_validate(texts), mistakes

    @classmethod
    def errors(cls, values: Mapping[str, Any], *, strict: bool = False) -> dict[str, ErrorDetails]:
        """The errors of pydantic by field. With ``strict`` a number that is given as text is an error."""
        try:
            cls.model_validate(values, strict=strict)
        except ValidationError as error:
            return {str(each["loc"][0]): each for each in error.errors()}
        return {}


class _NotShown(ValueError):
    """The value may contain a token, so no error repeats it."""


def _web_address(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises a ValueError for a port that is not a number
    except ValueError:
        raise _NotShown from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f\x7f]", text):
        raise _NotShown
    return text


def absolute_path(text: str) -> Path:
    """``~`` and ``~user`` are resolved. The `ValueError` says what is expected."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("a path; its home directory cannot be determined") from None
    except OSError:
        raise ValueError("an absolute path; the current directory is gone") from None


WebAddress = Annotated[str, AfterValidator(_web_address)]
#: The address of a folder, without a slash at its end.
WebFolder = Annotated[str, AfterValidator(lambda text: _web_address(text).rstrip("/"))]
