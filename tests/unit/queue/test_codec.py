"""Outcomes as JSON: what is written can be read, whatever a peer said."""

from __future__ import annotations

import json

import pytest

from deliver.outcome import Contact, Delivered, Resumption, TlsFacts
from deliver.queue import codec
from deliver.smtp.reply import Reply

TLS = TlsFacts("dane", "TLSv1.3", "AES", None, True, "dane", resumption=Resumption.SUPPORTED)


@pytest.mark.parametrize("said", ["Ok", "übernommen", 'a "quoted" \\ word', "half \ud800 of a pair"])
def test_an_outcome_is_read_as_it_was_written(said: str) -> None:
    contact = Contact("mx.example.org", "192.0.2.1", 25, TLS, said, said)
    text = codec.outcome_json(Delivered(Reply(250, (said,)), contact, dsn_passed=True))
    read = codec.outcome_of(json.loads(text))
    assert isinstance(read, Delivered)
    assert (read.reply.lines, read.contact.greeting, read.contact.ehlo) == ((said,), said, said)
    assert read.dsn_passed


def test_the_tls_of_a_contact_is_told_field_by_field() -> None:
    text = codec.outcome_json(Delivered(Reply(250, ("Ok",)), Contact("mx", "192.0.2.1", 25, TLS)))
    assert json.loads(text)["contact"]["tls"] == {
        "level": "dane",
        "version": "TLSv1.3",
        "cipher": "AES",
        "group": None,
        "resumed": True,
        "verified_by": "dane",
        "ocsp": "none",
        "ocsp_requested": False,
        "resumption": 1,
    }
