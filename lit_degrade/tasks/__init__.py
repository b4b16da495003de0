"""ASKED: tasks put to a subject that answers in text.

In: the name of a task, the text that came back. Out: prompts, scores of answers. Never: runs a model.
"""
