"""How often tests reject what is true, and intervals hold it, at few runs: measured, and warned of."""

MEASURED_SIZE: dict[tuple[str, str], dict[int, float]] = {
    ("Welch t", "normal"): {3: 0.0355, 4: 0.0410, 5: 0.0442, 6: 0.0464, 10: 0.0484},
    ("Welch t", "heavy tails"): {3: 0.0264, 4: 0.0303, 5: 0.0336, 6: 0.0358, 10: 0.0406},
    ("Welch t", "skewed"): {3: 0.0249, 4: 0.0249, 5: 0.0274, 6: 0.0294, 10: 0.0372},
    ("Student t", "normal"): {3: 0.0503, 4: 0.0501, 5: 0.0500, 6: 0.0508, 10: 0.0500},
    ("Student t", "heavy tails"): {3: 0.0397, 4: 0.0387, 5: 0.0397, 6: 0.0408, 10: 0.0428},
    ("Student t", "skewed"): {3: 0.0402, 4: 0.0380, 5: 0.0398, 6: 0.0398, 10: 0.0431},
    ("paired t", "normal"): {3: 0.0510, 4: 0.0502, 5: 0.0488, 6: 0.0504, 10: 0.0506},
    ("paired t", "heavy tails"): {3: 0.0401, 4: 0.0384, 5: 0.0401, 6: 0.0389, 10: 0.0425},
    ("paired t", "skewed"): {3: 0.0321, 4: 0.0314, 5: 0.0333, 6: 0.0365, 10: 0.0418},
    ("one-sample t", "normal"): {3: 0.0518, 4: 0.0492, 5: 0.0498, 6: 0.0514, 10: 0.0493},
    ("one-sample t", "heavy tails"): {3: 0.0381, 4: 0.0384, 5: 0.0366, 6: 0.0369, 10: 0.0403},
    ("one-sample t", "skewed"): {3: 0.1151, 4: 0.1187, 5: 0.1160, 6: 0.1112, 10: 0.1007},
    ("permutation", "normal"): {3: 0.0000, 4: 0.0287, 5: 0.0479, 6: 0.0504, 10: 0.0508},
    ("permutation", "heavy tails"): {3: 0.0000, 4: 0.0286, 5: 0.0470, 6: 0.0498, 10: 0.0502},
    ("permutation", "skewed"): {3: 0.0000, 4: 0.0284, 5: 0.0482, 6: 0.0493, 10: 0.0493},
    ("sign flip", "normal"): {3: 0.0000, 4: 0.0000, 5: 0.0000, 6: 0.0315, 10: 0.0481},
    ("sign flip", "heavy tails"): {3: 0.0000, 4: 0.0000, 5: 0.0000, 6: 0.0309, 10: 0.0495},
    ("sign flip", "skewed"): {3: 0.0000, 4: 0.0000, 5: 0.0000, 6: 0.0651, 10: 0.0952},
    ("one-sample TOST", "normal"): {3: 0.0412, 4: 0.0432, 5: 0.0462, 6: 0.0499, 10: 0.0492},
    ("one-sample TOST", "heavy tails"): {3: 0.0384, 4: 0.0389, 5: 0.0391, 6: 0.0416, 10: 0.0450},
    ("one-sample TOST", "skewed"): {3: 0.1643, 4: 0.1637, 5: 0.1568, 6: 0.1492, 10: 0.1341},
    ("Welch TOST", "normal"): {3: 0.0115, 4: 0.0149, 5: 0.0185, 6: 0.0248, 10: 0.0451},
    ("Welch TOST", "heavy tails"): {3: 0.0206, 4: 0.0251, 5: 0.0291, 6: 0.0331, 10: 0.0416},
    ("Welch TOST", "skewed"): {3: 0.0149, 4: 0.0174, 5: 0.0209, 6: 0.0252, 10: 0.0384},
    ("ANOVA", "normal"): {3: 0.0501, 4: 0.0494, 5: 0.0500, 6: 0.0503, 10: 0.0504},
    ("ANOVA", "heavy tails"): {3: 0.0384, 4: 0.0395, 5: 0.0401, 6: 0.0406, 10: 0.0411},
    ("ANOVA", "skewed"): {3: 0.0421, 4: 0.0392, 5: 0.0411, 6: 0.0387, 10: 0.0424},
    ("Welch ANOVA", "normal"): {3: 0.0382, 4: 0.0417, 5: 0.0457, 6: 0.0462, 10: 0.0490},
    ("Welch ANOVA", "heavy tails"): {3: 0.0260, 4: 0.0288, 5: 0.0307, 6: 0.0313, 10: 0.0355},
    ("Welch ANOVA", "skewed"): {3: 0.0319, 4: 0.0302, 5: 0.0325, 6: 0.0349, 10: 0.0454},
    ("Jonckheere-Terpstra", "normal"): {3: 0.0375, 4: 0.0466, 5: 0.0462, 6: 0.0481, 10: 0.0491},
    ("Jonckheere-Terpstra", "heavy tails"): {3: 0.0363, 4: 0.0464, 5: 0.0456, 6: 0.0494, 10: 0.0488},
    ("Jonckheere-Terpstra", "skewed"): {3: 0.0369, 4: 0.0461, 5: 0.0461, 6: 0.0491, 10: 0.0495},
}
"""Share of true null hypotheses rejected at 5 %, by (test, distribution) and runs per arm.

Two-sided but for ONE_SIDED. Measured, and kept true, by
tests/evidence/test_statistics_simulated.py, which says how.
"""
ONE_SIDED = ("one-sample TOST", "Welch TOST", "Jonckheere-Terpstra")
MEASURED_COVERAGE: dict[tuple[str, str], dict[int, float]] = {
    ("t interval", "normal"): {3: 0.9482, 5: 0.9502, 10: 0.9507, 20: 0.9498},
    ("t interval", "heavy tails"): {3: 0.9619, 5: 0.9634, 10: 0.9597, 20: 0.9570},
    ("t interval", "skewed"): {3: 0.8849, 5: 0.8840, 10: 0.8993, 20: 0.9183},
    ("BCa interval", "normal"): {3: 0.7243, 5: 0.8372, 10: 0.9006, 20: 0.9288},
    ("BCa interval", "heavy tails"): {3: 0.7129, 5: 0.8195, 10: 0.8655, 20: 0.8888},
    ("BCa interval", "skewed"): {3: 0.6764, 5: 0.8014, 10: 0.8766, 20: 0.9118},
    ("Welch interval", "normal"): {3: 0.9645, 5: 0.9558, 10: 0.9516, 20: 0.9507},
    ("Welch interval", "heavy tails"): {3: 0.9736, 5: 0.9664, 10: 0.9594, 20: 0.9563},
    ("Welch interval", "skewed"): {3: 0.9751, 5: 0.9726, 10: 0.9628, 20: 0.9554},
    ("Hedges g interval", "normal"): {3: 0.9500, 5: 0.9494, 10: 0.9502, 20: 0.9495},
    ("Hedges g interval", "heavy tails"): {3: 0.9433, 5: 0.9249, 10: 0.9025, 20: 0.8828},
    ("Hedges g interval", "skewed"): {3: 0.9360, 5: 0.9253, 10: 0.9184, 20: 0.9149},
}
"""Share of 95 % intervals that hold the true value, by (interval, distribution) and runs per arm; measured there too."""
SIZE_LIMITS, COVERAGE_LIMITS = (0.03, 0.07), (0.93, 0.97)


def size_warnings(name: str, n: int) -> str | None:
    """What the simulations found against a test or an interval at n runs per arm, in one sentence; None where nothing.

    The numbers are those of the largest simulated n that is not above this one, or of the smallest.
    """
    sides = "one-sided" if name in ONE_SIDED else "two-sided"
    sizes = _exceptions(MEASURED_SIZE, name, n, SIZE_LIMITS)
    if sizes:
        return f"{name}: at 5 %, {sides}, it rejected {sizes} of true null hypotheses in simulations."
    coverages = _exceptions(MEASURED_COVERAGE, name, n, COVERAGE_LIMITS)
    return f"{name}: at 95 % it held {coverages} of true values in simulations." if coverages else None


def _exceptions(table: dict[tuple[str, str], dict[int, float]], name: str, n: int, limits: tuple[float, float]) -> str:
    """The shares of a test or an interval that are outside the limits, as "2.6 % (heavy tails, n = 3), ..."."""
    shares = []
    for (key, distribution), row in table.items():
        nearest = max((size for size in row if size <= n), default=min(row))
        if key == name and not limits[0] <= row[nearest] <= limits[1]:
            shares.append(f"{100 * row[nearest]:.1f} % ({distribution}, n = {nearest})")
    return ", ".join(shares)
