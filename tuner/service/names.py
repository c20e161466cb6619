"""Names that users choose: for studies, workers, tokens, webhooks, and what webhooks listen for."""

from __future__ import annotations

from tuner.errors import InvalidInput

LONGEST = 255


def check_name(field: str, name: str, longest: int = LONGEST) -> None:
    """Refuses a name that could not be shown on a line of its own.

    Raises:
        InvalidInput: It is blank, too long, or holds what cannot be printed.
    """
    if not name.strip() or not name.isprintable() or len(name) > longest:
        raise InvalidInput(field, f"expected 1 to {longest} printable characters")
