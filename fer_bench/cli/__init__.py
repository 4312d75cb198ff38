"""The commands. Results go to stdout, all else to stderr; nothing heavy is imported before it is needed.

``commands`` has them in the order of their help, and turns errors into lines; ``options`` are those that several take,
``exits`` the exit codes, ``printing`` tables and lines. The others hold the commands, by what they are about.
"""

from fer_bench.cli.commands import app, main

__all__ = ["app", "main"]
