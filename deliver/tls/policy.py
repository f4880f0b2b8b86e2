"""One TLS policy per host, decided before its socket is opened (RFC 7672 2.2, RFC 7435).

`decide` reads like this table. "floor" is what the configured level asks for without DANE: `may` for level
`dane`; level `dane-only` has none: next host, else defer.

    level           TLSA at the base domain            policy
    --------------  ---------------------------------  --------------------------------------------------
    none            not asked                          clear text
    may             not asked                          opportunistic TLS
    try-verify      not asked                          opportunistic TLS, PKIX tried: a failure is a fact
    encrypt         not asked                          TLS required, not authenticated
    verify          not asked                          TLS required, authenticated by PKIX
    dane dane-only  not asked: MX or address insecure  floor
    dane dane-only  absent, or an insecure answer      floor
    dane dane-only  secure, at least one usable        TLS required, authenticated by DANE
    dane            secure, none usable                TLS required, not authenticated
    dane-only       secure, none usable                next host, else defer
    dane dane-only  bogus or no answer                 next host, else defer: never a downgrade

The MTA-STS policy of the domain (RFC 8461) raises what comes out of that, and never lowers it:

    level           policy of the domain               then
    --------------  ---------------------------------  --------------------------------------------------
    none dane-only  not asked: it is the domain's      as above
    none dane-only  for the host alone, it is covered  as above
    any             any, and DANE authenticates        as above: DANE comes first (RFC 8461 2)
    any             nobody can say                     next host, else defer
    any             enforce, the host is not covered   next host, else defer
    any other       enforce, the host is covered       TLS required, authenticated by PKIX for the host
    any other       testing                            as above; opportunistic TLS with PKIX tried
    any other       none at all, or mode none          as above

`Demands` for a good OCSP staple or for CRLs raise the levels below `verify` to it, and level `dane` where
DANE does not authenticate the host; `dane-only` stays as it is.

The names that PKIX checks are those that nobody can forge (RFC 9525 6.1):

    how the host was chosen                            reference identifiers
    -------------------------------------------------  ---------------------------------------------------
    configured, the domain itself, or a validated MX   the host, and `verify_names`
    an MX answer without DNSSEC, with `verify_names`   `verify_names` alone
    an MX answer without DNSSEC, before a password     the domain whose MX it is, and the `verify_names`
    or under REQUIRETLS                                that the settings give it, whatever its hosts
    an MX answer without DNSSEC                        the host: no more than the answer is worth

Under an enforced policy the certificate must be for the host in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from deliver.level import Level
from deliver.message import literal_address
from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.answer import TlsaRecord
from deliver.resolve.mx import HostPlan, MxPlan
from deliver.resolve.sts import Mode, StsPolicy, StsStanding
from deliver.resolve.tlsa import DANE_EE, DANE_TA, TlsaAbsent, TlsaFailed, TlsaNotAsked, TlsaRecords

__all__ = [
    "Authentication",
    "Demands",
    "Floor",
    "Level",
    "Refuse",
    "TlsPolicy",
    "at_least",
    "clear_text_allowed",
    "decide",
    "floor_of",
    "floor_of_sts",
    "floor_unknown",
    "in_clear_text",
    "verified",
    "vouched_for",
]


class Authentication(StrEnum):
    """How the server proves who it is."""

    NONE = "none"
    DANE = "dane"
    PKIX = "pkix"
    TRIED = "tried"  # as PKIX, and accepted all the same when that fails


@dataclass(frozen=True, slots=True)
class Demands:
    """What the settings ask for beyond a level.

    `names`: reference identifiers (A-labels) beside or in place of the host's own, where PKIX checks names.
    `require_ocsp` and `require_crl`: TLS is required and authenticated, and refused without a good OCSP
    staple or without a CRL of every issuer. `skew`: how wrong clocks may be about a staple, in seconds.
    """

    names: tuple[str, ...] = ()
    request_ocsp: bool = True
    require_ocsp: bool = False
    require_crl: bool = False
    skew: float = 300.0

    @property
    def authenticated(self) -> bool:
        """Whether the level is at least `verify` because of them."""
        return self.require_ocsp or self.require_crl


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What we demand of one host.

    `required` never falls back to clear text. `names` are the reference identifiers (A-labels) of which a
    certificate must carry one where names are checked: PKIX and DANE-TA; under PKIX `also` is one more
    that it must carry. `sni` is sent in the ClientHello.
    """

    level: Level
    use_tls: bool
    required: bool
    authentication: Authentication
    sni: str
    names: tuple[str, ...] = ()
    records: tuple[TlsaRecord, ...] = ()
    findings: tuple[Finding, ...] = ()
    demands: Demands = Demands()
    also: str | None = None

    @property
    def request_ocsp(self) -> bool:
        """Whether to ask for a staple: it says nothing where only DANE-EE counts (RFC 7671 5.1)."""
        if self.demands.require_ocsp:
            return True
        only_ee = self.authentication is Authentication.DANE and all(
            record.usage == DANE_EE for record in self.records
        )
        return self.use_tls and self.demands.request_ocsp and not only_ee


