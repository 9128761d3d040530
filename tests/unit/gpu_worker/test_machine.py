from __future__ import annotations

from pathlib import Path

from services.gpu_worker.machine import Machine


def rooted(root: Path, *, limit: str, used: int = 700, idle: int = 100) -> Machine:
    """A machine with 1 MB free, and a container in it."""
    cgroup = root / "sys/fs/cgroup"
    for folder in (cgroup, root / "proc"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    (cgroup / "memory.max").write_text(f"{limit}\n")
    (cgroup / "memory.current").write_text(f"{used}\n")
    (cgroup / "memory.stat").write_text(f"anon 500\ninactive_file {idle}\n")
    return Machine(root, root=root)


def test_what_a_container_has_left_counts_where_that_is_less_than_the_machine_has(tmp_path: Path) -> None:
    assert rooted(tmp_path, limit="1000").memory_free() == 1000 - 700 + 100
    assert rooted(tmp_path, limit="max").memory_free() == 1_024_000
    assert rooted(tmp_path, limit="99000000").memory_free() == 1_024_000
    assert rooted(tmp_path, limit="500").memory_free() == 0


def test_a_machine_that_does_not_tell_has_nothing_to_tell(tmp_path: Path) -> None:
    silent = Machine(tmp_path / "gone", root=tmp_path / "gone")
    assert (silent.memory_free(), silent.disk_free()) == (None, None)
    assert Machine(tmp_path).disk_free()
