"""How callers are known: by the hash of a bearer token, or by a name in their certificate, as one file says.

Knows nothing of calls; what callers may do is access.py's business.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from looksmith.nouns import Action
from services.chassis.access import EVERY, Caller, TokenUnknown
from services.chassis.reread import Reread, Unusable

_SCHEME = "bearer "


class AccessFileError(Unusable):
    """A tokens' file that can't be used; says what is wrong where."""


class _Token(BaseModel):
    """One [[token]] of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=63)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    certificate: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    actions: frozenset[Action] = Field(min_length=1)
    brands: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9*?-]{1,63}$")], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_way_to_know_it(self) -> _Token:
        if (self.sha256 is None) is (self.certificate is None):
            raise ValueError("needs sha256 or certificate, and not both")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    token: tuple[_Token, ...] = Field(min_length=1)


class Tokens:
    """Callers by the hash of their token, and by a name in their certificate."""

    def __init__(self, by_token: Mapping[str, Caller], by_certificate: Mapping[str, Caller]) -> None:
        self._by_token, self._by_certificate = by_token, by_certificate

    @classmethod
    def read(cls, file: Path) -> Tokens:
        """From a TOML file of [[token]] tables with name, sha256 or certificate, actions and brands.

        Raises:
            AccessFileError: it can't be read, or says something that it must not.
        """
        try:
            found = _File.model_validate(tomllib.loads(file.read_text("utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AccessFileError(f"{file}: {where}: {first['msg']}") from None
        except (OSError, ValueError, RecursionError) as error:  # tomllib lets those of int() and of deep lists through
            raise AccessFileError(f"{file}: {error}") from None
        for what in ("name", "sha256", "certificate"):
            values = [value for token in found.token if (value := getattr(token, what))]
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise AccessFileError(f"{file}: two tokens have the {what} {twice}")
        callers = [(token, Caller(token.name, token.actions, token.brands)) for token in found.token]
        return cls(
            {token.sha256: caller for token, caller in callers if token.sha256},
            {token.certificate: caller for token, caller in callers if token.certificate},
        )

    def caller(self, authorization: str, names: Sequence[str] = ()) -> Caller:
        """Whose call it is by its ``authorization`` header; without one, by the names in its certificate, in order.

        Raises:
            TokenUnknown: nobody's. A token that is not known is not made good by a certificate.
        """
        if not authorization:
            known = (self._by_certificate[name] for name in names if name in self._by_certificate)
            if found := next(known, None):
                return found
            raise TokenUnknown
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        # Found by its hash: how long that takes says nothing of the tokens that there are.
        by_token = self._by_token.get(hashlib.sha256(token.strip().encode()).hexdigest())
        if scheme.lower() != _SCHEME or by_token is None:
            raise TokenUnknown
        return by_token


class TokenFile:
    """Tokens of a file that may be replaced at any time; one that has become unusable changes nothing."""

    def __init__(self, file: Path) -> None:
        """Raises: AccessFileError, as Tokens.read."""
        self._tokens = Reread("tokens", lambda: Tokens.read(file), file)

    def caller(self, authorization: str, names: Sequence[str] = ()) -> Caller:
        """As Tokens.caller, by what the file says now."""
        return self._tokens.value().caller(authorization, names)


def by_certificate(authorization: str, names: Sequence[str] = ()) -> Caller:  # noqa: ARG001  # there are no tokens
    """Where no file says more: whoever shows a certificate of the right CA may do everything, under its first name."""
    return Caller(next(iter(names), ""), frozenset(Action), (EVERY,))
