"""The user that the agent runs as, and what that user may do, by the permissions of files.

Whoever asks may be somebody else, such as root, so trying it out would tell nothing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

import msgspec


class Account(msgspec.Struct, frozen=True):
    """`groups` are those of the running agent, `members` those that the user is in by now."""

    name: str
    uid: int
    groups: frozenset[int]
    members: frozenset[int]

    def may(self, status: os.stat_result, wanted: int) -> bool:
        """Whether the file may be used; `wanted` is like os.R_OK | os.W_OK."""
        if self.uid == 0:
            return True
        if self.uid == status.st_uid:
            granted = status.st_mode >> 6
        elif status.st_gid in self.groups:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & wanted == wanted


def agent_account(process: int | None, data: Path | None) -> Account:
    """The user of the running agent, or else whose the data are, or else who asks. Blocks."""
    if process is not None:
        with contextlib.suppress(OSError, ValueError):
            return _of_process(process)
    if data is not None and data.exists():
        return account_of(data.stat().st_uid)
    return account_of(os.geteuid())


def account_of(uid: int) -> Account:
    """A user of this machine; one that has no name is in no group."""
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), uid, frozenset(), frozenset())
    groups = frozenset(os.getgrouplist(known.pw_name, known.pw_gid))
    return Account(known.pw_name, uid, groups, groups)


def _of_process(process: int) -> Account:
    """Source: proc_pid_status(5); the second of the ids is the effective one."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process}/status").read_text("utf-8", "replace").splitlines()
        if ":" in line
    )
    user = account_of(int(fields["Uid"].split()[1]))
    groups = {int(fields["Gid"].split()[1]), *map(int, fields["Groups"].split())}
    return Account(user.name, user.uid, frozenset(groups), user.members)
