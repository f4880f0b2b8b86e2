"""The file of those who may log in: one `name:{SCHEME}value` a line, as Dovecot's passwd-file has it.

    scheme           value                                    serves
    ---------------  ---------------------------------------  ------------------------------
    SCRAM-SHA-256    iterations,salt,StoredKey,ServerKey      every mechanism (RFC 5803)
    ARGON2ID         $argon2id$v=19$m=…,t=…,p=…$salt$hash     PLAIN and LOGIN (RFC 9106)

Fields after a further colon are ignored, as are empty lines and those that begin with #. The password itself
is never there. A name is compared after SASLprep (RFC 4013), and by case. Somebody who is not in the file
costs as much time as somebody who is.
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from deliver.errors import ConfigurationError, UsageError
from deliver.smtp.sasl import MAX_ITERATIONS, MAX_SALT, MIN_ITERATIONS
from deliver.smtp.saslprep import saslprep
from deliver.smtp.saslserver import MAX_NAME, MAX_PASSWORD, ScramKeys, derived_keys

SCHEMES: Final = ("SCRAM-SHA-256", "ARGON2ID")
ITERATIONS = 210_000  # of a new SCRAM entry; about a tenth of a second
SALT = 16  # octets
MAX_FILE = 16 * 1024 * 1024
MAX_MEMORY = 1024 * 1024  # KiB that one Argon2 entry may take

_LINE = re.compile(r"([^:]+):\{([A-Za-z0-9-]+)\}([^:]*)(?::.*)?\Z")
_SCRAM = re.compile(r"([1-9][0-9]{0,9}),([A-Za-z0-9+/=]+),([A-Za-z0-9+/=]+),([A-Za-z0-9+/=]+)\Z")
_ARGON = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,4}),p=([0-9]{1,3})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+\Z"
)


@dataclass(frozen=True, slots=True)
class Argon2Entry:
    """A hash in PHC form."""

    text: str = field(repr=False)


Entry = ScramKeys | Argon2Entry

NOBODY: Final = ScramKeys(bytes(SALT), ITERATIONS, None, bytes(32))


@dataclass(frozen=True, slots=True)
class Passwords:
    """The entries of a file; `pepper` (never shown) makes up the salts of those who are not in it."""

    entries: Mapping[str, Entry] = field(repr=False)
    pepper: bytes = field(repr=False)

    @property
    def scram(self) -> bool:
        """Whether anybody can log in by SCRAM."""
        return any(isinstance(entry, ScramKeys) for entry in self.entries.values())

    def keys_of(self, username: str) -> ScramKeys:
        """The keys of a user; for one who has none made-up ones, always the same, that fit nothing."""
        entry = self.entries.get(username)
        if isinstance(entry, ScramKeys):
            return entry
        salt = hmac.digest(self.pepper, username.encode(), "sha256")[:SALT]
        return ScramKeys(salt, self._usual_iterations, None, bytes(32))

    def check(self, username: str, password: str) -> bool:
        """Whether it is the user's password; takes long, by intent."""
        entry = self.entries.get(username)
        if entry is None:
            _fits(next(iter(self.entries.values()), NOBODY), password)
            return False
        return _fits(entry, password)

    @property
    def _usual_iterations(self) -> int:
        found = (entry.iterations for entry in self.entries.values() if isinstance(entry, ScramKeys))
        return next(found, ITERATIONS)


def parse(text: str, source: str) -> Passwords:
    """The content of a file. Raises ConfigurationError that names the line and shows nothing of it."""
    entries: dict[str, Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, entry = _entry(line)
            if name in entries:
                raise ValueError("the user is there already")
        except ValueError as error:
            raise ConfigurationError(
                f"reading {source}, line {number}", str(error), "make the line with `outrider password NAME`"
            ) from None
        entries[name] = entry
    return Passwords(entries, _pepper(text))


def line_for(username: str, password: str, scheme: str = SCHEMES[0]) -> str:
    """A line for the file, with a new salt. Raises UsageError for a name or password that cannot be used."""
    try:
        name, prepared = saslprep(username), saslprep(password)
    except ValueError as error:
        raise UsageError("making an entry", str(error), "choose another name or password") from None
    if not name or ":" in name or name.startswith("#") or len(name.encode()) > MAX_NAME:
        raise UsageError("making an entry", "a name has 1 to 255 octets and no colon", "choose another name")
    if not 0 < len(prepared.encode()) <= MAX_PASSWORD:
        raise UsageError("making an entry", "the password is empty or too long", "choose another password")
    salt = secrets.token_bytes(SALT)
    if scheme == "ARGON2ID":
        value = _argon(salt).derive_phc_encoded(prepared.encode())
    else:
        keys = derived_keys(prepared, salt, ITERATIONS)
        assert keys.stored is not None
        parts = (b64encode(each).decode() for each in (keys.salt, keys.stored, keys.server))
        value = ",".join((str(keys.iterations), *parts))
    return f"{name}:{{{scheme}}}{value}"


def _entry(line: str) -> tuple[str, Entry]:
    found = _LINE.match(line.rstrip())
    if not found:
        raise ValueError("it is not name:{SCHEME}value")
    name = saslprep(found[1])
    scheme, value = found[2].upper(), found[3]
    if scheme == "SCRAM-SHA-256":
        return name, _scram_entry(value)
    if scheme == "ARGON2ID":
        return name, _argon_entry(value)
    raise ValueError(f"the scheme {scheme[:20]} is not known ({', '.join(SCHEMES)} are)")


def _scram_entry(value: str) -> ScramKeys:
    found = _SCRAM.match(value)
    if not found:
        raise ValueError("it is not iterations,salt,StoredKey,ServerKey")
    salt, stored, server = (b64decode(each, validate=True) for each in found.groups()[1:])
    iterations = int(found[1])
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"it has {iterations} iterations, not {MIN_ITERATIONS} to {MAX_ITERATIONS}")
    if not 0 < len(salt) <= MAX_SALT or len(stored) != 32 or len(server) != 32:
        raise ValueError("its salt or its keys have a wrong length")
    return ScramKeys(salt, iterations, stored, server)


def _argon_entry(value: str) -> Argon2Entry:
    found = _ARGON.match(value)
    if not found:
        raise ValueError("it is no Argon2id hash of version 19 in PHC form")
    if int(found[1]) > MAX_MEMORY:
        raise ValueError(f"it takes more than {MAX_MEMORY} KiB of memory")
    return Argon2Entry(value)


def _fits(entry: Entry, password: str) -> bool:
    try:
        prepared = saslprep(password)
        if isinstance(entry, ScramKeys):
            keys = derived_keys(prepared, entry.salt, entry.iterations)
            assert keys.stored is not None
            return hmac.compare_digest(keys.stored, entry.stored or bytes(32)) and entry.stored is not None
        Argon2id.verify_phc_encoded(prepared.encode(), entry.text)
    except (InvalidKey, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _argon(salt: bytes) -> Argon2id:
    return Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=64 * 1024)  # RFC 9106 4


def _pepper(text: str) -> bytes:
    """Secret as the file is, and the same as long as it is."""
    return sha256(b"outrider made-up salts\0" + text.encode()).digest()
