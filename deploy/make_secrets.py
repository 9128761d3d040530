"""Makes the secrets of deploy/compose.yaml, once: `python deploy/make_secrets.py`. Needs nothing but Python.

One random key or token for each hop, so that a file which leaks opens one door. Files that are there stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).with_name("secrets")

#: Who may do what at which server, as services/chassis/settings.py tells of its tokens.
ADMIN = ("read", "publish", "promote", "manage", "generate", "operate", "serve")
ALLOWED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "registry": {"admin": ADMIN, "router": ("read",), "worker": ("read",)},
    "router": {"admin": ADMIN, "worker": ("serve",)},
    "worker": {"admin": ADMIN, "router": ("generate",)},
}


def files() -> dict[str, str]:
    """Every file by its name, with fresh secrets."""
    shown = {
        (caller, server): secrets.token_urlsafe(32)
        for server, callers in ALLOWED.items()
        for caller in callers
        if caller != "admin"
    }
    admin, root, store, grafana = (secrets.token_urlsafe(32) for _ in range(4))
    minio = f"MINIO_ROOT_USER=root\nMINIO_ROOT_PASSWORD={root}\n"
    made = {
        "registry.env": f"REGISTRY_STORE_SECRET_KEY={store}\n",
        "router.env": f"ROUTER_REGISTRY_TOKEN={shown['router', 'registry']}\n"
        f"ROUTER_WORKER_TOKEN={shown['router', 'worker']}\n",
        "worker.env": f"WORKER_REGISTRY_TOKEN={shown['worker', 'registry']}\n"
        f"WORKER_ROUTER_TOKEN={shown['worker', 'router']}\n",
        "minio.env": minio,
        "minio-setup.env": f"{minio}REGISTRY_SECRET_KEY={store}\n",
        "seaweedfs.json": _seaweedfs(store),
        "grafana.env": f"GF_SECURITY_ADMIN_PASSWORD={grafana}\n",
        "admin.env": f"LOOKSMITH_TOKEN={admin}\n",
    }
    for server, callers in ALLOWED.items():
        entries = [
            _entry(caller, admin if caller == "admin" else shown[caller, server], actions)
            for caller, actions in callers.items()
        ]
        made[f"tokens/{server}.toml"] = "\n".join(entries)
    return made


def _entry(caller: str, token: str, actions: tuple[str, ...]) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[token]]\nname = "{caller}"\nsha256 = "{digest}"\nactions = {json.dumps(actions)}\nbrands = ["*"]\n'


def _seaweedfs(secret_key: str) -> str:
    identity = {
        "name": "registry",
        "credentials": [{"accessKey": "registry", "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    return json.dumps({"identities": [identity]}) + "\n"


def main(folder: Path) -> None:
    if folder.exists():
        sys.exit(f"{folder} is there already; move it away for new secrets, and make every container anew")
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Compose reads .env files as who runs it; what is mounted is read by a container's own user.
        path.touch(mode=0o600 if name.endswith(".env") else 0o644)
        path.write_text(text)


if __name__ == "__main__":
    main(FOLDER)
