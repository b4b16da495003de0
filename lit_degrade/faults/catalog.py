"""Names of bit classes, and of constraints and arms of a bit search; imports nothing heavy."""

from typing import Literal

BitClass = Literal["sign", "exponent", "mantissa", "code"]
BIT_CLASSES: dict[BitClass, str] = {
    "sign": "the sign of a float; the highest bit of an int8 code (two's complement) or of an nf4 code",
    "exponent": "the exponent of a float",
    "mantissa": "the fraction of a float",
    "code": "any other bit of an int8 or nf4 code",
}
CONSTRAINTS: dict[str, str] = {
    "in_range": "the flipped weight is finite and no larger than the largest |w| of its tensor when intact",
    "free": "the flipped weight may be anything, infinite and NaN included",
}
SEARCH = "search"
ARMS: dict[str, str] = {
    SEARCH: "progressive bit search: by gradient the likeliest flips of all, of these the one of highest measured loss",
    "random": "any weight of the target, any bit of it that keeps the constraint",
    "random_exponent": "any weight, any exponent bit of it that keeps the constraint (int8, nf4: the highest bit)",
    "top_magnitude": "the largest weights one after the other, any bit of each that keeps the constraint",
}
