"""How a handshake is begun, and whether it is begun once more in another way after it failed: pure.

    session offered   the server                 then, on a new connection
    ----------------  -------------------------  -----------------------------------------------
    yes               refuses or confuses it     a full handshake
    yes               resets, or is silent       a full handshake with a small hello
    no                resets, or is silent       the same with a small hello, if this one was large
    no                anything else              nothing: TLS failed

The large hello carries a post-quantum key share (X25519MLKEM768) and takes two TCP segments, which some
middleboxes drop. Nothing is repeated twice, and no policy is relaxed: clear text is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Hello:
    """`large`: with the post-quantum share. `resume`: a session may be offered.

    `shrunk`: the same hello but large has just failed here, so that success means: the size was it.
    """

    large: bool = True
    resume: bool = True
    shrunk: bool = False


def after(tried: Hello, *, offered: bool, lost: bool, may_shrink: bool) -> Hello | None:
    """The table above. `lost`: reset or silent; `may_shrink`: a small hello is allowed."""
    if offered:
        return replace(tried, resume=False, large=tried.large and not (lost and may_shrink))
    if lost and tried.large and may_shrink:
        return Hello(large=False, resume=False, shrunk=True)
    return None
