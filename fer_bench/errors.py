"""The one exception that means "the user can mend this": its text is what people see, a line for each mistake."""


class UserError(Exception):
    """A mistake in a file, an option or a setting; the message names the place, what was found and what to do."""
