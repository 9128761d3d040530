"""Measures the studio model: does it paint what was asked, in how few steps, and does each brand look like itself?

``python -m models.studio.evaluate --json FILE``. Seeded; the judge (see judge.py) never saw a generated picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from models.studio import judge as judges
from models.studio.captions import prompt
from models.studio.dataset import pictures, scenes
from models.studio.distill import MET
from models.studio.files import verify
from models.studio.load import BRANDS, base_pipeline, distilled_pipeline, few_step_scheduler, with_brand
from models.studio.scenes import BACKGROUNDS, COLOURS, LOOKS, OBJECTS, OBJECTS_UNSEEN_BY_BRANDS, Scene, held_out_triples
from models.studio.training import replace_file

Triple = tuple[str, str, str]

PROMPTS = 300
BRAND_PROMPTS = 60
TEST_DRAWINGS = 1200
GUIDANCES = (2.0, 3.0, 4.5)


def seen_triples(count: int, rng: np.random.Generator, subjects: Sequence[str] = OBJECTS) -> list[Triple]:
    found: dict[Triple, None] = {}
    while len(found) < count:
        triple = (str(rng.choice(subjects)), str(rng.choice(list(COLOURS))), str(rng.choice(list(BACKGROUNDS))))
        if triple not in held_out_triples():
            found.setdefault(triple)
    return list(found)


def evaluation_triples() -> list[Triple]:
    """Half seen in training, half never: 2 x 150 of each kind, all different."""
    rng = np.random.default_rng(42)
    unseen = sorted(held_out_triples())
    picks = rng.permutation(len(unseen))[: PROMPTS // 2]
    return seen_triples(PROMPTS // 2, rng) + [unseen[i] for i in picks]


def paint(
    pipe: StableDiffusionPipeline,
    triples: Sequence[Triple],
    *,
    steps: int,
    guidance: float,
    first_seed: int,
    batch: int = 50,
) -> list[Image.Image]:
    """One picture a triple; picture i has its own generator, seeded ``first_seed + i``."""
    images: list[Image.Image] = []
    for start in range(0, len(triples), batch):
        some = triples[start : start + batch]
        generators = [torch.Generator().manual_seed(first_seed + start + i) for i in range(len(some))]
        images += pipe(
            [prompt(*t) for t in some], num_inference_steps=steps, guidance_scale=guidance, generator=generators
        ).images
    return images


def kept(said: Iterable[dict[str, str]], triples: Iterable[Triple]) -> list[bool]:
    """Per picture: object, colour and background are all as asked."""
    return [(a["subject"], a["colour"], a["background"]) == t for a, t in zip(said, triples, strict=True)]


def share(values: Iterable[bool]) -> float:
    return round(float(np.mean(list(values))), 4)


def judge_accuracy(judge: judges.Judge) -> float:
    """Share of test drawings, all looks, on which all four answers are right."""
    wanted: list[Scene] = []
    drawn = []
    for look in LOOKS:
        part = scenes("test", TEST_DRAWINGS // len(LOOKS), look=look, start=1000 * LOOKS.index(look))
        wanted += part
        drawn += [Image.fromarray(p) for p in pictures(part, name=f"test-{look}")]
    said = judge.answers(drawn)
    return share(all(a[q] == getattr(s, q) for q in judges.ANSWERS) for a, s in zip(said, wanted, strict=True))


def seconds_a_picture(pipe: StableDiffusionPipeline, steps: int, guidance: float, repeats: int = 9) -> float:
    """Median wall time of one picture alone, text to pixels."""
    times = []
    for i in range(repeats + 1):
        began = time.perf_counter()
        paint(pipe, [("mug", "red", "sky")], steps=steps, guidance=guidance, first_seed=i)
        times.append(time.perf_counter() - began)
    return round(float(np.median(times[1:])), 4)


def evaluate() -> dict[str, Any]:
    verify()
    figures: dict[str, Any] = {}
    judge = judges.load()
    figures["judge_accuracy"] = judge_accuracy(judge)
    triples = evaluation_triples()
    unseen = [t in held_out_triples() for t in triples]

    # 1. The base, at its best guidance (chosen on other prompts), and hurried without distillation.
    base = base_pipeline()
    tuning = seen_triples(100, np.random.default_rng(7))
    scores = {
        g: share(kept(judge.answers(paint(base, tuning, steps=25, guidance=g, first_seed=50_000)), tuning))
        for g in tqdm(GUIDANCES, desc="guidance")
    }
    figures["guidance"] = guidance = max(scores, key=lambda g: scores[g])
    for name, steps in (("base_25", 25), ("undistilled_4", 4)):
        hits = kept(judge.answers(paint(base, triples, steps=steps, guidance=guidance, first_seed=1000)), triples)
        figures[name] = share(hits)
        if name == "base_25":
            figures["base_25_unseen"] = share(h for h, u in zip(hits, unseen, strict=True) if u)
    figures["seconds_25"] = seconds_a_picture(base, 25, guidance)

    # 2. The distilled base.
    fast = distilled_pipeline()
    for steps in tqdm((8, 4, 2, 1), desc="distilled"):
        said = judge.answers(paint(fast, triples, steps=steps, guidance=0.0, first_seed=1000))
        hits = kept(said, triples)
        figures[f"distilled_{steps}"] = share(hits)
        if steps == 4:
            figures["seen"] = share(h for h, u in zip(hits, unseen, strict=True) if not u)
            figures["unseen"] = share(h for h, u in zip(hits, unseen, strict=True) if u)
            figures["base_as_no_brand"] = share(a["look"] == "none" for a in said)
    figures["seconds_4"] = seconds_a_picture(fast, 4, 0.0)

    # 3. Every brand adapter on objects that its training never saw, in four steps.
    recognised: dict[str, float] = {}
    prompts_kept: dict[str, float] = {}
    for brand in tqdm(BRANDS, desc="brands"):
        asked = seen_triples(BRAND_PROMPTS, np.random.default_rng(BRANDS.index(brand)), OBJECTS_UNSEEN_BY_BRANDS)
        pipe = with_brand(distilled_pipeline(), brand)
        said = judge.answers(paint(pipe, asked, steps=4, guidance=0.0, first_seed=90_000))
        recognised[brand.look] = share(a["look"] == brand.look for a in said)
        prompts_kept[brand.look] = share(kept(said, asked))
    figures |= {
        "brand_recognised": round(float(np.mean(list(recognised.values()))), 4),
        "brand_prompt_kept": round(float(np.mean(list(prompts_kept.values()))), 4),
        "brand_recognised_each": recognised,
        "brand_prompt_kept_each": prompts_kept,
        "steps": 4,
        "sampler": type(few_step_scheduler()).__name__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    return figures


MEANING = {
    "judge_accuracy": "test drawings on which the judge gets object, colour, background and look all right",
    "base_25": "base, 25 guided steps: object, colour and background all as asked",
    "base_25_unseen": "the same, on triples never drawn in training",
    "undistilled_4": "base hurried to 4 steps without the distillation",
    "distilled_8": "distilled, 8 steps",
    "distilled_4": "distilled, 4 steps",
    "distilled_2": "distilled, 2 steps",
    "distilled_1": "distilled, 1 step",
    "seen": "distilled, 4 steps, triples that training drew",
    "unseen": "distilled, 4 steps, triples never drawn in training",
    "base_as_no_brand": "distilled base, 4 steps: the judge sees no brand's look",
    "brand_recognised": "brands, 4 steps, objects their training never saw: the judge names the look",
    "brand_prompt_kept": "the same pictures: object, colour and background all as asked",
    "seconds_25": "seconds a picture, 25 guided steps (median of 9)",
    "seconds_4": "seconds a picture, 4 distilled steps (median of 9)",
}


def figures_table(figures: dict[str, Any]) -> str:
    """The model card's tables of figures."""
    rows = [f"| `{name}` | {figures[name]:.3f} | {meaning} |" for name, meaning in MEANING.items()]
    recognised, prompts_kept = figures["brand_recognised_each"], figures["brand_prompt_kept_each"]
    brands = [
        f"| {look} | {recognised[look]:.3f} | {prompts_kept[look]:.3f} | {'yes' if look in MET else 'no'} |"
        for look in prompts_kept
    ]
    return "\n".join(
        [
            *("| figure | value | meaning |", "|---|---|---|", *rows, ""),
            *("| adapter | `brand_recognised` | `brand_prompt_kept` | met by the distillation |", "|---|---|---|---|"),
            *brands,
        ]
    )


def update_card(card: Path, figures: dict[str, Any]) -> None:
    """Replaces the table between the card's two markers."""
    before, rest = card.read_text().split("<!-- figures -->\n")
    after = rest.partition("<!-- end of figures -->")[2]
    text = f"{before}<!-- figures -->\n{figures_table(figures)}\n<!-- end of figures -->{after}"
    replace_file(card, lambda beside: beside.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--card", type=Path, help="renew the table of this model card")
    arguments = parser.parse_args()
    figures = evaluate()
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        replace_file(arguments.json, lambda beside: beside.write_text(text + "\n"))
    if arguments.card:
        update_card(arguments.card, figures)


if __name__ == "__main__":
    main()
