"""What a worker needs of others, as it wants to say it. Knows nothing about how they are reached."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from looksmith.nouns import AdapterRef, Brand, Resolved
from services.registry.client import Message


class AdapterFiles(Protocol):
    """Where adapters' files come from."""

    def download(self, brand: str, digest: str) -> AsyncIterator[bytes]:
        """The file's bytes in order; not checked. Raises NotFound (DIGEST_NOT_FOUND)."""
        ...


class Records(Protocol):
    """What brands and references mean now."""

    async def get_brand(self, name: str) -> Brand:
        """Raises NotFound (BRAND_NOT_FOUND)."""
        ...

    async def resolve(self, ref: AdapterRef) -> Resolved:
        """Raises NotFound, or FailedPrecondition (ADAPTER_YANKED)."""
        ...


class Registry(AdapterFiles, Records, Protocol):
    """All that a worker needs of it; services.registry.client keeps it."""

    def watch(self, *, cursor: str = "") -> AsyncGenerator[Message, None]:
        """All adapters as they are, then each change after ``cursor``. Raises LooksmithError: the watch is lost."""
        ...
