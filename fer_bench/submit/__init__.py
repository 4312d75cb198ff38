"""Rows from outside: class probabilities that any other software made -> a record of kind ``external``.

Such a row is scored and tested in pairs like any other. What is checked is the file and the scoring; how the
probabilities were made is the word of their source. No model is needed, and no torch.

``probabilities`` reads and checks the file, ``labels`` finds what to score it with, ``record`` makes the record.
"""

from fer_bench.submit.record import Declared, Submitted, submit

__all__ = ["Declared", "Submitted", "submit"]
