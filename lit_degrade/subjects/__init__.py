"""WHO: the models under study.

In: a name or a folder, a precision, an adapter. Out: a subject (model, tokenizer, anatomy). Never: trains or measures it.
"""
