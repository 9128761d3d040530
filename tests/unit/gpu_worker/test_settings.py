import pytest

from services.chassis.settings import SettingsError
from services.gpu_worker.settings import WorkerSettings

LEAST = {"WORKER_NAME": "w1", "WORKER_REGISTRY": "registry:7000", "WORKER_DISK_CACHE": "/var/cache/looksmith"}


def test_needs_a_name_a_registry_and_a_folder_and_says_so() -> None:
    with pytest.raises(SettingsError) as caught:
        WorkerSettings.read({})
    assert all(name in str(caught.value) for name in LEAST)


def test_reads_lists_of_recipes_and_routers() -> None:
    settings = WorkerSettings.read(LEAST | {"WORKER_RECIPES": "a.toml, b.toml", "WORKER_ROUTERS": "r1:1,r2:2"})
    assert settings.recipes == ("a.toml", "b.toml")
    assert settings.routers == ("r1:1", "r2:2")
    assert WorkerSettings.read(LEAST).routers == ()


def test_reads_the_bank_s_rank_classes_and_batch_sizes() -> None:
    settings = WorkerSettings.read(LEAST | {"WORKER_SLOTS": "16:64, 128:8", "WORKER_BATCH_SIZES": "1,4"})
    assert settings.slots == {16: 64, 128: 8}
    assert settings.batch_sizes == (1, 4)


@pytest.mark.parametrize(
    "bad",
    [
        {"WORKER_NAME": "Upper Case"},
        {"WORKER_ENGINE": "tpu"},
        {"WORKER_PEFT_SLOTS": "5"},
        {"WORKER_SLOTS": "32:5"},
        {"WORKER_SLOTS": "256:32"},
        {"WORKER_SLOTS": "32"},
        {"WORKER_BATCH_SIZES": "1"},
        {"WORKER_BATCH_SIZES": "2,many"},
        {"WORKER_RECIPES": ""},
    ],
)
def test_refuses_by_name_what_can_t_work(bad: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(bad))):
        WorkerSettings.read(LEAST | bad)
