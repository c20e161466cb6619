"""How many digits of a number are worth showing."""

from __future__ import annotations


def derived(value: float) -> str:
    """A number that was worked out, to four digits: no advice is surer. JSON keeps all of them.

    Near 1 it is a decay rate, of which the distance to 1 is what counts.

    >>> derived(0.00141421356), derived(0.999923456)
    ('0.001414', '0.99992346')
    """
    if 0.9 < value < 1:
        return f"{1 - float(f'{1 - value:.4g}'):.12g}"
    return f"{value:.4g}"
