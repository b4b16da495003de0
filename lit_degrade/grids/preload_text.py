"""The text that most runs read: read once, in the server that runs are forked from."""

from lit_degrade.text import stdlib_paragraphs

stdlib_paragraphs()
