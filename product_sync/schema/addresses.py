"""The addresses of a sync's two databases, with the names of the environment variables that hold them.

An address may hold a password, so it is never shown. An error names its variables instead: each sync may use its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from product_sync.errors import ConfigurationError
from product_sync.schema.definition import (
    SOURCE_PASSWORD,
    SOURCE_URL,
    SOURCE_USER,
    TARGET_URL,
    SourceSpec,
    TargetSpec,
)


@dataclass(frozen=True, slots=True, repr=False)
class SourceAddress:
    """The address of the MongoDB. ``user`` and ``password`` replace those of the URL, so that a secret store can set
    them; an empty one counts as not given."""

    url: str
    user: str | None = None
    password: str | None = None
    variable: str = SOURCE_URL
    user_variable: str = SOURCE_USER
    password_variable: str = SOURCE_PASSWORD

    @classmethod
    def from_environment(cls, env: Mapping[str, str], source: SourceSpec) -> SourceAddress:
        """Raises `ConfigurationError` if the variable of the URL is not set."""
        names = source.url_variable, source.user_variable, source.password_variable
        url = _required(env, source.url_variable, "mongodb://host:27017/shop")
        return cls(url, env.get(source.user_variable) or None, env.get(source.password_variable) or None, *names)


@dataclass(frozen=True, slots=True, repr=False)
class TargetAddress:
    """The address of the PostgreSQL: ``postgresql://``, ``postgres://``, SQLAlchemy's ``postgresql+psycopg://`` or
    libpq's ``key=value`` form."""

    url: str
    variable: str = TARGET_URL

    @classmethod
    def from_environment(cls, env: Mapping[str, str], target: TargetSpec) -> TargetAddress:
        """Raises `ConfigurationError` if the variable is not set."""
        return cls(_required(env, target.url_variable, "postgresql://user@host:5432/cart"), target.url_variable)


def _required(env: Mapping[str, str], name: str, form: str) -> str:
    if value := env.get(name, "").strip():
        return value
    raise ConfigurationError(f"{name} is not set.", hint=f"Expected form: {name}={form}")
