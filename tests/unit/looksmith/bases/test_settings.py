from __future__ import annotations

import sys

import pytest

from looksmith.bases import Malformed, StoreSettings, open_store
from looksmith.bases.errors import SdkMissing
from looksmith.bases.settings import LOCAL_ENDPOINT
from looksmith.cli.calls import PORT
from looksmith.cli.stack import Ports

EVERYTHING = {
    "LOOKSMITH_STORE_ENDPOINT": "minio.internal:9000",
    "LOOKSMITH_STORE_ACCESS_KEY": "key",
    "LOOKSMITH_STORE_SECRET_KEY": "secret",
    "LOOKSMITH_STORE_BUCKET": "models",
    "LOOKSMITH_STORE_SECURE": "True",
    "LOOKSMITH_STORE_REGION": "eu-central-1",
}


def test_every_variable_is_read_and_the_secret_is_not_shown() -> None:
    settings = StoreSettings.from_environ(EVERYTHING)
    assert settings == StoreSettings(
        "minio.internal:9000", "key", "secret", "models", secure=True, region="eu-central-1"
    )
    assert "secret" not in repr(settings).replace("secret_key", "")


def test_without_any_it_is_the_local_stack_s_store() -> None:
    settings = StoreSettings.from_environ({})
    assert settings == StoreSettings()
    assert settings.endpoint == LOCAL_ENDPOINT == f"127.0.0.1:{Ports.from_base(PORT).store}"
    elsewhere = StoreSettings.from_environ({}, endpoint="127.0.0.1:8002")
    assert (elsewhere.endpoint, elsewhere.access_key) == ("127.0.0.1:8002", settings.access_key)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ACCESS_KEY", "", "is required for the store at minio.internal:9000"),
        ("SECRET_KEY", "", "is required for the store at minio.internal:9000"),
        ("ENDPOINT", "http://minio.internal:9000", "must be HOST:PORT"),
        ("ENDPOINT", "minio.internal:port", "must be HOST:PORT"),
        ("BUCKET", "Models", "must be 3 to 63 of"),
        ("BUCKET", "m", "must be 3 to 63 of"),
        ("SECURE", "maybe", "must be true or false, not 'maybe'"),
    ],
)
def test_a_bad_or_missing_one_is_told_by_its_name(name: str, value: str, said: str) -> None:
    with pytest.raises(Malformed) as refused:
        StoreSettings.from_environ({**EVERYTHING, f"LOOKSMITH_STORE_{name}": value})
    assert refused.value.field == f"LOOKSMITH_STORE_{name}"
    assert said in refused.value.description


def test_an_sdk_that_is_not_installed_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "looksmith.bases.minio_store", raising=False)
    monkeypatch.setitem(sys.modules, "minio", None)
    with pytest.raises(SdkMissing, match=r"pip install 'looksmith\[store\]'"), open_store(StoreSettings()):
        pass
