"""Page tokens: opaque to callers, bound to the list that they continue. Knows nothing about what is listed."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import TypeVar

from looksmith.nouns import Malformed

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
#: Of a page's items as text: gRPC's clients take messages of 4 MiB.
MAX_PAGE_BYTES = 2 << 20

T = TypeVar("T")


def check_page_size(size: int) -> int:
    """The size of a page; 0 means the default.

    Raises:
        Malformed: it is over MAX_PAGE_SIZE.
    """
    if size > MAX_PAGE_SIZE:
        raise Malformed("page_size", f"must be at most {MAX_PAGE_SIZE}, not {size}")
    return size or DEFAULT_PAGE_SIZE


def fitting(items: Sequence[T]) -> Sequence[T]:
    """As many of the first items as one message should hold; at least one, if there is one."""
    size = 0
    for count, item in enumerate(items):
        size += len(repr(item).encode())
        if size > MAX_PAGE_BYTES and count:
            return items[:count]
    return items


def token(scope: list[str], after: str) -> str:
    """Names the place after ``after`` in the list that ``scope`` describes."""
    return base64.urlsafe_b64encode(json.dumps([scope, after]).encode()).decode()


def after(scope: list[str], page_token: str) -> str:
    """What ``token`` was given; "" for the first page.

    Raises:
        Malformed: the token is of another list, or of no list of this service.
    """
    if not page_token:
        return ""
    try:
        found_scope, found = json.loads(base64.b64decode(page_token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise Malformed("page_token", "was not issued by this service") from None
    if found_scope != scope or not isinstance(found, str):
        raise Malformed("page_token", "continues another list")
    return found


def number_after(scope: list[str], page_token: str, *, newest: int) -> int:
    """The number to go on with in a list that counts down from ``newest``.

    Raises:
        Malformed: as ``after``.
    """
    found = after(scope, page_token)
    if not found:
        return newest
    if not found.isdecimal() or len(found) > 20:
        raise Malformed("page_token", "was not issued by this service")
    return min(int(found) - 1, newest)
