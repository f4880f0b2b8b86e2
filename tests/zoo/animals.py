"""All zones and animals of the zoo, and the tree that they grow on: root, two top-level domains, many zones."""

from __future__ import annotations

from tests.zoo.animal import Animal
from tests.zoo.denial import Nsec3
from tests.zoo.keys import P256, RSASHA256, split
from tests.zoo.population import algorithms, aliases, delegations, denials, false_denials, mail, signatures
from tests.zoo.signer import ZonePlan

_GROUPS = (algorithms, signatures, denials, false_denials, delegations, aliases, mail)

ROOT = ZonePlan(".", (), split(RSASHA256))
TOP = (
    ZonePlan("test.", (), split(P256)),
    ZonePlan("optout.", (), split(RSASHA256), denial=Nsec3(opt_out=True)),
)
ZONES: tuple[ZonePlan, ...] = (ROOT, *TOP, *(zone for group in _GROUPS for zone in group.GROUP.zones))
ANIMALS: tuple[Animal, ...] = tuple(
    dict.fromkeys(animal for group in _GROUPS for animal in group.GROUP.animals)
)
