"""``python -m fer_bench``."""

from fer_bench.cli import main

main()
