"""Names of bit classes, and of constraints and arms of a bit search; imports nothing heavy."""

from typing import Literal

from lit_degrade.names import Name

BitClass = Literal["sign", "exponent", "mantissa", "code"]
BIT_CLASSES: dict[BitClass, str] = {
    "sign": "the sign of a float; the highest bit of an int8 code (two's complement) or of an nf4 code",
    "exponent": "the exponent of a float",
    "mantissa": "the fraction of a float",
    "code": "any other bit of an int8 or nf4 code",
}
CONSTRAINTS: dict[str, Name] = {
    "in_range": Name(
        "values stay in range", "the flipped weight is finite and no larger than the largest |w| of its tensor when intact"
    ),
    "free": Name("any value", "the flipped weight may be anything, infinite and NaN included"),
}
"""What a flipped bit may make of a weight."""
SEARCH = "search"
ARMS: dict[str, Name] = {
    SEARCH: Name(
        "gradient search",
        "progressive bit search: by gradient the likeliest flips of all, of these the one of highest measured loss",
    ),
    "random": Name("random bits", "any weight of the target, any bit of it that keeps the constraint"),
    "random_exponent": Name(
        "random exponent bits", "any weight, any exponent bit of it that keeps the constraint (int8, nf4: the highest bit)"
    ),
    "top_magnitude": Name(
        "largest weights", "the largest weights one after the other, any bit of each that keeps the constraint"
    ),
}
"""How bits to flip are chosen: the search, then its controls."""
