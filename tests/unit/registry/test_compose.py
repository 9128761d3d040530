from __future__ import annotations

import socket

import pytest

from services.chassis.process import CannotStart
from services.registry import minio_store
from services.registry.compose import registry
from services.registry.settings import RegistrySettings


async def test_store_that_does_not_answer_is_named_when_the_registry_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minio_store, "BUCKET_TRIES", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens
        endpoint = f"127.0.0.1:{closed.getsockname()[1]}"
        settings = RegistrySettings.read(
            {
                "REGISTRY_STORE_ENDPOINT": endpoint,
                "REGISTRY_STORE_ACCESS_KEY": "k",
                "REGISTRY_STORE_SECRET_KEY": "s" * 16,
            }
        )
        with pytest.raises(CannotStart, match=endpoint):
            async with registry(settings):
                pass
