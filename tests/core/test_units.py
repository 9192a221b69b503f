from hypothesis import given
from hypothesis import strategies as st

from soberano.core.units import bytes_text, seconds_text

SCALES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@given(st.integers(0, 10**14))
def test_bytes_keep_three_digits(count: int):
    text = bytes_text(count)
    number, unit = text.split()
    assert abs(float(number) * SCALES[unit] - count) <= 0.006 * count
    assert len(text) <= 8


def test_bytes_have_no_fourth_digit():
    assert [bytes_text(n) for n in (0, 999, 1000, 99_950_000, 999_600)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "100 MB",
        "1.00 MB",
    ]


@given(st.floats(0, 1e6))
def test_seconds_read_like_speech(seconds: float):
    text = seconds_text(seconds)
    assert text.endswith((" µs", " ms", " s")) and "e" not in text and "1000" not in text
