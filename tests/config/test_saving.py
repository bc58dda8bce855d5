"""Changes of servers in the text of a file: what is written, and what stays as it was."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.saving import Difference, Unsaveable, differences, saved

TEXT = """# The site.
[[backend]]
name = "web"  # what everybody sees
balance = "roundrobin"
server = [
  "10.0.0.1:80",  # the old one
  { address = "10.0.0.2:80", weight = 2 },  # the new one
  "10.0.0.3:80",
]

[[backend]]
name = "api"
[[backend.server]]
address = "10.1.0.1:80"  # first
# its name is said:
name = "one"
[[backend.server]]
address = "10.1.0.2:80"

[timeouts]
client = 3  # short
"""


def keys(name: str, address: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "address": address, "weight": 1, "state": "ready", **more}


FILE = [
    ("web", keys("s1", "10.0.0.1:80")),
    ("web", keys("s2", "10.0.0.2:80", weight=2)),
    ("web", keys("s3", "10.0.0.3:80")),
    ("api", keys("one", "10.1.0.1:80")),
    ("api", keys("s2", "10.1.0.2:80")),
]


def read(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The servers of a text."""
    found = []
    for backend in tomllib.loads(text)["backend"]:
        servers = backend["server"] if isinstance(backend["server"], list) else [backend["server"]]
        for number, one in enumerate(servers, 1):
            table = one if isinstance(one, dict) else {"address": one}
            found.append((backend["name"], {**keys(f"s{number}", ""), **table}))
    return found


def write(text: str, now: list[tuple[str, dict[str, Any]]]) -> str:
    new, left = saved(text, differences(read(text), now))
    assert not left
    return new


def test_nothing_changed_is_nothing_written() -> None:
    assert read(TEXT) == FILE
    assert differences(FILE, FILE) == [] and write(TEXT, FILE) == TEXT


def test_values_change_and_comments_stay() -> None:
    now = [(backend, dict(one)) for backend, one in FILE]
    now[0][1]["weight"] = 5
    now[1][1]["weight"] = 1
    now[3][1].update(state="drain", address="10.9.9.9:81")
    new = write(TEXT, now)
    assert read(new) == now
    assert [line for line in TEXT.splitlines() if "#" in line and "10." not in line] == [
        line for line in new.splitlines() if "#" in line and "10." not in line
    ]
    assert "# the old one" in new and "# the new one" in new and "# first" in new
    assert [line for one in differences(FILE, now) for line in one.lines()] == [
        "~ web/s1 weight: 1 in the file, 5 now",
        "~ web/s2 weight: 2 in the file, 1 now",
        "~ api/one address: 10.1.0.1:80 in the file, 10.9.9.9:81 now",
        "~ api/one state: ready in the file, drain now",
    ]


def test_who_stays_keeps_its_name_when_another_goes() -> None:
    now = [FILE[1], FILE[2], FILE[3], FILE[4]]
    new = write(TEXT, now)
    assert read(new) == now
    assert "# The site." in new and "# what everybody sees" in new and "# short" in new


def test_who_is_added_stands_at_the_end() -> None:
    more = [("web", keys("s7", "10.0.0.7:80", weight=3, backup=True)), ("api", keys("s3", "10.1.0.3:80"))]
    now = [*FILE[:3], more[0], *FILE[3:], more[1]]
    assert read(write(TEXT, now)) == now
    single = '[[backend]]\nname = "web"\nserver = "10.0.0.1:80"\n'
    assert read(write(single, [FILE[0], more[0]])) == [FILE[0], more[0]]


@given(
    st.lists(st.integers(0, 4), unique=True),
    st.dictionaries(st.integers(0, 4), st.integers(0, 256)),
    st.lists(st.sampled_from(["web", "api"]), max_size=3),
)
def test_what_is_written_is_what_runs(gone: list[int], weights: dict[int, int], more: list[str]) -> None:
    now = [(backend, dict(one)) for backend, one in FILE]
    for at, weight in weights.items():
        now[at][1]["weight"] = weight
    now = [one for at, one in enumerate(now) if at not in gone]
    now += [(backend, keys(f"new{number}", f"10.7.0.{number}:1")) for number, backend in enumerate(more)]
    if {backend for backend, _ in now} != {"web", "api"}:
        with pytest.raises(Unsaveable, match="no server left"):
            write(TEXT, now)
        return
    new = write(TEXT, now)
    assert sorted(read(new), key=str) == sorted(now, key=str)
    assert write(new, now) == new


def test_a_backend_of_another_file_is_left_for_that() -> None:
    change = Difference("other", "s1", None, keys("s1", "10.0.0.1:80"))
    assert saved(TEXT, [change]) == (TEXT, [change])
