from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from deliver.cli import outrider
from deliver.cli.frame import VERBS
from deliver.cli.manual import page

PAGE = Path(__file__).parents[3] / "docs" / "outrider.1"


def test_the_committed_page_is_fresh() -> None:
    assert PAGE.read_text() == page(outrider), "run: outrider manual > docs/outrider.1"


def test_every_verb_has_its_section_and_examples_survive() -> None:
    text = CliRunner().invoke(outrider, ["manual"]).stdout
    for verb in VERBS:
        assert f"\n.SS {verb}" in text
    assert "outrider send \\-f me@example.org" in text


def test_no_line_of_ours_becomes_a_request() -> None:
    requests = {".TH", ".SH", ".SS", ".TP", ".PP", ".nf", ".fi", ".B", ".BR", ".I"}
    for line in page(outrider).splitlines():
        assert not line.startswith(".") or line.split()[0] in requests
