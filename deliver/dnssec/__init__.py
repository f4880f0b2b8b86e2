"""DNSSEC validation in our own process (RFC 4033-4035, 5155, 6840, 9276), without any I/O. In reading order:

rule        every reason for which data is refused, with its RFC section
verdict     questions, replies and what is concluded from them
anchors     where trust begins, and where it is suspended
budget      how much work a lookup may cost
algorithm   public keys, signatures and digests
signature   one RRset and its RRSIGs
denial      what NSEC records prove; nsec3: the same for hashed names
keys        zones whose keys are known; from DS to DNSKEY
reading     a response reduced to what a validator may look at
chain       one question from its answer to the trust anchor
evidence    what a verdict rests on, as findings of the trace
"""