class Floor(IntEnum):
    """What mail was owed by hosts that did not take it, so that the hosts of last resort owe it too."""

    ANY = 0
    ENCRYPTED = 1
    AUTHENTICATED = 2


@dataclass(frozen=True, slots=True)
class Refuse:
    """This host must not be used now; next host, else defer."""

    finding: Finding


def decide(level: Level, plan: MxPlan, host: HostPlan, demands: Demands = Demands()) -> TlsPolicy | Refuse:
    """The tables above, for mail; see `verified` for a password."""
    policy = _under_sts(_by_level(level, plan, host, demands), plan, host)
    return replace(policy, demands=demands) if isinstance(policy, TlsPolicy) else policy


def verified(
    plan: MxPlan, host: HostPlan, demands: Demands, *, pinned: tuple[str, ...] | None = None
) -> TlsPolicy:
    """The policy of level `verify`.

    `pinned`: the server has to be the right one for certain; where nobody vouches for the host only the
    domain and these names of the settings count, which are those for the domain.
    """
    policy = _pkix(Level.VERIFY, plan, host, demands, pinned)
    under = _under_sts(policy, plan, host)  # it refuses only what `decide` has refused
    return replace(under if isinstance(under, TlsPolicy) else policy, demands=demands)


def floor_of(policy: TlsPolicy | Refuse) -> Floor:
    """What this host would have had to do."""
    if isinstance(policy, Refuse):
        return Floor.AUTHENTICATED
    if not policy.required:
        return Floor.ANY
    return Floor.ENCRYPTED if policy.authentication is Authentication.NONE else Floor.AUTHENTICATED


def floor_unknown(level: Level, *, tlsa_possible: bool) -> Floor:
    """The most that hosts can demand about which DNS gave no answer: an attacker can keep it from us."""
    if level in (Level.VERIFY, Level.DANE_ONLY) or (level.wants_tlsa and tlsa_possible):
        return Floor.AUTHENTICATED
    return Floor.ENCRYPTED if level is Level.ENCRYPT else Floor.ANY


def floor_of_sts(standing: StsStanding) -> Floor:
    """What hosts are owed that DNS kept from us, by the domain's policy."""
    enforced = standing.policy is not None and standing.policy.mode is Mode.ENFORCE
    return Floor.AUTHENTICATED if enforced or standing.unknown is not None else Floor.ANY


def at_least(floor: Floor, policy: TlsPolicy | Refuse, plan: MxPlan, host: HostPlan) -> TlsPolicy | Refuse:
    """The policy, raised to `floor`."""
    if isinstance(policy, Refuse) or floor_of(policy) >= floor:
        return policy
    text = f"What the hosts before were held to is demanded of {host.host} too"
    if floor is Floor.AUTHENTICATED:
        raised = verified(plan, host, policy.demands)
        return replace(raised, findings=(_note("fallback-raised", text), *raised.findings))
    return replace(_encrypt(Level.ENCRYPT, host, "fallback-raised", text), demands=policy.demands)


def _by_level(level: Level, plan: MxPlan, host: HostPlan, demands: Demands) -> TlsPolicy | Refuse:
    if not level.wants_tlsa:
        if level is Level.VERIFY or demands.authenticated:
            return _pkix(level, plan, host, demands)
        if level is Level.NONE:
            return _plain(level, host, "level-none", "The settings ask for clear text (level none)")
        if level is Level.MAY:
            return _opportunistic(level, host, "The settings ask for opportunistic TLS (level may)")
        if level is Level.TRY_VERIFY:
            return _tried(level, host, demands)
        return _encrypt(level, host, "level-encrypt", "The settings require TLS (level encrypt)")
    match host.tlsa:
        case TlsaFailed(why=why):
            return _lookup_failed(host, why)
        case TlsaRecords(usable=usable) as found if usable:
            return _dane(level, plan, host, found)
        case _ if demands.authenticated and level is not Level.DANE_ONLY:
            return _pkix(level, plan, host, demands)
        case TlsaNotAsked(why=why):
            return _floor(level, host, f"No DANE for {host.host}: {why}", "RFC 7672 2.2")
        case TlsaAbsent(secure=secure):
            proof = "securely proven absent" if secure else "absent or insecure"
            return _floor(level, host, f"No DANE for {host.host}: TLSA {proof}", "RFC 7672 2.2")
        case TlsaRecords():
            return _unusable(level, host)


