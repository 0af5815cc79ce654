"""What the lab raises: one line that names the thing and the rule, fit to be printed as it is."""


class LabError(Exception):
    """Something did not work; the command ends with status 1."""


class BadInput(LabError):
    """The user asked for something that cannot be; the command ends with status 2."""
