"""Run records come in; statistics, verdicts, figures and reports go out.

Nothing here imports a model or runs one: a report can be made anew on any machine that has the records.
"""
