"""How many digits of a number are worth showing. JSON keeps all of them."""

from __future__ import annotations

TRIALS = "trials"
"""What a learning rate is told to come from where the user's own trials decided."""


def derived(value: float) -> str:
    """What a formula gives, to six digits.

    Near 1 it is a decay rate, of which four digits of its distance to 1 are shown.

    >>> derived(0.00141421356), derived(0.999923456)
    ('0.00141421', '0.99992346')
    """
    if 0.9 < value < 1:
        return f"{1 - float(f'{1 - value:.4g}'):.12g}"
    return f"{value:.6g}"


def fitted(value: float) -> str:
    """What was read off trials, to four: no fit is surer.

    >>> fitted(0.00402896)
    '0.004029'
    """
    return f"{value:.4g}"


def rate(value: float, rule: str) -> str:
    """A learning rate, as sure as what gave it."""
    return fitted(value) if rule == TRIALS else derived(value)
