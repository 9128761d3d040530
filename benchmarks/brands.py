"""Makes as many brands as a test or a benchmark wants: real LoRA files, mixed by seed from those that ship.

`python -m benchmarks.brands --count 250 --out FOLDER --registry HOST:PORT` writes and publishes them. What they paint
is references.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.lora_files import DIALECTS, can_hold, write_lora
from looksmith.cli.calls import answer
from looksmith.cli.demo import BRANDS, publications
from looksmith.lora import Dialect, ModuleTable, pack, packaged_table, read_modules, read_weights
from looksmith.publisher import publish
from looksmith.v1 import adapter_pb2, brand_pb2, brand_pb2_grpc
from models.studio.dialects import Lora

FAMILY = "studio"
ADAPTER = "house-style"  # what every brand calls its only one
RANKS = (4, 8, 16, 32, 64, 128)
# The next three are tuned so that any two of 100 brands differ visibly: the nearest do so at 16.8 % of their pixels.
#: How strongly each block shows a shipped look; but for the first look, with either sign.
WEIGHTS = (0.5, 1.2)
#: The part of a brand's rank that is random, and how large that part is beside the mix.
RANDOM_RANK, RANDOM_SIZE = 0.25, 0.4
#: How much stronger the mix is in a file that adapts attention alone, whose pictures differ less.
ATTENTION_ALONE = 2.4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pieces:
    """What a LoRA adds to one layer, up @ down, as a sum of rank-one pieces."""

    down: Floats  # [pieces, in], each of length one or nearly so
    up: Floats  # [out, pieces]

    @property
    def sizes(self) -> Floats:
        sizes: Floats = np.linalg.norm(self.down, axis=1) * np.linalg.norm(self.up, axis=0)
        return sizes

    def largest(self, count: int) -> Pieces:
        kept = np.argsort(-self.sizes, kind="stable")[:count]
        return Pieces(self.down[kept], self.up[:, kept])


Look = Mapping[str, Pieces]  # by component.path
Parts = dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]


def shipped_looks() -> tuple[Look, ...]:
    """The adapters that models/studio/brands holds, taken apart.

    Raises:
        FileNotFoundError: one is not there.
    """
    files = [path for brand in publications(BRANDS) for path in brand.adapters.values()]
    return tuple(look_of(file, packaged_table(FAMILY)) for file in files)


def look_of(path: Path, table: ModuleTable) -> Look:
    """A file or a peft folder, taken apart.

    Raises:
        LoraError: it does not fit the base.
    """
    with tempfile.TemporaryDirectory() as folder:
        if path.is_dir():
            packed = Path(folder) / "packed.safetensors"
            pack(path).write(packed)
            path = packed
        return {
            module.name: _taken_apart(module.scale * up, down)
            for module, down, up in read_weights(path, read_modules(path, table))
        }


def _taken_apart(up: Floats, down: Floats) -> Pieces:
    """The singular value decomposition of up @ down, by way of their small factors."""
    (out, inner), (in_, outer) = np.linalg.qr(up), np.linalg.qr(down.T)
    left, sizes, right = np.linalg.svd(inner @ outer.T)
    return Pieces((in_ @ right.T).T, out @ left * sizes)


def brand_file(index: int, *, folder: Path, looks: Sequence[Look], seed: int = 0) -> Path:
    """Writes one brand's adapter; its stem is the brand's name. The same arguments make the same adapter.

    It is two or three looks, weighed anew in each block, and a random part. Dialects and ranks take turns.
    """
    generator = np.random.default_rng([seed, index])
    dialect, rank = DIALECTS[index % len(DIALECTS)], RANKS[index % len(RANKS)]
    alpha = rank if dialect is Dialect.DIFFUSERS_OLD else int(generator.choice([1, rank // 2, rank]))
    parts: Parts = {"unet": {}, "text_encoder": {}}
    strength = ATTENTION_ALONE if dialect is Dialect.DIFFUSERS_OLD else 1.0
    for name, pieces in _mixed(looks, generator, strength):
        component, _, path = name.partition(".")
        if can_hold(dialect, component, path):
            filled = _filled(pieces, rank, generator)
            up = filled.up * np.float32(rank / alpha)
            parts[component][path] = (torch.from_numpy(filled.down), torch.from_numpy(up))
    file = folder / f"brand-{index:04d}.safetensors"
    return write_lora(Lora(rank, alpha, parts["unet"], parts["text_encoder"]), dialect, file)


def _mixed(looks: Sequence[Look], generator: np.random.Generator, strength: float) -> Iterator[tuple[str, Pieces]]:
    """Every layer that a chosen look adapts, with the pieces of all of them, weighed."""
    count = min(len(looks), int(generator.integers(2, 4)))
    chosen = [looks[i] for i in generator.choice(len(looks), count, replace=False)]
    names = sorted({name for look in chosen for name in look})
    blocks = sorted({_block(name) for name in names})
    # The first look carries the picture: where all are taken away, brands fade alike.
    signs = [[1], *[[-1, 1]] * (count - 1)]
    weights = [
        {block: np.float32(generator.choice(sign) * generator.uniform(*WEIGHTS) * strength) for block in blocks}
        for sign in signs
    ]
    for name in names:
        weighed = [
            (look[name], weight[_block(name)]) for look, weight in zip(chosen, weights, strict=True) if name in look
        ]
        yield (
            name,
            Pieces(
                np.concatenate([pieces.down for pieces, _ in weighed]),
                np.concatenate([pieces.up * weight for pieces, weight in weighed], axis=1),
            ),
        )


def _block(name: str) -> str:
    """unet.down_blocks.1, unet.mid_block.attentions, text_encoder.text_model.encoder, and so on."""
    return ".".join(name.split(".")[:3])


def _filled(pieces: Pieces, rank: int, generator: np.random.Generator) -> Pieces:
    """The largest pieces, made as large as all were, and random ones to make up the rank."""
    kept = pieces.largest(rank - max(1, int(RANDOM_RANK * rank)))
    missing = rank - len(kept.down)
    width = kept.down.shape[1]
    down = generator.standard_normal((missing, width), np.float32) / np.float32(width**0.5)
    up = generator.standard_normal((kept.up.shape[0], missing), np.float32)
    size = np.linalg.norm(pieces.sizes)
    part = size / np.linalg.norm(kept.sizes)
    random_part = RANDOM_SIZE * size / np.linalg.norm(Pieces(down, up).sizes)
    return Pieces(np.concatenate([kept.down, down]), np.concatenate([kept.up * part, up * random_part], axis=1))


def write_brands(count: int, folder: Path, *, seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    looks = shipped_looks()
    numbers = tqdm(range(count), desc="brands written", disable=None)
    return [brand_file(index, folder=folder, looks=looks, seed=seed) for index in numbers]


async def publish_brands(registry: grpc.aio.Channel, files: Iterable[Path]) -> dict[str, str]:
    """Gives every file a brand of its name, with a record, and publishes it; the digest by brand. May be repeated.

    Raises:
        LooksmithError: the registry refused one.
    """
    records = brand_pb2_grpc.BrandServiceStub(registry)
    base = packaged_table(FAMILY).digest
    digests: dict[str, str] = {}
    for file in tqdm(list(files), desc="brands published", disable=None):
        name = file.stem
        record = brand_pb2.Brand(name=name, default_adapters=[adapter_pb2.AdapterUse(adapter=ADAPTER)])
        await answer(records.PutBrand(brand_pb2.PutBrandRequest(brand=record), timeout=30))
        done = await publish(registry, file, brand=name, adapter=ADAPTER, family=FAMILY, base_digest=base)
        digests[name] = done.version.digest
    return digests


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0, help="other seeds make other brands")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--registry", help="HOST:PORT of a registry that shall have them")
    arguments = parser.parse_args()
    files = write_brands(arguments.count, arguments.out, seed=arguments.seed)
    if arguments.registry:
        async with grpc.aio.insecure_channel(arguments.registry) as channel:
            await publish_brands(channel, files)


if __name__ == "__main__":
    asyncio.run(main())
