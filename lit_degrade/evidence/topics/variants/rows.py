"""What runs say of variants of a subject side by side."""

import pandas as pd


def ordered_variants(lines: pd.DataFrame) -> dict[str, str]:
    """Variant -> its kind: kinds and variants in the order of the file, those of a kind together."""
    kinds = dict(zip(lines["variant"], lines["kind"], strict=True))
    order = list(dict.fromkeys(kinds.values()))
    return dict(sorted(kinds.items(), key=lambda item: order.index(item[1])))
