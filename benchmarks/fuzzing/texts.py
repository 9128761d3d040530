"""What people write into files and commands: recipes, tokens, settings, references, page tokens, KEDA's metadata.

Says what is tried; what is right about a text is for the code that reads it.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.fuzzing.parcels import packed, parts_of
from benchmarks.fuzzing.target import Target
from looksmith import convert
from looksmith.bases.reference import Reference
from looksmith.bases.settings import StoreSettings
from looksmith.cli.calls import parse_ref
from looksmith.cli.terminal import Problem
from looksmith.errors import LooksmithError
from looksmith.nouns import Malformed, check_alias, check_digest, check_name
from services.chassis.settings import ServiceSettings, SettingsError
from services.chassis.tokens import AccessFileError, Tokens
from services.gpu_worker.engine.recipe import RecipeError
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.sources import SourceMissing, Sources
from services.gpu_worker.settings import WorkerSettings
from services.registry import paging
from services.registry.settings import RegistrySettings
from services.router.scaler import Scaler, Trigger, Work
from services.router.settings import RouterSettings

CHECKOUT = Path(__file__).parents[2]
#: What inputs write their files into; gone with the process, or with the folder in which its overseer has it make this.
FOLDER = Path(tempfile.mkdtemp(prefix="fuzzing-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

TOML_WORDS = (
    b"[[token]]", b"[base]", b"[a.b]", b"=", b'"', b"'''", b'"""', b"[[[[", b"]]]]", b"{", b"}", b"nan", b"inf",
    b"true", b"1e999", b"9" * 30, b"1979-05-27T07:32:00Z", b"\\u0000", b"0x", b"#", b"_",
)  # fmt: skip
_TOKEN = hashlib.sha256(b"secret").hexdigest()
_TOKENS = f"""[[token]]
name = "ci"
sha256 = "{_TOKEN}"
actions = ["read", "publish"]
brands = ["acme-*"]
[[token]]
name = "router"
certificate = "router.looksmith"
actions = ["generate"]
brands = ["*"]
""".encode()


class _NoHub(Sources):
    """Nothing is downloaded by chance."""

    def find(self, source: str, folder: Path) -> Path:
        if source.startswith("hub://"):
            raise SourceMissing("lies at the hub")
        return super().find(source, folder)


def _recipe(data: bytes) -> object:
    file = FOLDER / "recipe.toml"
    file.write_bytes(data)
    return read_recipe(file, _NoHub(bases=FOLDER))


def _tokens(data: bytes) -> object:
    """The file, and headers that callers send."""
    text, *headers = parts_of(data, 3)
    file = FOLDER / "tokens.toml"
    file.write_bytes(text)
    tokens = Tokens.read(file)
    return [tokens.caller(header.decode("utf-8", "replace"), ["router.looksmith"]) for header in headers]


def _settings(kind: type[ServiceSettings]) -> Callable[[bytes], object]:
    prefix = kind.env_prefix

    def parse(data: bytes) -> object:
        lines = data.decode("utf-8", "replace").split("\n")
        pairs = (line.partition("=") for line in lines)
        return kind.read({f"{prefix}{name}": value for name, _, value in pairs})

    return parse


def _store_settings(data: bytes) -> object:
    names = ("ENDPOINT", "BUCKET", "SECURE", "ACCESS_KEY", "SECRET_KEY", "REGION")
    values = (part.decode("utf-8", "replace") for part in parts_of(data, len(names)))
    return StoreSettings.from_environ({f"LOOKSMITH_STORE_{name}": value for name, value in zip(names, values)})  # noqa: B905  # as many


