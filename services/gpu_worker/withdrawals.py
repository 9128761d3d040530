"""What must not be painted with any more: versions that were yanked by force, and files of erased brands.

Learns it from what the registry says and has it acted on; how messages come and how jobs end is not known here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from looksmith.errors import DeadlineExceeded, FailedPrecondition, LooksmithError, Unavailable
from looksmith.nouns import Adapter, AdapterRef, PinnedAdapter
from services.chassis.painting import AdapterYanked
from services.gpu_worker.errors import BrandGone
from services.gpu_worker.ports import Records
from services.registry.client import BrandErased, Changed, InSnapshot, Message


class Withdrawals:
    """Grows only: no version comes back, and no number is used twice."""

    def __init__(self, *, registry: Records) -> None:
        self._registry = registry
        self._versions: dict[tuple[str, str], tuple[int, ...]] = {}
        self._erased: defaultdict[str, set[str]] = defaultdict(set)  # by brand: digests

    def note_adapter(self, adapter: Adapter) -> bool:
        """Takes in how an adapter stands; may be told again, or late. Whether more is withdrawn than was known."""
        name = (adapter.brand, adapter.name)
        if set(adapter.withdrawn_versions) <= set(self._versions.get(name, ())):
            return False
        self._versions[name] = adapter.withdrawn_versions
        return True

    def note_erased(self, brand: str, digests: Iterable[str]) -> None:
        """Takes in that a brand's files were erased; it may have been created anew since, with the same files even."""
        self._erased[brand].update(digests)

    async def refusal(self, brand: str, adapters: Sequence[PinnedAdapter]) -> LooksmithError | None:
        """Why a job must not be painted, whoever accepted it; None: it may be.

        AdapterYanked, or of an erased brand what the registry says now; where that is out of reach, BrandGone. Waits
        for nobody unless files of the brand were erased.
        """
        for adapter in adapters:
            if adapter.version in self._versions.get((brand, adapter.adapter), ()):
                name = f"{brand}/{adapter.adapter}@{adapter.version}"
                message = f"{name} was withdrawn; ListAdapterVersions tells those that are ready"
                return AdapterYanked(message, metadata={"adapter": name})
        for adapter in adapters:
            if adapter.digest not in self._erased.get(brand, ()):
                continue
            if refusal := await self._gone(AdapterRef(brand, adapter.adapter, adapter.version)):
                return refusal
        return None

    async def _gone(self, version: AdapterRef) -> LooksmithError | None:
        try:
            await self._registry.get_brand(version.brand)
            await self._registry.resolve(version)
        except FailedPrecondition:  # a new one, yanked since: what was accepted before is painted
            return None
        except (Unavailable, DeadlineExceeded):
            return BrandGone(version.brand)
        except LooksmithError as error:
            return error
        return None


class Enforcement:
    """Has what the registry withdraws end here.

    ``forget`` drops files; ``recheck`` has every job ask for its ``refusal`` again.
    """

    def __init__(
        self,
        *,
        withdrawals: Withdrawals,
        forget: Callable[[Iterable[str]], None],
        recheck: Callable[[], Awaitable[None]],
    ) -> None:
        self._withdrawals, self._forget, self._recheck = withdrawals, forget, recheck

    async def hear(self, message: Message) -> None:
        match message:
            case InSnapshot(adapter) | Changed(adapter):
                if self._withdrawals.note_adapter(adapter):
                    await self._recheck()
            case BrandErased(brand, digests):
                self._withdrawals.note_erased(brand, digests)
                self._forget(digests)
                await self._recheck()
