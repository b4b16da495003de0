"""What a number may be, in one place: each check raises one line with the key as it is written, the value and what is allowed.

Modules, settings and callbacks call these when they are made, before anything is loaded. No check takes NaN or infinity.
"""

import math
from collections.abc import Collection

from lit_degrade.errors import UserError


def at_least(key: str, value: float, least: int) -> None:
    """Raise: UserError for what is not a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _refusal(key, f"a whole number from {least}", value)


def finite(key: str, value: float, least: float) -> None:
    """Raise: UserError for what is not a finite number from `least`."""
    if not least <= value < math.inf:
        raise _refusal(key, f"a finite number from {least:g}", value)


def above(key: str, value: float, bound: float) -> None:
    """Raise: UserError for what is not a finite number above `bound`."""
    if not bound < value < math.inf:
        raise _refusal(key, f"a finite number above {bound:g}", value)


def share(key: str, value: float) -> None:
    """Raise: UserError for what is not in [0, 1)."""
    if not 0 <= value < 1:
        raise _refusal(key, "a share from 0 to below 1", value)


def some(key: str, values: Collection[object]) -> None:
    """Raise: UserError for an empty list."""
    if not values:
        raise _refusal(key, "one or more", list(values))


def _refusal(key: str, allowed: str, value: object) -> UserError:
    return UserError(f"{key}: expected {allowed}, not {str(value).lower() if isinstance(value, bool) else value}.")
