"""Errors that a user can mend; entry points print them as one line."""


class InputError(ValueError):
    """Bad input or configuration: what was wrong, where, and what is allowed. Exit status 2."""


class TrainingError(RuntimeError):
    """A run that cannot go on, such as a loss that is not finite. Exit status 1."""
