import numpy as np

from models.studio.captions import SAYINGS, caption, prompt
from models.studio.scenes import scene


def test_captions_vary_but_tell_what_the_scene_shows() -> None:
    one = scene("train", 11)
    said = [caption(one, np.random.default_rng(i)) for i in range(200)]
    assert len(set(said)) > 50
    named = [any(word in text for word in SAYINGS.get(one.subject, (one.subject,))) for text in said]
    assert all(named)
    coloured = np.mean([any(word in text for word in SAYINGS.get(one.colour, (one.colour,))) for text in said])
    assert coloured > 0.9


def test_prompt_uses_the_right_article() -> None:
    assert prompt("mug", "orange", "sky") == "an orange mug on a sky background"
    assert prompt("mug", "red", "navy") == "a red mug on a navy background"
