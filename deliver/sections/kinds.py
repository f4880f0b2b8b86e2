"""What a table is, and what a text in one must be: words are keys of `deliver.configuration.texts.KINDS`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MINUTE = 60
HOUR = 3600
DAY = 86400

FilePath = Annotated[str, Meta(extra={"kind": "path"})]
SecretFile = Annotated[str, Meta(extra={"kind": "secret file"})]  # or `credential:NAME` of systemd
DatabaseUrl = Annotated[str, Meta(extra={"kind": "database url"})]
HintsUrl = Annotated[str, Meta(extra={"kind": "hints url"})]  # or "memory"
HostName = Annotated[str, Meta(extra={"kind": "host name"})]
Date = Annotated[str, Meta(extra={"kind": "date"})]  # "2026-12-31"
NamePattern = Annotated[str, Meta(extra={"kind": "pattern"})]
Endpoint = Annotated[str, Meta(extra={"kind": "endpoint"})]  # "host", "host:port", "[address]:port"
AddressEndpoint = Annotated[str, Meta(extra={"kind": "address endpoint"})]  # no names
LocalEndpoint = Annotated[str, Meta(extra={"kind": "local endpoint"})]  # the same, or "unix:path"
ListenEndpoint = Annotated[str, Meta(extra={"kind": "listen endpoint"})]  # port required, 0 picks a free one
Network = Annotated[str, Meta(extra={"kind": "network"})]
Ipv4Address = Annotated[str, Meta(extra={"kind": "ipv4 address"})]
Ipv6Address = Annotated[str, Meta(extra={"kind": "ipv6 address"})]
CipherList = Annotated[str, Meta(extra={"kind": "cipher list"})]
GroupList = Annotated[str, Meta(extra={"kind": "group list"})]
OctalMode = Annotated[str, Meta(extra={"kind": "file mode"})]
Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are errors."""
