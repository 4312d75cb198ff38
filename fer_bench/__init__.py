"""fer-bench: fine-tune, compare and combine image classifiers on FER2013, and render an honest leaderboard."""

__version__ = "0.1.0"
