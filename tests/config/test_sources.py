"""Files of a configuration: lines of their keys, environment variables, and files that they include."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.environment import expand
from pylb.config.load import ConfigError, from_document, load_file, read_source
from pylb.config.positions import Location, key_lines, line_of

PYLB = """\
# A balancer
workers.max = 2
include = "conf.d/*.toml"

[[frontend]]
name = "f"
bind = [
    "127.0.0.1:1", # the first
    "127.0.0.1:2",
]
backend = "b"
forwarded = true
"""
SERVERS = """
[[backend]]
name = "b"
server = ["127.0.0.1:3"]
"""


def files(folder: Path, **texts: str) -> str:
    """Files below ``conf.d`` by name, and ``pylb.toml``, whose path it gives."""
    (folder / "conf.d").mkdir(exist_ok=True)
    for name, text in texts.items():
        place = folder if name == "pylb" else folder / "conf.d"
        (place / f"{name}.toml").write_text(text)
    return str(folder / "pylb.toml")


def mistakes(folder: Path, **texts: str) -> list[str]:
    """What is said about them, with the folder's name left out."""
    file = files(folder, **texts)
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    return [line.replace(f"{folder}/", "") for line in caught.value.located]


# Lines

TEXT = '''\
a.b = 1
"quoted key".'x' = """
[no]
"""
list = [
  1, [2,
  3], {x = 1, "y\\u0041" = [4]}]
[table]
date = 1979-05-27 07:32:32 # c = 1
[[many]]
[[many.inner]]
z = \'\'\'
z = 2\'\'\'\'\'
[[many.inner]]
z = "]#"
[many.last]
[[many]]
[[many.inner]]
'''


@pytest.mark.parametrize(
    ("location", "line"),
    [
        (("a", "b"), 1),
        (("quoted key", "x"), 2),
        (("list",), 5),
        (("list", 0), 6),
        (("list", 1, 1), 7),
        (("list", 2, "yA", 0), 7),
        (("table", "date"), 9),
        (("many", 0, "inner", 0, "z"), 12),
        (("many", 0, "inner", 1, "z"), 15),
        (("many", 0, "last"), 16),
        (("many", 1), 17),
        (("many", 1, "inner", 0), 18),
        (("many", 1, "inner", 0, "missing"), 18),
        (("table", 0, "date"), 9),  # a list of tables, written as its only one
        (("missing",), 0),
    ],
)
def test_the_line_of_a_key(location: Location, line: int) -> None:
    assert line_of(key_lines(TEXT), location)[1] == line


def every(value: Any, at: Location = ()) -> list[Location]:
    if isinstance(value, dict):
        return [at, *(one for key, inner in value.items() for one in every(inner, (*at, key)))]
    if isinstance(value, list):
        return [at, *(one for number, inner in enumerate(value) for one in every(inner, (*at, number)))]
    return [at]


PIECES = ["[a]", "[[b]]", "[b.c]", "[[b.d]]", "[a.'x y']", "x = 1", "y.z = 'a'", 'x."k=#" = """', '"""']
PIECES += ["w = [", "]", "1,", "{p = 1, q.r = [2]},", "# [a]", "'''", "v = '''", '"a]",', "u = {", "}"]
PIECES += ["t = 1979-05-27 07:32:32", 's = "\\"#"', "r = '\\'", "=", "[", "\\", '"', ""]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("\n".join) | st.text())
def test_any_text_is_scanned_and_every_key_of_a_good_one_is_found(text: str) -> None:
    lines = key_lines(text)
    try:
        document = tomllib.loads(text)
    except ValueError:
        return
    text = text.replace("\r\n", "\n")
    for location in every(document)[1:]:
        known, line = line_of(lines, location)
        # What stands on the line of what holds it is found with that.
        name = next((str(part) for part in reversed(location[:known]) if isinstance(part, str)), "")
        assert line
        if isinstance(location[-1], str) and known == len(location) and name.isalnum() and name.isascii():
            assert name in text.split("\n")[line - 1]


# Mistakes name file and line


