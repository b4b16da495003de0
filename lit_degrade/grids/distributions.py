"""The distributions of W&B sweep files, by their inverse distribution functions."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats

Inverse = Callable[[float, Mapping[str, Any]], Any]
"""Inverse distribution function: share of the probability (0 to 1) and the parameter's entries -> value."""


def draw(kind: str, entry: Mapping[str, Any], share: float) -> Any:
    """Value of a parameter below which it falls with probability `share`; not finite where the entry is beyond floats."""
    with np.errstate(all="ignore"):
        return DISTRIBUTIONS[kind](share, entry)


def _uniform(share: float, low: float, high: float) -> float:
    return float(stats.uniform.ppf(share, low, high - low))


def _int_uniform(share: float, p: Mapping[str, Any]) -> int:
    return int(stats.randint.ppf(share, p["min"], p["max"] + 1))


def _categorical(share: float, p: Mapping[str, Any]) -> Any:
    return p["values"][int(stats.randint.ppf(share, 0, len(p["values"])))]


def _weighted(share: float, p: Mapping[str, Any]) -> Any:
    cumulative = itertools.accumulate(p["probabilities"])
    return next((value for value, c in zip(p["values"], cumulative, strict=True) if share < c), p["values"][0])


def _inverse_log(share: float, low: float, high: float) -> float:
    return float(np.exp(-_uniform(1 - share, low, high)))


def _normal(share: float, p: Mapping[str, Any]) -> float:
    return float(stats.norm.ppf(share, loc=p.get("mu", 0.0), scale=p.get("sigma", 1.0)))


def _log_normal(share: float, p: Mapping[str, Any]) -> float:
    return float(stats.lognorm.ppf(share, s=p.get("sigma", 1.0), scale=np.exp(p.get("mu", 0.0))))


def _beta(share: float, p: Mapping[str, Any]) -> float:
    return float(stats.beta.ppf(share, a=p.get("a", 1.0), b=p.get("b", 1.0)))


def _quantised(inverse: Inverse) -> Inverse:
    """Rounded to a multiple of q; a whole q gives whole numbers."""

    def rounded(share: float, p: Mapping[str, Any]) -> Any:
        q = p.get("q", 1.0)
        value = float(np.round(inverse(share, p) / q) * q)
        return int(value) if isinstance(q, int) and math.isfinite(value) else value

    return rounded


def _log_uniform(share: float, p: Mapping[str, Any]) -> float:
    return float(np.exp(_uniform(share, p["min"], p["max"])))


def _log_uniform_values(share: float, p: Mapping[str, Any]) -> float:
    return float(np.exp(_uniform(share, np.log(p["min"]), np.log(p["max"]))))


DISTRIBUTIONS: dict[str, Inverse] = {
    "constant": lambda share, p: p["value"],
    "categorical": _categorical,
    "categorical_w_probabilities": _weighted,
    "int_uniform": _int_uniform,
    "uniform": lambda share, p: _uniform(share, p["min"], p["max"]),
    "q_uniform": _quantised(lambda share, p: _uniform(share, p["min"], p["max"])),
    "log_uniform": _log_uniform,
    "log_uniform_values": _log_uniform_values,
    "q_log_uniform": _quantised(_log_uniform),
    "q_log_uniform_values": _quantised(_log_uniform_values),
    "inv_log_uniform": lambda share, p: _inverse_log(share, p["min"], p["max"]),
    "inv_log_uniform_values": lambda share, p: _inverse_log(share, -np.log(p["max"]), -np.log(p["min"])),
    "normal": _normal,
    "q_normal": _quantised(_normal),
    "log_normal": _log_normal,
    "q_log_normal": _quantised(_log_normal),
    "beta": _beta,
    "q_beta": _quantised(_beta),
}
"""name -> inverse distribution function"""
