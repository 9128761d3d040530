import math

import pytest

from looksmith.nouns import AdapterRef, AdapterUse, Brand, Malformed

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: AdapterRef("", "a"), "brand"),
        (lambda: AdapterRef("Brand", "a"), "brand"),
        (lambda: AdapterRef("b" * 64, "a"), "brand"),
        (lambda: AdapterRef("b", "../a"), "adapter"),
        (lambda: AdapterRef("b", "a", 0), "version"),
        (lambda: AdapterRef("b", "a", "12"), "alias"),
        (lambda: AdapterUse("a", weight=2.5), "weight"),
        (lambda: AdapterUse("a", weight=math.nan), "weight"),
        (lambda: Brand("b", prompt_template="{prompt} and {prompt}"), "prompt_template"),
        (lambda: Brand("b", prompt_template="no place"), "prompt_template"),
        (lambda: Brand("b", fair_share_weight=-1), "fair_share_weight"),
        (lambda: Brand("b", default_width=768), "default_height"),
        (lambda: Brand("b", default_height=512), "default_width"),
        (lambda: Brand("b", default_adapters=tuple(AdapterUse(n) for n in "abcd")), "default_adapters"),
    ],
)
def test_malformed_values_are_refused_by_field(make: object, field: str) -> None:
    with pytest.raises(Malformed) as caught:
        make()  # type: ignore[operator]  # every parameter is a function
    assert caught.value.field == field


def test_a_pick_tells_digests_from_aliases() -> None:
    assert AdapterRef("b", "a", HEX).is_digest
    assert not AdapterRef("b", "a", HEX[:-1]).is_digest
    assert [str(AdapterRef("b", "a", pick)) for pick in ("staging", 3, HEX)] == [
        "b/a:staging",
        "b/a@3",
        f"b/a@sha256:{HEX}",
    ]


def test_prompt_goes_into_the_brand_s_template() -> None:
    assert Brand("b", prompt_template="{prompt}, in ink").final_prompt("a mug {prompt}") == "a mug {prompt}, in ink"
    assert Brand("b").final_prompt("a mug") == "a mug"
