"""Writes the files beside it: each image's packages with versions of constraints.txt and the hash of the wheel taken.

`make locks` runs it. Asks the package index alone, without this machine's own sources, so that torch is the build with
CUDA. Good for what images are: CPython 3.11 on x86_64 Linux; what other platforms would need is not there.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent

#: By file: what it holds all requirements of. A worker's image has the command, which fetches bases before it starts.
WANTED: Mapping[str, str] = {
    "build": "hatchling>=1.27,<2",  # as [build-system] of pyproject.toml
    "registry": ".[registry]",
    "router": ".[router]",
    "worker": ".[worker,cli,store]",
}


def resolved(wanted: str) -> dict[str, str]:
    """Every distribution that ``wanted`` needs, itself aside: name==version -> sha256 of its wheel."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--isolated", "--quiet", "--dry-run", "--ignore-installed",
                "--only-binary=:all:", f"--constraint={ROOT / 'constraints.txt'}", f"--report={report}", wanted,
            ],
            cwd=ROOT,
            check=True,
        )  # fmt: skip
        installs = json.loads(report.read_text())["install"]
    found = {}
    for each in installs:
        if archive := each["download_info"].get("archive_info"):
            name = f"{each['metadata']['name']}=={each['metadata']['version']}"
            found[name] = archive["hashes"]["sha256"]
    return found


def written(wanted: str, found: Mapping[str, str]) -> str:
    """The text of a file."""
    head = f"# What {wanted} needs, by deploy/requirements/lock.py: CPython 3.11 on x86_64 Linux. Don't edit.\n"
    lines = [f"{name} --hash=sha256:{digest}\n" for name, digest in sorted(found.items(), key=lambda e: e[0].lower())]
    return head + "".join(lines)


def main() -> None:
    here = (sys.version_info[:2], sys.platform, platform.machine())
    if here != ((3, 11), "linux", "x86_64"):
        sys.exit(f"run it with CPython 3.11 on x86_64 Linux, which images have: this is {here}")
    for name, wanted in WANTED.items():
        (FOLDER / f"{name}.txt").write_text(written(wanted, resolved(wanted)))


if __name__ == "__main__":
    main()
