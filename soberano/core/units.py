"""Print numbers in the units that people read: bytes and seconds."""

_STEPS = ["B", "kB", "MB", "GB", "TB"]


def bytes_text(count: float) -> str:
    """Write a number of bytes with three digits and a decimal unit.

    >>> bytes_text(98_362_432)
    '98.4 MB'
    """
    step = 0
    while abs(count) >= 999.5 and step < len(_STEPS) - 1:
        count, step = count / 1000, step + 1
    return f"{count:.0f} B" if step == 0 else f"{_three_digits(count)} {_STEPS[step]}"


def seconds_text(seconds: float) -> str:
    """Write a duration as a person would say it.

    >>> seconds_text(0.0123), seconds_text(75)
    ('12.3 ms', '1 min 15 s')
    """
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{_three_digits(seconds * 1000)} ms"
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60} s"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"