def test_mistakes_name_the_line_of_the_key(tmp_path: Path) -> None:
    bad = PYLB.replace('2",', 'x",').replace("max = 2", "max = 0").replace("forwarded = true", "nmae = 1")
    found = mistakes(tmp_path, pylb=bad, servers=SERVERS + "[[backend]]\nserver = ['x:99999', 'y:1']\n")
    assert [line.partition(" (")[0].partition(";")[0] for line in found] == [
        "pylb.toml:9: frontend[0].bind[1]: '127.0.0.1:x' is not an address",
        "pylb.toml:12: frontend[0].nmae: unknown key",
        "conf.d/servers.toml:5: backend[1].name: missing",
        "conf.d/servers.toml:6: backend[1].server[0].address: port 99999 is greater than 65535",
        "pylb.toml:2: workers.max: input should be greater than or equal to 1",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [("x = 1\ny = ", "2"), ("x = 1\nx = 2\n", "2"), ("x = 'a\n", "1")],
)
def test_what_is_no_toml_names_the_line(tmp_path: Path, text: str, place: str) -> None:
    (line,) = mistakes(tmp_path, pylb=PYLB, servers=SERVERS, more=text)
    assert line.startswith(f"conf.d/more.toml:{place}: not valid TOML: ")


def test_mistakes_of_options_have_no_place(tmp_path: Path) -> None:
    file = files(tmp_path, pylb="log.level = 1\n" + PYLB, servers=SERVERS)
    with pytest.raises(ConfigError) as caught:
        load_file(file, log_format="xml")
    assert sorted(line.partition(" input")[0] for line in caught.value.located) == [
        "--log-format:",
        f"{file}:1: log.level:",
    ]


# Environment variables


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"),
        ("x${A}y${B:-2}z", "x1y2z"),
        ("${A:-2}", "1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-2}", "2"),
        ("${B:-}", ""),
        ("${B:-a:-b c$}", "a:-b c$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A {A} $$ $", "$A {A} $$ $"),
        ("${NESTED}", "${A}"),
    ],
)
def test_variables(text: str, value: str) -> None:
    problems: list[tuple[Location, str]] = []
    environ = {"A": "1", "EMPTY": "", "NESTED": "${A}"}
    assert expand({"${A}": [text, 1]}, environ, problems) == {"${A}": [value, 1]}
    assert not problems


def test_variables_that_cannot_be_had_name_key_file_and_line(tmp_path: Path) -> None:
    more = "log = {level = '${PYLB_NONE}', format = '${1}'}\nuser = '''\n${PYLB_OPEN:-'''\n"
    assert mistakes(tmp_path, pylb=PYLB, servers=SERVERS, more=more + "group = '${B-c}'") == [
        "conf.d/more.toml:1: log.level: the environment has no variable PYLB_NONE; set it, or write "
        "${PYLB_NONE:-default}",
        "conf.d/more.toml:1: log.format: ${1} is no variable; write ${NAME} or ${NAME:-default}, "
        "and $${ for ${ itself",
        "conf.d/more.toml:2: user: ${ has no } after it; write $${ for ${ itself",
        "conf.d/more.toml:4: group: ${B-c} is no variable; write ${NAME} or ${NAME:-default}, "
        "and $${ for ${ itself",
    ]


def test_a_variable_is_read_as_what_the_key_holds(tmp_path: Path) -> None:
    text = PYLB.replace("max = 2", 'max = "${WORKERS:-3}"').replace("conf.d", "${FOLDER}")
    file = files(tmp_path, pylb=text, servers=SERVERS.replace("127.0.0.1:3", "${SERVER}"))
    source = read_source(file, {"FOLDER": "conf.d", "SERVER": "10.0.0.1:4"})
    assert source.document["backend"] == [{"name": "b", "server": ["10.0.0.1:4"]}]
    assert from_document(source.document).workers.max == 3


@given(st.text(alphabet="${}A:-1 ", max_size=12) | st.text())
def test_any_text_with_variables_is_expanded_or_refused(text: str) -> None:
    problems: list[tuple[Location, str]] = []
    expand(text, {"A": "1"}, problems)
    assert all(sentence for _, sentence in problems)


