"""The line of every key of a TOML text."""

from __future__ import annotations

import tomllib

from hypothesis import given, settings, strategies as st

from deliver.configuration.lines import key_lines

TEXT = '''# a comment with [brackets] = and "quotes"
top = 1
a.b . "c d" = """
[not.a.table]
key = "no"
""""
[dns]   # [x]
resolvers = [ # comment ]
  "one, [two]", '''  # continued below
TEXT += """'it''s',
  "]",
]
inline = { x = 1, y = { z = "}" }, list = [ {q = 1}, {q = 2} ] }
[[route]]
domains = ["a"]
[route.sub]
k = 1979-05-27 07:32:00
[[ route ]]
domains = '''
'''
[ "quoted key" . 'lit' ]
v = 1
[[a2.b2]]
[[a2.b2.c2]]
n = 1
[[a2.b2.c2]]
n = 2
"""


def test_lines() -> None:
    text = TEXT.replace("'it''s'", "'its'")
    tomllib.loads(text)
    lines = key_lines(text)
    expected = {
        ("top",): 2,
        ("a", "b", "c d"): 3,
        ("dns",): 7,
        ("dns", "resolvers"): 8,
        ("dns", "resolvers", 0): 9,
        ("dns", "resolvers", 2): 10,
        ("dns", "inline", "y", "z"): 12,
        ("dns", "inline", "list", 1, "q"): 12,
        ("route", 0): 13,
        ("route", 0, "domains"): 14,
        ("route", 0, "sub", "k"): 16,
        ("route", 1): 17,
        ("route", 1, "domains"): 18,
        ("quoted key", "lit", "v"): 21,
        ("a2", "b2", 0, "c2", 1, "n"): 26,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert ("dns", "resolvers", 3) not in lines


KEY = st.text("abc_-1", min_size=1, max_size=3)
VALUE = st.recursive(
    st.sampled_from(["1", "true", '"a#]"', "'}='", '"""x\n\\"y"""', "'''\n]\n'''", "1.5", "1979-05-27"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[" + ",\n ".join(items) + "]"),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(KEY, VALUE), unique_by=lambda pair: pair[0], max_size=6))
def test_every_key_of_a_valid_text_is_found_on_its_line(pairs: list[tuple[str, str]]) -> None:
    text, expected = "[t]\n", {}
    for key, value in pairs:
        expected["t", key] = text.count("\n") + 1
        text += f"{key} = {value} # end\n"
    assert set(tomllib.loads(text)["t"]) == {key for _, key in expected}
    lines = key_lines(text)
    assert {path: lines.get(path) for path in expected} == expected


@settings(max_examples=100, deadline=None)
@given(st.text("[]{}=\"'#\n.,a1 \\", max_size=60))
def test_any_text_ends(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in key_lines(text).values())
