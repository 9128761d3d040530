import base64
import json

import pytest

from looksmith.nouns import Malformed
from services.registry import paging


def test_a_token_brings_back_where_the_page_ended() -> None:
    assert paging.after(["brands"], paging.token(["brands"], "acme")) == "acme"
    assert paging.after(["brands"], "") == ""


def test_counting_down_goes_on_below_the_token_and_never_above_the_newest() -> None:
    scope = ["versions", "acme", "style"]
    assert paging.number_after(scope, "", newest=9) == 9
    assert paging.number_after(scope, paging.token(scope, "5"), newest=9) == 4
    assert paging.number_after(scope, paging.token(scope, "50"), newest=9) == 9


@pytest.mark.parametrize("after", ["-1", "x", "9" * 5000, "²"])
def test_a_forged_number_is_refused(after: str) -> None:
    with pytest.raises(Malformed):
        paging.number_after(["v"], paging.token(["v"], after), newest=9)


@pytest.mark.parametrize("content", [[], 7, {"a": 1}, [["other"], "a"], [["brands"], 7], ["brands", "a", "b"]])
def test_a_token_of_something_else_is_refused(content: object) -> None:
    token = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
    with pytest.raises(Malformed):
        paging.after(["brands"], token)
    with pytest.raises(Malformed):
        paging.after(["brands"], "not base64!")


def test_zero_means_the_default_size_and_too_much_is_refused() -> None:
    assert (paging.check_page_size(0), paging.check_page_size(1000)) == (100, 1000)
    with pytest.raises(Malformed):
        paging.check_page_size(1001)


def test_a_page_holds_what_a_message_can_and_at_least_one_item() -> None:
    large, huge = "x" * (paging.MAX_PAGE_BYTES // 3), "y" * (2 * paging.MAX_PAGE_BYTES)
    assert paging.fitting([]) == []
    assert paging.fitting([large] * 5) == [large] * 2
    assert paging.fitting([huge, large]) == [huge]
    assert paging.fitting(["z"] * 1000) == ["z"] * 1000