def _under_sts(policy: TlsPolicy | Refuse, plan: MxPlan, host: HostPlan) -> TlsPolicy | Refuse:
    """The table of MTA-STS above."""
    if host.sts is None or isinstance(policy, Refuse) or policy.authentication is Authentication.DANE:
        return policy
    sts = host.sts.policy
    if host.sts.unknown is not None:
        return _refused_by_sts("sts-unknown", f"{host.host} cannot be used now: {host.sts.unknown}", "3.3")
    if sts is not None and sts.mode is Mode.ENFORCE and not sts.covers(host.host):
        text = f"{host.host} is not among the hosts that the MTA-STS policy of {plan.domain} allows"
        return _refused_by_sts("sts-mx-mismatch", text, "4.1")
    if sts is None or sts.mode is Mode.NONE or policy.level in (Level.NONE, Level.DANE_ONLY):
        return policy
    if sts.mode is Mode.TESTING:
        return _sts_tested(policy, sts, plan, host)
    if policy.authentication is Authentication.PKIX:
        return policy
    text = f"The MTA-STS policy of {plan.domain} requires TLS and a valid certificate for {host.host}"
    finding = _note("sts-enforce", text, "RFC 8461 4.1", names=host.host)
    return TlsPolicy(
        policy.level, True, True, Authentication.PKIX, host.host, (host.host,), findings=(finding,)
    )


def _refused_by_sts(code: str, text: str, section: str) -> Refuse:
    return Refuse(Finding(Stage.POLICY, code, text, Verdict.REFUSED, f"RFC 8461 {section}"))


def _sts_tested(policy: TlsPolicy, sts: StsPolicy, plan: MxPlan, host: HostPlan) -> TlsPolicy:
    """As without the policy; what it would refuse is told (RFC 8461 5)."""
    if not sts.covers(host.host):
        text = f"The MTA-STS policy of {plan.domain}, which is in testing, does not allow {host.host}"
        return replace(policy, findings=(*policy.findings, _note("sts-testing", text, "RFC 8461 4.1")))
    text = f"The MTA-STS policy of {plan.domain} is in testing: the certificate is verified, not required"
    findings = (*policy.findings, _note("sts-testing", text, "RFC 8461 5", names=host.host))
    if policy.required or policy.authentication is not Authentication.NONE:
        return replace(policy, findings=findings)
    return replace(policy, authentication=Authentication.TRIED, names=(host.host,), findings=findings)


def _lookup_failed(host: HostPlan, why: str) -> Refuse:
    text = f"{host.host} cannot be used now: its TLSA records could not be looked up: {why}"
    return Refuse(Finding(Stage.POLICY, "tlsa-lookup-failed", text, Verdict.REFUSED, "RFC 7672 2.1.2"))


def clear_text_allowed(policy: TlsPolicy, *, tls_offered: bool, fallback: bool) -> bool:
    """Whether mail may go in clear text after all (RFC 7435 4.3): never where the policy requires TLS.

    `fallback` is `tls.clear_text_fallback`: it decides where TLS was offered and did not come about.
    """
    return not policy.required and (fallback or not tls_offered)


def in_clear_text(policy: TlsPolicy, why: str) -> TlsPolicy:
    """The policy for a second contact without TLS, where `policy` does not require it (RFC 7435 4.3)."""
    if policy.required:
        raise ValueError("a policy that requires TLS never falls back to clear text")
    return replace(policy, use_tls=False, findings=(_note("clear-text-fallback", why, "RFC 7435 4.3"),))


def _note(code: str, text: str, rfc: str | None = None, **evidence: str) -> Finding:
    return Finding(Stage.POLICY, code, text, Verdict.NOTE, rfc, tuple(evidence.items()))


def _plain(level: Level, host: HostPlan, code: str, text: str) -> TlsPolicy:
    return TlsPolicy(level, False, False, Authentication.NONE, host.host, findings=(_note(code, text),))


