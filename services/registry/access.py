"""Who may do what: bearer tokens, known by their hashes, each with actions on the brands that its patterns match.

Decides; what a call wants to do, and with whose adapters, is said by the servicers. Knows nothing about stores.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from looksmith.errors import PermissionDenied, Unauthenticated
from looksmith.nouns import Action
from services.chassis.interceptors import Call, Layer

log = structlog.get_logger()

_SCHEME = "bearer "
_OURS = "/looksmith.v1."


class TokenUnknown(Unauthenticated):
    reason = "TOKEN_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("this registry asks for a token that it knows: send metadata `authorization: Bearer TOKEN`")


class NotAllowed(PermissionDenied):
    """The same whether the brand exists or not."""

    reason = "NOT_ALLOWED"

    def __init__(self, action: Action, brand: str) -> None:
        super().__init__(f"this token does not allow to {action} with brand {brand!r}", metadata={"action": action})


class AccessFileError(ValueError):
    """A tokens' file that can't be used; says what is wrong where."""


@dataclass(frozen=True)
class Caller:
    """Whose call it is. ``brands`` are patterns as in file names: * and ? stand for any characters and for one."""

    name: str
    actions: frozenset[Action]
    brands: tuple[str, ...]

    def may(self, action: Action, brand: str) -> bool:
        return action in self.actions and any(fnmatchcase(brand, pattern) for pattern in self.brands)


#: Who calls where no tokens are asked for.
ANYONE = Caller("", frozenset(Action), ("*",))
_caller: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


def caller() -> Caller:
    """Whose call is being answered."""
    return _caller.get()


def check(action: Action, brand: str) -> None:
    """Raises: NotAllowed, unless the caller may do this with the brand."""
    if not caller().may(action, brand):
        raise NotAllowed(action, brand)


def check_all(action: Action) -> None:
    """Raises: NotAllowed, unless the caller may do this with whatever brand there is."""
    if not (action in caller().actions and "*" in caller().brands):
        raise NotAllowed(action, "*")


def may_read(brand: str) -> bool:
    return caller().may(Action.READ, brand)


class _Token(BaseModel):
    """One [[token]] of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=63)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    actions: frozenset[Action] = Field(min_length=1)
    brands: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9*?-]{1,63}$")], ...] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    token: tuple[_Token, ...] = Field(min_length=1)


class Tokens:
    """Callers by the hash of their token."""

    def __init__(self, callers: dict[str, Caller]) -> None:
        self._callers = callers

    @classmethod
    def read(cls, file: Path) -> Tokens:
        """From a TOML file of [[token]] tables with name, sha256, actions and brands.

        Raises:
            AccessFileError: it can't be read, or says something that it must not.
        """
        try:
            found = _File.model_validate(tomllib.loads(file.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise AccessFileError(f"{file}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AccessFileError(f"{file}: {where}: {first['msg']}") from None
        for what in ("name", "sha256"):
            values = [getattr(token, what) for token in found.token]
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise AccessFileError(f"{file}: two tokens have the {what} {twice}")
        return cls({token.sha256: Caller(token.name, token.actions, token.brands) for token in found.token})

    def caller(self, authorization: str) -> Caller:
        """Whose the token in an ``authorization`` header is.

        Raises:
            TokenUnknown: nobody's, or there is none.
        """
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        # Found by its hash: how long that takes says nothing of the tokens that there are.
        found = self._callers.get(hashlib.sha256(token.strip().encode()).hexdigest())
        if scheme.lower() != _SCHEME or found is None:
            raise TokenUnknown
        return found


class TokenFile:
    """Tokens of a file that may be replaced at any time; one that has become unusable changes nothing."""

    def __init__(self, file: Path) -> None:
        """Raises: AccessFileError, as Tokens.read."""
        self._file = file
        self._seen = self._stamp()
        self._tokens = Tokens.read(file)

    def caller(self, authorization: str) -> Caller:
        """As Tokens.caller, by what the file says now."""
        if (stamp := self._stamp()) != self._seen:
            self._seen = stamp
            try:
                self._tokens = Tokens.read(self._file)
                log.info("tokens.read", file=str(self._file))
            except AccessFileError as error:
                log.error("tokens.unusable", error=str(error), kept="what was read before")  # noqa: TRY400  # it says all
        return self._tokens.caller(authorization)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = self._file.stat()
        except OSError:
            return 0, 0, 0
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def authenticated(caller_of: Callable[[str], Caller]) -> Layer:
    """Learns whose call it is before anything of it is looked at. Health and reflection are everybody's."""

    @asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        if call.method.startswith(_OURS):
            mine = caller_of(call.metadata.get("authorization", ""))
            structlog.contextvars.bind_contextvars(caller=mine.name)
            _caller.set(mine)
        yield

    return layer


def protecting(aliases: Sequence[str]) -> Callable[[str], Action]:
    """What it takes to move an alias."""
    return lambda alias: Action.PROMOTE if alias in aliases else Action.PUBLISH
