"""Commands about the store behind the registry: brand delete, fsck, collect."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer

from looksmith.cli.calls import REGISTRY_DEFAULT, Brand, Json, Registry, answer, as_dict, run, to_registry
from looksmith.cli.terminal import Problem, err, note, print_json, say
from looksmith.errors import error_from_rpc
from looksmith.v1 import brand_pb2, brand_pb2_grpc, registry_pb2, registry_pb2_grpc

_KIND = "STORE_FAULT_KIND_"
#: Seconds that a look at the whole store may take.
_LONG_S = 3600.0


def delete(
    name: Brand,
    *,
    confirm: Annotated[str, typer.Option(help="The name once more; asked for where it is not given.")] = "",
    registry: Registry = REGISTRY_DEFAULT,
) -> None:
    """Erase a brand: its record, its adapters and their files, and the copies that workers keep.

    Of its history only version numbers, digests and times remain. Nothing brings it back. If it breaks off, repeat it.
    """

    async def work() -> None:
        again = confirm or (typer.prompt(f"Type {name} to erase it", err=True) if err.is_terminal else "")
        request = brand_pb2.DeleteBrandRequest(name=name, confirm_name=again)
        async with to_registry(registry) as channel:
            stub = brand_pb2_grpc.BrandServiceStub(channel)
            done = await answer(stub.DeleteBrand(request, timeout=_LONG_S))
        say(f"{name} is erased; {_size(done.freed_bytes)} of files are gone")

    run(work())


def collect(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; only tell what would be.")] = False,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Delete what failed and abandoned publications left in the store. Every registry does so by itself each hour."""

    async def work() -> None:
        async with to_registry(registry) as channel:
            stub = registry_pb2_grpc.RegistryAdminServiceStub(channel)
            done = await answer(
                stub.CollectGarbage(registry_pb2.CollectGarbageRequest(dry_run=dry_run), timeout=_LONG_S)
            )
        if json:
            print_json(as_dict(done))
            return
        verb = "would be deleted" if dry_run else "deleted"
        say(f"{done.deleted_objects} objects of {_size(done.deleted_bytes)} {verb}")
        say(f"{done.young_objects} objects of {_size(done.young_bytes)} may still be of use")

    run(work())


def fsck(
    *,
    brand: Annotated[str, typer.Option(help="Only what this brand owns.")] = "",
    read_files: Annotated[bool, typer.Option("--read-files", help="Read every file and compare its digest.")] = False,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Look at everything in the registry's store and tell what is wrong. Exits with 1 if something is."""

    async def work() -> None:
        request = registry_pb2.CheckStoreRequest(brand=brand, read_files=read_files)
        faults: list[dict[str, Any]] = []
        summary = registry_pb2.StoreSummary()
        async with to_registry(registry) as channel:
            call = registry_pb2_grpc.RegistryAdminServiceStub(channel).CheckStore(request, timeout=_LONG_S)
            try:
                with err.status("looking") as status:
                    async for message in call:
                        if message.HasField("fault"):
                            faults.append(as_dict(message.fault))
                            if not json:
                                _tell(message.fault)
                        elif message.HasField("summary"):
                            summary = message.summary
                        else:
                            status.update(f"looked at {message.checked_brand}")
            except grpc.aio.AioRpcError as error:
                raise error_from_rpc(error) from None
        if json:
            print_json({"faults": faults, "summary": as_dict(summary)})
        else:
            say(
                f"{summary.brands} brands, {summary.adapters} adapters, {summary.versions} versions, "
                f"{summary.records} records"
            )
            say(f"{summary.file_objects} objects hold {_size(summary.file_bytes)} of versions' files")
            say(f"{summary.unreferenced_objects} objects hold {_size(summary.unreferenced_bytes)} of no version's")
        if faults:
            raise Problem(f"{len(faults)} faults", 1)

    run(work())


def _tell(fault: registry_pb2.StoreFault) -> None:
    kind = registry_pb2.StoreFaultKind.Name(fault.kind).removeprefix(_KIND).lower().replace("_", " ")
    note(f"{kind}: {fault.key}: {fault.description}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"