def _reference(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    if text.startswith("store:"):
        return Reference.parse(text).folder
    return str(convert.ref_from_pb(parse_ref(text)))


def _names(data: bytes) -> object:
    name, alias, digest = (part.decode("utf-8", "replace") for part in parts_of(data, 3))
    return check_name("name", name), check_alias("alias", alias), check_digest("digest", digest)


def _page_token(data: bytes) -> object:
    """As it comes, and as one of the registry's own with something else inside."""
    text = data.decode("utf-8", "replace")
    scope = ["adapters", "acme"]
    own = paging.token(scope, text)
    found = paging.after(scope, own), paging.number_after(scope, own, newest=7)
    return found, paging.after(scope, text), paging.number_after(scope, text, newest=7)


class _Busy:
    def work(self, recipe: str) -> Work:  # noqa: ARG002  # a Backlog
        return Work(1.0, 2.0, 3)


def _trigger(data: bytes) -> object:
    target, recipe, metric = (part.decode("utf-8", "replace") for part in parts_of(data, 3))
    return Scaler(backlog=_Busy()).metric(metric, Trigger.of({"targetSeconds": target, "recipe": recipe}))


def _lines(values: Mapping[str, str]) -> bytes:
    return "\n".join(f"{name}={value}" for name, value in values.items()).encode()


_EVERY_SERVER = {"PORT": "0", "METRICS_PORT": "0", "SHUTDOWN_GRACE_S": "1", "LOG_LEVEL": "info", "HOST": "127.0.0.1"}
_SETTINGS_WORDS = (
    b"\n",
    b"=",
    b"nan",
    b"-1",
    b"inf",
    b"1e999",
    b"true",
    b"16:64,128:8",
    b",,",
    b":",
    b"1_0",
    b"9" * 40,
)

TARGETS = (
    Target(
        "texts/recipe",
        _recipe,
        (RecipeError,),
        tuple(file.read_bytes() for file in sorted((CHECKOUT / "deploy" / "recipes").glob("*.toml"))),
        TOML_WORDS,
        share=2,
    ),
    Target(
        "texts/tokens",
        _tokens,
        (AccessFileError, LooksmithError),
        (packed(_TOKENS, b"Bearer secret", b""),),
        (*TOML_WORDS, b"actions", b"brands", b"certificate", b"\xff\xfe", b"Bearer "),
        share=2,
    ),
    Target(
        "texts/registry_settings",
        _settings(RegistrySettings),
        (SettingsError,),
        (_lines({**_EVERY_SERVER, "STORE_ENDPOINT": "a:1", "STORE_ACCESS_KEY": "a", "STORE_SECRET_KEY": "b"}),),
        (*_SETTINGS_WORDS, b"GC_GRACE_S", b"UPLOAD_EXPIRY_S", b"PROTECTED_ALIASES", b"MAX_ADAPTER_BYTES"),
    ),
    Target(
        "texts/router_settings",
        _settings(RouterSettings),
        (SettingsError,),
        (_lines({**_EVERY_SERVER, "NAME": "r", "REGISTRY": "a:1", "LEASE_S": "3"}),),
        (*_SETTINGS_WORDS, b"WORKER_WAIT_S", b"BRAND_MAX_QUEUED_JOBS"),
    ),
    Target(
        "texts/worker_settings",
        _settings(WorkerSettings),
        (SettingsError,),
        (_lines({**_EVERY_SERVER, "NAME": "w", "REGISTRY": "a:1", "DISK_CACHE": "/c", "SLOTS": "16:64,128:8"}),),
        (*_SETTINGS_WORDS, b"BATCH_SIZES", b"SLOTS", b"RECIPES", b"ENGINE"),
    ),
    Target(
        "texts/store_settings",
        _store_settings,
        (Malformed,),
        (packed(b"minio:9000", b"looksmith", b"true", b"a", b"b", b"us-east-1"),),
        (b"\xff\xfe", b"[::1]", b"127.0.0.1:1", b"yes"),
    ),
    Target(
        "texts/reference",
        _reference,
        (Malformed, Problem),
        (b"acme/look@3", b"acme/look:staging", b"acme/look@sha256:" + b"3" * 64, b"store://bases/sd15@" + b"3" * 64),
        (b"@sha256:", b"/", b"@", b":", b"store://bases/", b"9" * 12, "\u0663".encode()),
        share=2,
    ),
    Target(
        "texts/names",
        _names,
        (Malformed,),
        (packed(b"acme", b"staging", b"3" * 64),),
        (b"\xff\xfe", b"a" * 63, b"-", "\u0663".encode(), b"\n"),
    ),
    Target(
        "texts/page_token",
        _page_token,
        (Malformed,),
        (paging.token(["adapters", "acme"], "look").encode(), b"3", b"[" * 400),
        (b"W1tb", b"[[", b"9" * 20, "\u0663".encode(), b"\\ud800"),
    ),
    Target(
        "texts/trigger",
        _trigger,
        (LooksmithError,),
        (packed(b"30", b"studio", b"looksmith-gpu-seconds"),),
        (b"\xff\xfe", b"nan", b"1e999", b"-0", b"1_0", b"infinity"),
    ),
)
