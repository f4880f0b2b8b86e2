"""Mail domains that publish MTA-STS policies (RFC 8461), a population of their own: `LiveInternet(STS)`.

All zones but that of `sts-dane.test` are unsigned, so that DANE does not apply. Certificates are the tests'
authority's, for the name of their host, unless the list says otherwise; each domain has the exchanger `mx.DOMAIN`.

    sts.test                enforce, all is well: must arrive, the server verified by PKIX
    sts-wildcard.test       enforce, the only pattern is `*.sts-wildcard.test`: must arrive, verified by PKIX
    sts-two.test            enforce, `mx1` is not in the policy, `mx2` is: must arrive at `mx2`, verified by PKIX
    sts-self-signed.test    enforce, the exchanger's certificate is self-signed: must be deferred
    sts-name.test           enforce, the exchanger's certificate is for another name: must be deferred
    sts-unlisted.test       enforce, no pattern covers the exchanger: must be deferred
    sts-stripped.test       enforce, the exchanger does not offer STARTTLS: must be deferred
    sts-dane.test           enforce, all is well, but DANE fails: must be deferred (RFC 8461 2)
    sts-testing.test        testing, the exchanger's certificate is self-signed: must arrive (RFC 8461 5)
    sts-none.test           none, the exchanger's certificate is self-signed: must arrive
    sts-missing.test        the policy host answers 404: must arrive, as without policy
    sts-host-name.test      the policy host's certificate is for another name: must arrive, as without policy
    sts-media-type.test     the policy is text/html: must arrive, as without policy (RFC 8461 3.2, a SHOULD)

The last three answer with a policy that covers no exchanger: who takes it does not deliver.
"""

from __future__ import annotations

from tests.internet.behaviour import Behaviour
from tests.internet.pki import Certificate
from tests.internet.policy import Mode, Policy
from tests.internet.policyhost import PolicyAnswer
from tests.internet.sites import OTHER_KEY, Exchanger, Site
from tests.internet.zones import Security

NOBODY = Policy(mx=("mx.elsewhere.invalid",))  # covers no host


def _with_policy(
    domain: str, policy: Policy, answer: PolicyAnswer | None = None, **exchanger: object
) -> Site:
    """A site in an unsigned zone with one exchanger, `mx.` in front of the domain."""
    return Site(
        domain,
        (Exchanger(f"mx.{domain}", **exchanger),),  # type: ignore[arg-type]
        security=Security.INSECURE,
        policy=policy,
        policy_answer=answer or PolicyAnswer(),
    )


STS: tuple[Site, ...] = (
    # it arrives, over TLS that PKIX verifies
    _with_policy("sts.test", Policy()),
    _with_policy("sts-wildcard.test", Policy(mx=("*.sts-wildcard.test",))),
    Site(
        "sts-two.test",
        (Exchanger("mx1.sts-two.test"), Exchanger("mx2.sts-two.test")),
        security=Security.INSECURE,
        policy=Policy(mx=("mx2.sts-two.test",)),
    ),
    # the policy must stop it
    _with_policy("sts-self-signed.test", Policy(), certificate=Certificate.SELF_SIGNED),
    _with_policy("sts-name.test", Policy(), certificate=Certificate.WRONG_NAME),
    _with_policy("sts-unlisted.test", NOBODY),
    _with_policy("sts-stripped.test", Policy(), behaviour=Behaviour(starttls=False)),
    Site(
        "sts-dane.test",  # here it is DANE that must
        (Exchanger("mx.sts-dane.test", tlsa=(OTHER_KEY,)),),
        policy=Policy(),
    ),
    # the policy does not stop it
    _with_policy("sts-testing.test", Policy(Mode.TESTING), certificate=Certificate.SELF_SIGNED),
    _with_policy("sts-none.test", Policy(Mode.NONE), certificate=Certificate.SELF_SIGNED),
    # there is no policy to be had
    _with_policy("sts-missing.test", NOBODY, PolicyAnswer(status=404)),
    _with_policy("sts-host-name.test", NOBODY, PolicyAnswer(certificate=Certificate.WRONG_NAME)),
    _with_policy("sts-media-type.test", NOBODY, PolicyAnswer(media_type="text/html")),
)
