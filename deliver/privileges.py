"""Giving up root's rights for good, once the ports are bound (`relay.user`)."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from deliver.errors import ConfigurationError


def give_up(user: str, state_dir: Path) -> None:
    """Be `user` with that user's groups from now on; nothing if `user` is empty or who we are already.

    A state directory that is missing is made for that user. Raises ConfigurationError.
    """
    if not user:
        return
    attempted = f"becoming the user {user} (relay.user)"
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(
            attempted, "there is no such user", "make it, or correct relay.user"
        ) from None
    if os.geteuid() == entry.pw_uid == os.getuid():
        return
    if os.geteuid() != 0:
        raise ConfigurationError(attempted, "only root can", "start as root or as that user")
    try:
        if not state_dir.exists():
            state_dir.mkdir(mode=0o700, parents=True)
            os.chown(state_dir, entry.pw_uid, entry.pw_gid)
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:
        raise ConfigurationError(attempted, error.strerror or str(error), "see credentials(7)") from error
    if entry.pw_uid != 0 and 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()):
        raise ConfigurationError(attempted, "rights of root are left", f"take {user} out of root's group")