def _opportunistic(level: Level, host: HostPlan, text: str, rfc: str | None = "RFC 7435 3") -> TlsPolicy:
    found = _note("tls-opportunistic", f"{text}; TLS is used where offered, clear text otherwise", rfc)
    return TlsPolicy(level, True, False, Authentication.NONE, host.host, findings=(found,))


def _tried(level: Level, host: HostPlan, demands: Demands) -> TlsPolicy:
    plain = _opportunistic(level, host, "The settings ask to try to verify certificates (level try-verify)")
    names = tuple(dict.fromkeys((host.host, *demands.names)))
    return replace(plain, authentication=Authentication.TRIED, names=names)


def _encrypt(level: Level, host: HostPlan, code: str, text: str, rfc: str | None = None) -> TlsPolicy:
    return TlsPolicy(level, True, True, Authentication.NONE, host.host, findings=(_note(code, text, rfc),))


def _pkix(
    level: Level, plan: MxPlan, host: HostPlan, demands: Demands, pinned: tuple[str, ...] | None = None
) -> TlsPolicy:
    why = (
        "level verify" if level is Level.VERIFY else "require_ocsp" if demands.require_ocsp else "require_crl"
    )
    text = f"The settings require a certificate for {host.host} from a trusted issuer ({why})"
    names = _certain_names(plan, host, demands, pinned)
    if not vouched_for(plan, host):
        text += "; the MX answer that chose this host was not validated by DNSSEC"
        text += "" if host.host in names else f", so that it must be for {' or '.join(names)}"
    also = host.host if _is_enforced(host) and names != (host.host,) else None
    if also is not None:
        text += f"; the MTA-STS policy of {plan.domain} requires it to be for {also} in any case"
    finding = _note("level-verify", text, "RFC 9525 6", names=", ".join(names))
    return TlsPolicy(level, True, True, Authentication.PKIX, host.host, names, findings=(finding,), also=also)


def _is_enforced(host: HostPlan) -> bool:
    sts = host.sts.policy if host.sts is not None else None
    return sts is not None and sts.mode is Mode.ENFORCE


def vouched_for(plan: MxPlan, host: HostPlan) -> bool:
    """Whether nobody can have forged that this host serves the domain."""
    return plan.secure or host.host in (plan.domain, literal_address(plan.domain))


def _certain_names(
    plan: MxPlan, host: HostPlan, demands: Demands, pinned: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The second table above."""
    names: tuple[str, ...]
    if vouched_for(plan, host):
        names = (host.host, *demands.names)
    elif pinned is not None:
        names = (plan.domain, *pinned)
    else:
        names = demands.names or (host.host,)
    return tuple(dict.fromkeys(names))


def _floor(level: Level, host: HostPlan, text: str, rfc: str) -> TlsPolicy | Refuse:
    if level is Level.DANE_ONLY:
        return Refuse(
            Finding(Stage.POLICY, "dane-required", f"{text}; the settings require DANE", Verdict.REFUSED, rfc)
        )
    return _opportunistic(level, host, text, rfc)


def _unusable(level: Level, host: HostPlan) -> TlsPolicy | Refuse:
    text = f"{host.host} publishes TLSA records, none of them usable"
    if level is Level.DANE_ONLY:
        return _floor(level, host, text, "RFC 7672 2.2")
    return _encrypt(
        level, host, "tlsa-unusable", f"{text}: TLS is required but not authenticated", "RFC 7672 2.2"
    )


def _dane(level: Level, plan: MxPlan, host: HostPlan, found: TlsaRecords) -> TlsPolicy:
    names = _reference_identifiers(plan, found.base_domain)
    records = " | ".join(str(record)[:80] for record in found.usable)
    trust_anchor = any(record.usage == DANE_TA for record in found.usable)
    count = "a usable TLSA record" if len(found.usable) == 1 else f"{len(found.usable)} usable TLSA records"
    text = f"{host.host} publishes {count}: TLS authenticated by DANE is required"
    finding = _note(
        "dane",
        text,
        "RFC 7672 2.2",
        base_domain=found.base_domain,
        records=records,
        **({"names": ", ".join(names)} if trust_anchor else {}),
    )
    return TlsPolicy(
        level, True, True, Authentication.DANE, found.base_domain, names, found.usable, (finding,)
    )


def _reference_identifiers(plan: MxPlan, base_domain: str) -> tuple[str, ...]:
    """RFC 7672 3.2.2: the base domain, and the next-hop names where their binding to it is secure."""
    extra = plan.next_hop_names if plan.secure or plan.implicit else ()
    return tuple(dict.fromkeys((base_domain, *extra)))
