"""Who we say we are: the name in EHLO, in our banner and in Received."""

from __future__ import annotations

import os

from deliver.errors import ConfigurationError, UsageError
from deliver.message import domain_name


def host_name(configured: str, node: str | None = None) -> str:
    """The configured name, else the machine's, which gets `.localdomain` where it has no domain.

    Nothing is looked up: a dead resolver must not delay the start (RFC 5321 4.1.1.1 wants a name that
    resolves, so an administrator should set `delivery.helo`). Raises ConfigurationError.
    """
    if configured:
        return configured
    name = node if node is not None else os.uname().nodename
    if "." not in name:
        name = f"{name}.localdomain"
    try:
        return domain_name(name)
    except UsageError as error:
        raise ConfigurationError(
            f"taking our name in EHLO from this machine's name {name!r}", error.happened, "set delivery.helo"
        ) from None
