"""Holds the import rules: who may import whom, and who may import torch.

Reads imports wherever they stand, in functions and under TYPE_CHECKING too; knows nothing about what code does.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("looksmith", "services", "models", "benchmarks", "tests")

SERVICES = sorted({init.parent.name for init in ROOT.glob("services/*/__init__.py")} - {"chassis"})
CLIENTS = [f"services.{service}.client" for service in SERVICES]
MAY_IMPORT = {
    "looksmith": ["looksmith"],
    "services/chassis": ["looksmith", "services.chassis"],
    **{f"services/{name}": ["looksmith", "services.chassis", f"services.{name}", *CLIENTS] for name in SERVICES},
}

HEAVY = ["torch", "diffusers", "transformers", "peft"]
MAY_BE_HEAVY = [
    "services/gpu_worker/engine",
    "models",
    "benchmarks",
    "tests/gpu",
    "tests/integration",
    "tests/e2e",
    "tests/unit/benchmarks",
    "tests/unit/gpu_worker/engine",
]


def imports(source: str, path: PurePosixPath) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that source, the text of the file at path, imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = resolve_name("." * level + (module or ""), ".".join(path.parent.parts))
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)


def breaches(source: str, path: PurePosixPath) -> list[str]:
    """The imports in source that the rules forbid to the file at path, each as `path:line imports name`."""
    forbidden = [] if any(map(path.is_relative_to, MAY_BE_HEAVY)) else HEAVY
    allowed = next((names for folder, names in MAY_IMPORT.items() if path.is_relative_to(folder)), list(CODE))

    def within(name: str, packages: list[str] | tuple[str, ...]) -> bool:
        return any(f"{name}.".startswith(f"{package}.") for package in packages)

    return [
        f"{path}:{line} imports {name}"
        for line, name in imports(source, path)
        if within(name, forbidden) or (within(name, CODE) and not within(name, allowed))
    ]


def test_code_imports_only_what_it_may() -> None:
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    assert Path(__file__) in files
    assert [line for path in files for line in breaches(path.read_text(), PurePosixPath(path.relative_to(ROOT)))] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("services/router/placement.py", "from services.registry import catalog"),
        ("services/router/placement.py", "from ..registry.catalog import Catalog"),
        ("services/router/placement.py", "def place():\n    import torch.nn"),
        ("services/gpu_worker/tiers.py", "if TYPE_CHECKING:\n    from torch import Tensor"),
        ("services/registry/catalog.py", "import benchmarks.brands"),
        ("services/chassis/server.py", "from services.router import client"),
        ("looksmith/client.py", "from services.router.client import Router"),
        ("looksmith/lora/header.py", "import models.studio"),
        ("tests/unit/router/test_placement.py", "from peft import LoraConfig"),
    ],
)
def test_notices_a_forbidden_import(path: str, source: str) -> None:
    assert len(breaches(source, PurePosixPath(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("services/router/dispatch.py", "from services.registry.client import Registry"),
        ("services/router/dispatch.py", "from services.registry import client"),
        ("services/router/dispatch.py", "from . import placement\nfrom looksmith.errors import NotFound"),
        ("services/gpu_worker/engine/bank.py", "import torch\nfrom looksmith.lora import packing"),
        ("benchmarks/engine.py", "import diffusers\nfrom services.gpu_worker.engine import bank"),
        ("looksmith/client.py", "import torchlight\nimport grpc"),
    ],
)
def test_lets_a_permitted_import_pass(path: str, source: str) -> None:
    assert breaches(source, PurePosixPath(path)) == []


@pytest.mark.parametrize("service", ["registry", "router"])
def test_a_service_without_an_engine_runs_without_torch(service: str) -> None:
    # A process of its own: other tests have torch loaded already. Static rules can't see what a library brings in.
    code = f"import sys, services.{service}.compose; print(sorted({{*sys.modules}} & {set(HEAVY)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
