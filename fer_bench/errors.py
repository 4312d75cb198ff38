"""The one exception that means "the user can mend this": its text is what people see, a line for each mistake."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in a file, an option or a setting; the message names the place, what was found and what to do."""


def meant(name: str, known: Sequence[str]) -> str:
    """Say which of the known names an unknown one may mean, or what there is where none is near."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(known) or 'none'}"
