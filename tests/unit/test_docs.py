import pytest

from docs.generate import DOCS, PAGES


@pytest.mark.parametrize("page", PAGES)
def test_page_says_what_the_code_says(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run `make docs`"
