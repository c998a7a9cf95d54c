"""What the strict JSON reader refuses (notes on the stack: each of these is a 500 or accepted elsewhere)."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clavitor_host import strict_json

REFUSED = {
    "not UTF-8": b'{"a":"\xff"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"a":NaN}',
    "Infinity": b"[Infinity]",
    "overflowing float": b"[1e999]",
    "duplicate names": b'{"a":1,"a":2}',
    "duplicate names below": b'{"x":[{"a":1,"a":1}]}',
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "huge integer": b"[" + b"9" * 5000 + b"]",
    "64-bit unsigned integer": b"[18446744073709551615]",
    "65-bit integer": b"[36893488147419103232]",
    "half a surrogate pair": b'["\\ud800"]',
    "half a surrogate pair as a name": b'{"\\uDC00":1}',
    "trailing text": b"{} {}",
    "empty": b"",
    "single quotes": b"{'a':1}",
    "a control character in a string": b'"\x00"',
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses(data: bytes) -> None:
    with pytest.raises(strict_json.StrictJSONError):
        strict_json.loads(data)


def test_brackets_inside_strings_are_not_nesting() -> None:
    text = '["' + "[{" * 1000 + '\\"[' + '"]'
    assert strict_json.loads(text.encode()) == json.loads(text)


def test_the_deepest_allowed_nesting_is_read() -> None:
    data = b"[" * strict_json.MAX_DEPTH + b"]" * strict_json.MAX_DEPTH
    strict_json.loads(data)


def test_a_whole_surrogate_pair_is_read() -> None:
    assert strict_json.loads(b'"\\ud83d\\ude00"') == "\U0001f600"


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63 - 1), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_what_it_writes_it_reads(value: object) -> None:
    assert strict_json.loads(strict_json.dumps(value)) == value
    assert strict_json.loads(strict_json.canonical(value)) == value


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        value = strict_json.loads(data)
    except strict_json.StrictJSONError:
        return
    assert not (isinstance(value, float) and math.isnan(value))


def test_canonical_form_is_sorted_and_without_spaces() -> None:
    assert strict_json.canonical({"b": 1, "a": [1, "é"]}) == '{"a":[1,"é"],"b":1}'.encode()


def test_lines_are_values_and_empty_ones_are_passed_over() -> None:
    assert strict_json.loads_lines(b'{"a":1}\r\n\n[2.0]\n') == [{"a": 1}, [2.0]]
    assert strict_json.loads_lines(b"2.0", whole_floats=False) == [2]
    assert strict_json.loads_lines(b"") == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'1\n{"a":1\n}', "at line 2"),
        (b'{"a":[1\n],"b":2}', "at line 1"),
        (b"1 2", "something follows the value at line 1"),
        (b"{},{}", "something follows the value at line 1"),
        (b'1\n{"a":1,"a":2}', "the same name twice at line 2"),
        (b"1\n\nNaN", "at line 3"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64 levels at line 1"),
        (b'"\\ud800"', "half a surrogate pair at line 1"),
        (b"\xff", "not UTF-8 at byte 0"),
    ],
)
def test_lines_are_read_as_strictly(data: bytes, reason: str) -> None:
    with pytest.raises(strict_json.StrictJSONError, match=reason):
        strict_json.loads_lines(data)


@given(st.lists(_VALUES))
def test_lines_that_it_writes_it_reads(values: list[object]) -> None:
    assert strict_json.loads_lines(b"\n".join(map(strict_json.dumps, values))) == values


@pytest.mark.parametrize("text", ['"' + '\\"' * 300_000, '["' + "[" * 300_000 + '"]', '"' + "\\" * 300_001])
def test_strings_are_looked_at_once_for_their_depth(text: str) -> None:
    before = time.perf_counter()
    with suppress(strict_json.StrictJSONError):
        strict_json.loads(text.encode())
    assert time.perf_counter() - before < 1.0
