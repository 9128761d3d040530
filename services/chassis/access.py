"""Who calls, and what they may do: callers with actions on the brands that their patterns match.

Decides; how callers are known is tokens.py's business, and what a call needs is said in permissions.py.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase

from looksmith.errors import PermissionDenied, Unauthenticated
from looksmith.nouns import Action

#: Stands for every brand where it is a caller's pattern, and for none in particular in a refusal.
EVERY = "*"


class TokenUnknown(Unauthenticated):
    reason = "TOKEN_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("this server asks for a token that it knows: send metadata `authorization: Bearer TOKEN`")


class NotAllowed(PermissionDenied):
    """The same whether the brand exists or not."""

    reason = "NOT_ALLOWED"

    def __init__(self, action: Action, brand: str) -> None:
        told = f"this token does not allow to {action} with brand {brand[:80]!r}"
        super().__init__(told, metadata={"action": action})


@dataclass(frozen=True)
class Caller:
    """Whose call it is. ``brands`` are patterns as in file names: * and ? stand for any characters and for one."""

    name: str
    actions: frozenset[Action]
    brands: tuple[str, ...]

    def may(self, action: Action, brand: str) -> bool:
        return action in self.actions and any(fnmatchcase(brand, pattern) for pattern in self.brands)

    def may_with_every(self, action: Action) -> bool:
        return action in self.actions and EVERY in self.brands


#: Who calls where nobody is asked who they are.
ANYONE = Caller("", frozenset(Action), (EVERY,))
_caller: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


def caller() -> Caller:
    """Whose call is being answered."""
    return _caller.get()


def calls(who: Caller) -> None:
    """From here on, to the end of this call, it is ``who``'s."""
    _caller.set(who)


def check(action: Action, brand: str) -> None:
    """Raises: NotAllowed, unless the caller may do this with the brand."""
    if not caller().may(action, brand):
        raise NotAllowed(action, brand)


def check_every(action: Action) -> None:
    """Raises: NotAllowed, unless the caller may do this with every brand there is."""
    if not caller().may_with_every(action):
        raise NotAllowed(action, EVERY)


def may_read(brand: str) -> bool:
    return caller().may(Action.READ, brand)
