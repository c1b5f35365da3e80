"""The one exception that a user can cause and mend."""


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do about it.

    Commands print it and exit with status 2, without a traceback; library callers may catch it.
    """
