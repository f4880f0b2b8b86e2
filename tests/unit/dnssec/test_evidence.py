"""Evidence as findings of the trace, and the estimate of work."""

from __future__ import annotations

import re

from deliver.dnssec.budget import expected_seconds
from deliver.dnssec.evidence import Security, findings
from deliver.dnssec.rule import Rule
from deliver.dnssec.verdict import Failure
from deliver.report.trace import Stage, Verdict
from tests.unit.dnssec.lab import NOW, ask, lab
from tests.zoo.sabotage import corrupted
from tests.zoo.signer import ZonePlan

GOOD = ZonePlan("good.test.", ("@ MX 10 mx",))


def test_every_rule_has_its_own_code_and_names_an_rfc() -> None:
    assert len({rule.code for rule in Rule}) == len(Rule)
    assert [rule for rule in Rule if not re.fullmatch(r"RFC \d{4} \d[\d.]*", rule.rfc)] == []


def test_a_secure_chain_as_findings() -> None:
    found = findings(lab(GOOD).judge("good.test. MX").evidence)
    assert {finding.verdict for finding in found} == {Verdict.OK}
    assert {finding.stage for finding in found} == {Stage.DNS}
    assert found[-1].code == "dnssec-secure"
    assert "ECDSAP256SHA256" in dict(found[-1].evidence)["signatures"]


def test_a_failure_names_rule_and_section() -> None:
    judged = lab(ZonePlan("good.test.", ("@ MX 10 mx",), sabotage=(corrupted("@", "MX"),))).judge(
        "good.test. MX"
    )
    finding = findings(judged.evidence)[-1]
    assert (finding.code, finding.rfc, finding.verdict) == (
        "dnssec-signature-wrong",
        "RFC 4035 5.3.3",
        Verdict.REFUSED,
    )
    assert dict(finding.evidence)["rule"] == "signature-wrong"
    assert "clock" not in finding.text


def test_a_failure_by_time_at_the_anchor_points_to_the_clock() -> None:
    judged = lab(GOOD).judge("good.test. MX", now=NOW - 400 * 86400)
    assert judged.security is Security.BOGUS
    assert "check this machine's clock" in findings(judged.evidence)[-1].text


def test_insecure_is_a_note() -> None:
    judged = lab(ZonePlan("plain.test.", ("@ MX 10 mx",), keys=())).judge("plain.test. MX")
    assert findings(judged.evidence)[-1].verdict is Verdict.NOTE


def test_expected_work_grows_with_signatures_and_is_bounded() -> None:
    here = lab(GOOD)
    reply = here.reply(ask("good.test. MX"))
    assert expected_seconds((Failure("timed out"),)) == 0
    assert 0 < expected_seconds((reply,)) < expected_seconds((reply, reply)) < 0.005
    assert expected_seconds((reply,) * 10_000) < 0.1


def test_names_of_very_many_labels_are_expected_to_take_long() -> None:
    name = "a." * 100 + "plain.test."
    here = lab(ZonePlan("plain.test.", (f"{name} A 192.0.2.1",), keys=()))
    assert expected_seconds((here.reply(ask(f"{name} A")),)) >= 0.01
