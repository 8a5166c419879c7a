"""The one exception type that ends in a one-line message instead of a traceback.

Everything a user can get wrong (a missing file, an unsupported operator, a calibration array of
the wrong shape) raises `VitError`. The command line tools catch it, print ``error: <message>`` on
stderr and leave with exit code 1. Any other exception is a bug of ours and keeps its traceback.
"""

from xdsl.utils.exceptions import DiagnosticException


class VitError(Exception):
    """A mistake in the input, told in one line: what is wrong, where, and what to do about it.

    Names from damaged files may contain anything; what cannot be printed in a line is replaced.
    """

    def __init__(self, message: str = "") -> None:
        line = " ".join(message.split())
        super().__init__("".join(c if c.isprintable() else "?" for c in line))


class CheckError(VitError, DiagnosticException):
    """A module that a checking pass refuses.

    It is also a diagnostic of xDSL, so that `--verify-diagnostics` prints it and goes on.
    """
