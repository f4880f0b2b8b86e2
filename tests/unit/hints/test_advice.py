"""What a remembered EHLO answer makes a delivery do."""

from __future__ import annotations

import pytest

from hints.advice import advice
from hints.show import Row


@pytest.mark.parametrize(
    ("keywords", "early"),
    [
        (["PIPELINING", "PIPECONNECT"], True),
        (["PIPELINING", "pipe_connect"], True),
        (["PIPELINING", "X_PIPE_CONNECT"], True),
        (["PIPECONNECT"], False),
        (["PIPELINING", "SIZE 10"], False),
        ([], False),
    ],
)
def test_commands_are_sent_early_where_that_was_offered(keywords: list[str], early: bool) -> None:
    values = {"phase": "clear", "greeted_as": "mx", "keywords": keywords}
    row = Row("ehlo", "192.0.2.1:25/clear", values, "relay", "test", 0.0, 0.0, 100.0, 1, False)
    (said,) = advice((row,), 1.0)
    assert said.text.startswith(f"says {len(keywords)} extensions in the clear phase")
    assert ("before they are asked for" in said.text) is early
