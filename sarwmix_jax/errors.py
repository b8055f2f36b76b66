"""The one error that a user is meant to read."""


class UserError(Exception):
    """A mistake in settings, files or data, told in one line: what, where, what to do.

    Commands print it without a traceback and end with exit code 2.
    """
