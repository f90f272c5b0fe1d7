"""JSON as typed values: what `asdict` wrote comes back, and anything else is refused by its name."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import pytest

from steadyq.store.typed import from_json


class Pair(NamedTuple):
    value: float
    good: bool = True


@dataclass
class Inner:
    counts: dict[str, int] = field(default_factory=dict)
    best: Pair | None = None


@dataclass(frozen=True)
class Outer:
    pairs: list[Pair]
    inner: Inner
    words: str | None
    anything: dict[str, Any]


VALUES = [
    Outer([], Inner(), None, {}),
    Outer([Pair(-0.0), Pair(5e-324, False)], Inner({"a": 2**62}, Pair(0.1)), "x", {"deep": [{"y": None}, 1.5]}),
]


@pytest.mark.parametrize("value", VALUES)
def test_what_was_written_comes_back(value: Outer) -> None:
    got = from_json(Outer, json.loads(json.dumps(asdict(value))), "all")
    assert got == value
    assert repr(got) == repr(value)  # types and the sign of zero, too


GOOD = json.loads(json.dumps(asdict(VALUES[1])))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "`all` is 3, not of the type dict"),
        ({}, "`all` lacks 'anything'"),
        (GOOD | {"more": 1}, "`all` has the unknown 'more'"),
        (GOOD | {"x" * 500: 1}, "`all` has the unknown 'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
        (GOOD | {"pairs": {}}, "`all.pairs` is {}, not of the type list"),
        (GOOD | {"pairs": [[1.0]]}, "`all.pairs` is [1.0], not [value, good]"),
        (GOOD | {"pairs": [[1, True]]}, "`all.pairs.value` is 1, not of the type float"),
        (GOOD | {"pairs": [[1.0, 1]]}, "`all.pairs.good` is 1, not of the type bool"),
        (GOOD | {"pairs": [[math.inf, True]]}, "`all.pairs.value` is inf, not a finite number"),
        (GOOD | {"inner": None}, "`all.inner` is None, not of the type dict"),
        (
            GOOD | {"inner": {"counts": {"b": True}, "best": None}},
            "`all.inner.counts.'b'` is True, not of the type int",
        ),
        (
            GOOD | {"inner": {"counts": {"\n": "z"}, "best": None}},
            "`all.inner.counts.'\\n'` is 'z', not of the type int",
        ),
        (GOOD | {"inner": {"counts": {}, "best": 0}}, "`all.inner.best` is 0, not of the type list"),
        (GOOD | {"words": 4}, "`all.words` is 4, not of the type str"),
        (GOOD | {"anything": [[]]}, "`all.anything` is [[]], not of the type dict"),
    ],
)
def test_anything_else_is_refused_by_name(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match="`all") as caught:
        from_json(Outer, value, "all")
    assert str(caught.value) == words
