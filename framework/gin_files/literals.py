"""Values as gin writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def format_literal(value: Any, other: Callable[[Any], str]) -> str:
    """A value as gin text that reads back as the same value.

    Args:
      value: a literal, or a list, tuple or dictionary with literals in it.
      other: writes what is no literal: references, macros, components.
    """
    match value:
        case None | bool() | int() | str() if type(value) in (type(None), bool, int, str):
            return repr(value)
        case float() if math.isinf(value):  # Too large a number is how gin, without a name for it, reads infinity.
            return "1e999" if value > 0 else "-1e999"
        case float() if not math.isnan(value):
            return repr(value)
        case list():
            return f"[{', '.join(format_literal(item, other) for item in value)}]"
        case tuple():
            items = [format_literal(item, other) for item in value]
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        case dict():
            items = [f"{format_literal(key, other)}: {format_literal(item, other)}" for key, item in value.items()]
            return f"{{{', '.join(items)}}}"
    return other(value)
