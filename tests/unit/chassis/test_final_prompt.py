import pytest

from looksmith.nouns import Brand
from services.chassis.final_prompt import final_prompt

PLAIN = Brand("acme")


@pytest.mark.parametrize(
    ("prompt", "words", "final"),
    [
        ("a red mug", (), "a red mug"),
        ("a red mug", ("acme style", "ink"), "acme style, ink, a red mug"),
        ("a red mug in INK", ("ink", "acme"), "acme, a red mug in INK"),
        ("a pink inkwell", ("ink",), "ink, a pink inkwell"),
        ("ink, and more", ("ink",), "ink, and more"),
        ("drawn in acme\n style", ("Acme  Style",), "drawn in acme\n style"),
        ("acme in another style", ("acme style",), "acme style, acme in another style"),
        ("a mug", (" ink ", "INK"), "ink, a mug"),
        ("a mug", ("acme style", "acme"), "acme style, a mug"),
        ("a mug, <lora> c++", ("<lora>", "c++", "(ink:1.2)"), "(ink:1.2), a mug, <lora> c++"),
        ("written in c", ("c++",), "c++, written in c"),
        ("ein mug in TÖNEN", ("tönen", "ön"), "ön, ein mug in TÖNEN"),
    ],
)
def test_trigger_words_that_the_prompt_lacks_as_a_whole_are_put_in_front(
    prompt: str, words: tuple[str, ...], final: str
) -> None:
    assert final_prompt(prompt, brand=PLAIN, trigger_words=words) == final


def test_the_template_may_hold_the_trigger_words_itself() -> None:
    brand = Brand("acme", prompt_template="in acme style, {prompt}")
    assert final_prompt("a mug", brand=brand, trigger_words=("acme style", "ink")) == "ink, in acme style, a mug"
