"""The DNSSEC zoo: a signed tree of zones with every kind of proof, and every way to break one.

`tree.open_zoo()` builds it; `animals` are the names to ask with what a validator must conclude. `recursion` answers
from it in process; tests/interop/test_zoo.py serves it by real NSD and asks real unbound.
"""
