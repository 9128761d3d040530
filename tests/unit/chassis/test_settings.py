from typing import ClassVar

import pytest

from services.chassis.settings import Names, ServiceSettings, SettingsError


class ShopSettings(ServiceSettings):
    env_prefix: ClassVar[str] = "SHOP_"
    bucket: str
    routers: Names = ()


def test_reads_variables_of_its_own_prefix_only() -> None:
    settings = ShopSettings.read({"SHOP_BUCKET": "b", "SHOP_PORT": "81", "PORT": "99", "OTHER_HOST": "h"})
    assert (settings.bucket, settings.port, settings.host) == ("b", 81, "127.0.0.1")


def test_names_every_variable_that_is_missing_or_bad() -> None:
    with pytest.raises(SettingsError, match=r"SHOP_PORT: .*; SHOP_BUCKET: Field required|SHOP_BUCKET.*SHOP_PORT"):
        ShopSettings.read({"SHOP_PORT": "many"})


def test_splits_lists_at_commas() -> None:
    assert ShopSettings.read({"SHOP_BUCKET": "b", "SHOP_ROUTERS": "a:1, b:2,"}).routers == ("a:1", "b:2")


def test_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ShopSettings.read({"SHOP_BUCKET": "b"}).port = 1
