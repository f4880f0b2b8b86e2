"""Settings from a TOML file and `-o KEY=VALUE`: read, checked, refused with key, line and remedy.

reader        which file, which overrides; puts the parts below together
lines         which line of the file a key stands on
values        unknown keys, types, units, names, addresses: one key at a time
combinations  keys that are unsafe or impossible together
files         what the settings point at: trust store, trust anchors, secrets
problem       how a problem reads; InvalidSettings carries all that were found
show          the effective settings as TOML, secrets masked
"""

from __future__ import annotations

from deliver.configuration.files import read_secret
from deliver.configuration.problem import InvalidSettings
from deliver.configuration.reader import Configuration, load, read

__all__ = ["Configuration", "InvalidSettings", "load", "read", "read_secret"]
