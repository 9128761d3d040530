"""Plain English for a scene, with the variation people bring. Knows nothing about tokens."""

from __future__ import annotations

import numpy as np

from models.studio.scenes import Scene

#: Other words for the same thing; the first is the one evaluation prompts use.
SAYINGS: dict[str, tuple[str, ...]] = {
    "mug": ("mug", "cup", "coffee mug"),
    "bottle": ("bottle",),
    "house": ("house", "home", "cottage"),
    "tree": ("tree",),
    "car": ("car", "automobile"),
    "star": ("star",),
    "heart": ("heart",),
    "fish": ("fish",),
    "lamp": ("lamp", "table lamp"),
    "chair": ("chair",),
    "boat": ("boat", "sailboat", "sailing boat"),
    "shirt": ("shirt", "t-shirt", "tee"),
    "teal": ("teal", "turquoise"),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
    "cream": ("cream", "beige", "ivory"),
    "sky": ("sky", "sky blue", "light blue", "pale blue"),
    "mint": ("mint", "mint green", "light green", "pale green"),
    "peach": ("peach", "light orange", "pale orange"),
    "lilac": ("lilac", "lavender", "light purple"),
    "rose": ("rose", "light pink", "pale pink"),
    "slate": ("slate", "dark gray", "dark grey"),
    "navy": ("navy", "navy blue", "dark blue"),
}

FRAMES = (
    "{thing} on a {wall} background",
    "{thing}, {wall} background",
    "{thing} in front of a {wall} wall",
    "{thing} on {wall}",
    "{thing} with a {wall} background",
    "{wall} background, {thing}",
    "{thing} against a {wall} wall",
)
OPENINGS = (
    "a picture of",
    "an illustration of",
    "a flat illustration of",
    "an image of",
    "a drawing of",
    "a photo of",
    "a poster of",
    "an advert for",
)
#: Words that people add and that say nothing the model can draw; it learns to pass over them.
FILLERS = (
    "nice", "simple", "beautiful", "modern", "new", "lovely", "little", "big", "small", "pretty", "cute", "elegant",
    "bright", "minimal", "clean", "great", "cool", "classic", "stylish", "shiny",
)  # fmt: skip
ENDINGS = (
    "high quality",
    "product shot",
    "studio light",
    "for social media",
    "flat design",
    "vector art",
    "centered",
    "detailed",
    "summer campaign",
    "minimal",
)


def article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def _say(word: str, rng: np.random.Generator, chance: float) -> str:
    sayings = SAYINGS.get(word, (word,))
    return sayings[rng.integers(len(sayings))] if rng.random() < chance else sayings[0]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the many ways to ask for ``scene``; now and then it leaves the colour or the background open."""
    words = [_say(scene.subject, rng, 0.15)]
    if rng.random() < 0.97:
        words.insert(0, _say(scene.colour, rng, 0.15))
    if rng.random() < 0.12:
        words.insert(0, str(rng.choice(FILLERS)))
    thing = " ".join(words)
    if rng.random() < 0.85:
        thing = f"{article(thing)} {thing}"
    if rng.random() < 0.25:
        thing = f"{rng.choice(OPENINGS)} {thing}"
    text = thing
    if rng.random() < 0.95:
        wall = _say(scene.background, rng, 0.15)
        text = str(rng.choice(FRAMES)).format(thing=thing, wall=wall)
    if rng.random() < 0.10:
        text = f"{text}, {rng.choice(ENDINGS)}"
    return text


def prompt(subject: str, colour: str, background: str) -> str:
    """The plainest wording; the evaluation and the README use it."""
    return f"{article(colour)} {colour} {subject} on a {background} background"
