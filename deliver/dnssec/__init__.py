"""DNSSEC validation in our own process (RFC 4033-4035, 5155, 6840, 9276), without any I/O.

In reading order:

- rule: every reason for which data is refused or insecure, with its RFC section
- verdict: questions, replies and what is concluded from them
- anchors: where trust begins, and where it is suspended
- budget: how much work a lookup may cost
- algorithm: public keys, signatures and digests
- signature: one RRset and its RRSIGs
- denial, nsec3, proof: what NSEC and NSEC3 records prove, and either put to a reply
- keys: what is known about zones; from DS records to DNSKEY records
- reading, alias: a reply reduced to what a validator may look at, and where it leads on
- desk, validator: what one lookup has at hand; RRsets, denials and zones held against the chain of trust
- chain: one question, from its answer to the trust anchor
- evidence: what a verdict rests on, as findings of the trace
"""
