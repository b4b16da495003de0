"""The distributions of W&B sweep files, by their inverse distribution functions."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats

Inverse = Callable[[float, Mapping[str, Any]], Any]
"""Inverse distribution function: share of the probability (0 to 1) and the parameter's entries -> value."""


def draw(kind: str, entry: Mapping[str, Any], share: float) -> Any:
    """Value of a parameter below which it falls with probability `share`."""
    return DISTRIBUTIONS[kind][2](share, entry)


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
        return int(value) if isinstance(q, int) else value

    return rounded


def _log_uniform(share: float, p: Mapping[str, Any]) -> float:
    return float(np.exp(_uniform(share, p["min"], p["max"])))


def _log_uniform_values(share: float, p: Mapping[str, Any]) -> float:
    return float(np.exp(_uniform(share, np.log(p["min"]), np.log(p["max"]))))


RANGE = ("min", "max")
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Inverse]] = {
    "constant": (("value",), (), lambda share, p: p["value"]),
    "categorical": (("values",), (), _categorical),
    "categorical_w_probabilities": (("values", "probabilities"), (), _weighted),
    "int_uniform": (RANGE, (), _int_uniform),
    "uniform": (RANGE, (), lambda share, p: _uniform(share, p["min"], p["max"])),
    "q_uniform": (RANGE, ("q",), _quantised(lambda share, p: _uniform(share, p["min"], p["max"]))),
    "log_uniform": (RANGE, (), _log_uniform),
    "log_uniform_values": (RANGE, (), _log_uniform_values),
    "q_log_uniform": (RANGE, ("q",), _quantised(_log_uniform)),
    "q_log_uniform_values": (RANGE, ("q",), _quantised(_log_uniform_values)),
    "inv_log_uniform": (RANGE, (), lambda share, p: _inverse_log(share, p["min"], p["max"])),
    "inv_log_uniform_values": (
        RANGE,
        (),
        lambda share, p: _inverse_log(share, -np.log(p["max"]), -np.log(p["min"])),
    ),
    "normal": ((), ("mu", "sigma"), _normal),
    "q_normal": ((), ("mu", "sigma", "q"), _quantised(_normal)),
    "log_normal": ((), ("mu", "sigma"), _log_normal),
    "q_log_normal": ((), ("mu", "sigma", "q"), _quantised(_log_normal)),
    "beta": ((), ("a", "b"), _beta),
    "q_beta": ((), ("a", "b", "q"), _quantised(_beta)),
}
"""name -> entries it needs, entries it may have, inverse distribution function."""