# Files that a file includes


def test_lists_of_tables_are_put_one_after_the_other_and_tables_joined(tmp_path: Path) -> None:
    file = files(
        tmp_path,
        pylb=PYLB + SERVERS,
        b="include = 'deeper/c.toml'\nbacklog = 7\n[backend]\nname = 'of b'\nserver = '127.0.0.1:4'\n",
        a="[workers]\nmin = 2\n[[backend]]\nname = 'of a'\nserver = '127.0.0.1:5'\n",
    )
    (tmp_path / "conf.d" / "deeper").mkdir()
    (tmp_path / "conf.d" / "deeper" / "c.toml").write_text(SERVERS.replace('"b"', '"of c"'))
    (tmp_path / "conf.d" / ".hidden.toml").write_text("no TOML")
    config = load_file(file)
    assert [backend.name for backend in config.backends] == ["b", "of a", "of b", "of c"]
    assert (config.workers.min, config.workers.max, config.backlog) == (2, 2, 7)
    places = read_source(file).places
    assert places.of(("backend", 2, "name")) == f"{tmp_path}/conf.d/b.toml:4"
    assert places.of(("backend", 3)) == f"{tmp_path}/conf.d/deeper/c.toml:2"
    assert places.of(("frontend", 0, "bind", 1)) == f"{file}:9"


def test_a_pattern_without_a_file_is_good_and_a_name_without_one_is_not(tmp_path: Path) -> None:
    file = files(tmp_path, pylb=PYLB + SERVERS)
    assert len(load_file(file).frontends) == 1
    assert mistakes(tmp_path, pylb=PYLB.replace("*", "a") + SERVERS) == [
        "pylb.toml:3: include: conf.d/a.toml: No such file or directory"
    ]


def test_a_key_that_is_set_twice_names_both_files(tmp_path: Path) -> None:
    more = "[timeouts]\nclient = 1\n"
    assert mistakes(
        tmp_path, pylb=PYLB + SERVERS, a=more, b="workers = {max = 2}\n", c=f"backlog = 1\n\n{more}"
    ) == [
        "conf.d/b.toml:1: workers.max: is set in pylb.toml:2, too; remove one",
        "conf.d/c.toml:4: timeouts.client: is set in conf.d/a.toml:2, too; remove one",
    ]


@pytest.mark.parametrize(
    ("include", "says"),
    [
        ("'pylb.toml'", "pylb.toml includes itself; name the files so that it isn't among them"),
        ("['conf.d/a.toml', './conf.d/[a].toml']", "./conf.d/a.toml is included twice"),
        ("'conf.d'", "conf.d: is a directory"),
        ("'pipe'", "pipe: is no regular file; it is read again at a reload, which a pipe or device doesn't"),
        ("'/dev/zero'", "/dev/zero: is no regular file; it is read again at a reload, which a pipe"),
        ("''", "expected the path of a file, or a pattern such as conf.d/*.toml"),
        ("1", "expected the path of a file, or a pattern such as conf.d/*.toml"),
        (r'"a\u0000*"', r"'a\x00*' holds a control character, such as a NUL byte"),
    ],
)
def test_what_can_not_be_included(tmp_path: Path, include: str, says: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = mistakes(tmp_path, pylb=f"include = {include}\n{SERVERS}", a="backlog = 1")
    assert len(found) == 1 and found[0].startswith(f"pylb.toml:1: include: {says}"), found


def test_files_that_include_each_other_for_ever(tmp_path: Path) -> None:
    chain = {f"f{number}": f"include = 'f{number + 1}.toml'\n" for number in range(20)}
    (line,) = mistakes(tmp_path, pylb="include = 'conf.d/f0.toml'\n", **chain)
    assert line.endswith("include: f8.toml: more than 8 files include each other; shorten the chain")
    (line,) = mistakes(tmp_path, pylb=chain["f0"].replace("f1", "conf.d/f1"), f1="include = '../pylb.toml'")
    assert "pylb.toml includes itself" in line
