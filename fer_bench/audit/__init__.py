"""What is wrong with the data itself: twins within and across parts, contradicting labels, constant images.

``ferplus`` reads a second opinion on the labels, ``findings`` puts it and the twins in relation to the parts,
``stored`` keeps the row numbers that the board scores apart, ``report`` shows a person what was found. No model is
involved and nothing is chosen by it, so reading PrivateTest here is no look at the test.
"""

from fer_bench.audit.ferplus import beside
from fer_bench.audit.findings import Findings, examine
from fer_bench.audit.report import summary
from fer_bench.audit.report import write as write_report
from fer_bench.audit.stored import FILE, Audit, load, refuse_partial, save

__all__ = [
    "FILE",
    "Audit",
    "Findings",
    "beside",
    "examine",
    "load",
    "refuse_partial",
    "save",
    "summary",
    "write_report",
]
