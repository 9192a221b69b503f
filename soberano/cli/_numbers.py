"""Numbers of a command line, checked while it is read."""

import argparse

LARGEST = 10**9


def positive(text: str) -> int:
    """Read a whole number above 0.

    >>> positive("12")
    12
    """
    number = int(text) if text.isdecimal() and len(text) <= 10 else 0
    if not 0 < number <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {LARGEST:,}")
    return number
