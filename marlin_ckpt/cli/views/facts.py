"""Facts that documents have under the names that they have in the library."""

from typing import Any


def facts(one: Any, *names: str, **attributes: str) -> dict[str, Any]:
    """Attributes of a value, in this order; None for each where the value is None.

    Args:
        one: the value.
        names: of attributes that have the same name in the document.
        attributes: other attributes, by their names in the document.
    """
    wanted = {**dict(zip(names, names, strict=True)), **attributes}
    return {name: None if one is None else getattr(one, attribute) for name, attribute in wanted.items()}


def rounded(one: Any, *names: str) -> dict[str, float | None]:
    """The named numbers of a value, as `facts`, to six digits behind the point."""
    return {name: None if value is None else round(value, 6) for name, value in facts(one, *names).items()}
