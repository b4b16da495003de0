"""How tokens of the input are changed, in the order in which it is told."""

from lit_degrade.adversarial.catalog import TOKEN_ATTACKS

TOKENS = {"random": TOKEN_ATTACKS["random"]} | TOKEN_ATTACKS
"""The control, then the attacks."""
