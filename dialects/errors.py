"""The one exception type that ends in a one-line message instead of a traceback.

Everything a user can get wrong (a missing file, an unsupported operator, a calibration array of
the wrong shape) raises `VitError`. The command line tools catch it, print ``error: <message>`` on
stderr and leave with exit code 1. Any other exception is a bug of ours and keeps its traceback.
"""


class VitError(Exception):
    """A mistake in the input, told in one line: what is wrong, where, and what to do about it."""
