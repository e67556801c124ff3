"""Errors that a user can mend; entry points print them as one line."""


class InputError(Exception):
    """Bad input or configuration: what was wrong, where, and what is allowed. Exit status 2.

    Not a ValueError: those that a configuration file raises, ml_collections rewrites as tracebacks.
    """


class TrainingError(RuntimeError):
    """A run that cannot go on, such as a loss that is not finite. Exit status 1."""
