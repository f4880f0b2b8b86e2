"""Mail domains as a delivery asks for them: whole MX sets, their hosts' addresses and TLSA records."""

from __future__ import annotations

from tests.zoo.animal import Group, Kind, bogus, insecure, secure
from tests.zoo.denial import Nsec3
from tests.zoo.keys import RSASHA256, split
from tests.zoo.sabotage import corrupted
from tests.zoo.signer import ZonePlan

_DARK = "the zone has no DS (RFC 4035 5.2)"
_HOSTS = tuple(f"mx{n}" for n in range(1, 6))

_ZONES = (
    ZonePlan("provider.test.", (*(f"{host} A 127.0.9.{n}" for n, host in enumerate(_HOSTS, 1)), *(f"_25._tcp.{host} TLSA 3 1 1 {'ee' * 32}" for host in _HOSTS)), split(RSASHA256), denial=Nsec3()),
    ZonePlan("hosted.test.", (*(f"@ MX {n}0 {host}.provider.test." for n, host in enumerate(_HOSTS)), '@ TXT "v=spf1 -all"', '_smtp._tls TXT "v=TLSRPTv1; rua=mailto:r@hosted.test"', '_mta-sts TXT "v=STSv1; id=1"')),
    ZonePlan("hosted-dark.test.", ("@ MX 10 mx1.provider.test.",), keys=()),
    ZonePlan("mixed.test.", ("@ MX 10 mx1.provider.test.", "@ MX 20 mx.dark-host.test.", "@ MX 30 mx.bad-host.test.", "@ MX 40 gone.provider.test.")),
    ZonePlan("dark-host.test.", ("mx A 127.0.9.1", "_25._tcp.mx TLSA 3 1 1 " + "ee" * 32), keys=()),
    ZonePlan("bad-host.test.", ("mx A 127.0.9.1", "mx AAAA ::ffff:127.0.9.1", "_25._tcp.mx TLSA 3 1 1 " + "ee" * 32), sabotage=(corrupted("mx", "AAAA"), corrupted("_25._tcp.mx", "TLSA"))),
    ZonePlan("nullmx.test.", ("@ MX 0 .",)),
    ZonePlan("implicit.test.", ("@ A 127.0.9.1", "@ AAAA ::ffff:127.0.9.1")),
    ZonePlan("nomail.test.", ()),
    ZonePlan("large.test.", (*(f"@ MX {n} host{n}.large.test." for n in range(40)), *(f"_25._tcp.host0 TLSA 2 0 2 {n:02x}{'5a' * 63}" for n in range(40)), *(f'@ TXT "{n:03d}{"t" * 200}"' for n in range(20)), "host0 A 127.0.9.1"), split(RSASHA256)),
    ZonePlan("wildmail.test.", ("* MX 10 mx", "mx A 127.0.9.1", "*._tcp.mx TLSA 3 1 1 " + "ee" * 32)),
)  # fmt: skip

GROUP = Group(
    _ZONES,
    (
        *secure("hosted.test. MX TXT", "_smtp._tls.hosted.test. TXT", "_mta-sts.hosted.test. TXT"),
        *secure(*(f"{host}.provider.test. A" for host in _HOSTS)),
        *secure(*(f"_25._tcp.{host}.provider.test. TLSA" for host in _HOSTS)),
        *secure(*(f"{host}.provider.test. AAAA" for host in _HOSTS), "hosted.test. A AAAA", kind=Kind.NODATA),
        *insecure("hosted-dark.test. MX", "mx.dark-host.test. A", "_25._tcp.mx.dark-host.test. TLSA", why=_DARK),
        *secure("mixed.test. MX", "mx.bad-host.test. A", "nullmx.test. MX", "implicit.test. A AAAA"),
        *bogus("mx.bad-host.test. AAAA", "_25._tcp.mx.bad-host.test. TLSA", rule="signature does not verify (RFC 4035 5.3.3)"),
        *secure("gone.provider.test. A", "_25._tcp.gone.provider.test. TLSA", "_25._tcp.nomail.test. TLSA", kind=Kind.NXDOMAIN),
        *secure("implicit.test. MX", "nomail.test. MX A AAAA", "nullmx.test. A", "_25._tcp.mx.wildmail.test. A", kind=Kind.NODATA),
        *secure("large.test. MX TXT", "_25._tcp.host0.large.test. TLSA"),
        *secure("any.thing.wildmail.test. MX", "_25._tcp.mx.wildmail.test. TLSA"),
        *secure("_25._tcp.host1.large.test. TLSA", kind=Kind.NXDOMAIN),
    ),
)  # fmt: skip
