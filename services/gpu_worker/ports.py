"""What a worker needs of others, as it wants to say it. Knows nothing about how they are reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from looksmith.nouns import AdapterRef, Brand, Resolved


class AdapterFiles(Protocol):
    """Where adapters' files come from."""

    def download(self, brand: str, digest: str) -> AsyncIterator[bytes]:
        """The file's bytes in order; not checked. Raises NotFound (DIGEST_NOT_FOUND)."""
        ...


class Registry(AdapterFiles, Protocol):
    """Brands, versions and bytes; services.registry.client keeps it."""

    async def get_brand(self, name: str) -> Brand:
        """Raises NotFound (BRAND_NOT_FOUND)."""
        ...

    async def resolve(self, ref: AdapterRef) -> Resolved:
        """Raises NotFound, or FailedPrecondition (ADAPTER_YANKED)."""
        ...
