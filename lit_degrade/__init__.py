"""What does damage do to a language model, and is the claim about it true?"""

__version__ = "0.2.0"
