"""How the parts of a spool door come together: beside the queue's owner, or in its process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deliver.message import MessageId
from deliver.net.clock import Clock
from deliver.queue.intake import OUR_HEADER, QueueIntake
from deliver.queue.shard import Shard
from deliver.settings import Settings
from deliver.spool.door import SpoolDoor
from deliver.spool.taking import Intake


def open_spool(
    settings: Settings,
    queue: QueueIntake,
    shard: Shard,
    new_id: Callable[[], MessageId],
    clock: Clock,
    hostname: str,
    *,
    once: bool = False,
    part: int = 0,
) -> SpoolDoor:
    """The door of `spool.directories` in the process that owns the shard; of several only the first has one.

    What was taken is on record in one shard: another one's owner could take it again.
    """
    intake = Intake(
        sql=shard.sql,
        writer=lambda message_id: shard.writer(
            message_id,
            inline_limit=queue.inline_limit,
            max_size=settings.relay.max_message_size + OUR_HEADER,
        ),
        space=queue.check_space,
        append=queue.append,
        accepted=queue.accepted,
        new_id=new_id,
        clock=clock,
        hostname=hostname,
        max_size=settings.relay.max_message_size,
        max_hops=settings.relay.max_hops,
        skip_domains=settings.spool.skip_domains,
    )
    return door(settings, intake, once=once, directories=settings.spool.directories if part == 0 else ())


def door(settings: Settings, intake: Intake, *, once: bool, directories: Sequence[str]) -> SpoolDoor:
    """The door to these directories with an intake of the caller's."""
    return SpoolDoor(
        [settings.path(each) for each in directories],
        intake,
        interval=settings.spool.interval,
        remember=settings.send.remember,
        once=once,
    )
