"""Where a model's errors lie, from its stored probabilities, and what its own records suggest to try next.

``mistakes`` counts, ``advice`` turns figures that cross a stated threshold into suggestions, ``sheet`` draws the most
confident mistakes where the images are at hand. Suggestions come from PublicTest and Training alone: they decide what
is trained next, and PrivateTest decides nothing.
"""

from fer_bench.diagnosis.advice import Measured, Suggestion, suggest
from fer_bench.diagnosis.mistakes import CONFIDENT, Diagnosis, diagnose
from fer_bench.diagnosis.sheet import draw
from fer_bench.diagnosis.sheet import write as write_sheet

__all__ = ["CONFIDENT", "Diagnosis", "Measured", "Suggestion", "diagnose", "draw", "suggest", "write_sheet"]
