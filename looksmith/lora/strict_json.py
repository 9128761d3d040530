"""Reads JSON without the leniency of the standard reader. Knows nothing about what the JSON is for."""

import json
from typing import NoReturn

from looksmith.lora.errors import Code, LoraError, refusal, shown


def loads(text: bytes | str, what: str, *, most_brackets: int | None = None) -> object:
    """Parses JSON text; refuses duplicate keys at any depth, NaN and Infinity, and text that is not UTF-8.

    Args:
        text: the JSON; bytes must be UTF-8 without a byte order mark.
        what: names the text in errors, as in "the header".
        most_brackets: how many `[` and `{` the text may have, in strings too; None: any number. A megabyte of lists in
            lists takes tens of them in memory.

    Raises:
        LoraError: E_JSON.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) < len(pairs):
            twice = next(key for key, _ in pairs if table.pop(key, pairs) is pairs)  # gone at its second coming
            raise refusal(Code.E_JSON, f"{what} has the key {shown(twice)} twice", shown(twice))
        return table

    def constant(name: str) -> NoReturn:
        raise refusal(Code.E_JSON, f"{what} holds {name}, which JSON does not know")

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        if most_brackets is not None and decoded.count("[") + decoded.count("{") > most_brackets:
            raise refusal(Code.E_JSON, f"{what} has more than {most_brackets} lists and objects")
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
