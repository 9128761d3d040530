"""Reads JSON without the leniency of the standard reader. Knows nothing about what the JSON is for."""

import json
from collections import Counter
from typing import NoReturn

from looksmith.lora.errors import Code, LoraError, refusal, shown


def loads(text: bytes | str, what: str) -> object:
    """Parses JSON text; refuses duplicate keys at any depth, NaN and Infinity, and text that is not UTF-8.

    Args:
        text: the JSON; bytes must be UTF-8 without a byte order mark.
        what: names the text in errors, as in "the header".

    Raises:
        LoraError: E_JSON.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise refusal(Code.E_JSON, f"{what} has the key {shown(twice)} twice", twice)
        return table

    def constant(name: str) -> NoReturn:
        raise refusal(Code.E_JSON, f"{what} holds {name}, which JSON does not know")

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise refusal(Code.E_JSON, f"{what} is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise refusal(Code.E_JSON, f"{what} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise refusal(Code.E_JSON, f"{what} is not JSON: {error.msg} at character {error.pos}") from None
    except LoraError:
        raise
    except ValueError:  # int() takes some 4300 digits
        raise refusal(Code.E_JSON, f"{what} holds a number of thousands of digits") from None
