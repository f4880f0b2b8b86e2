"""kill -9 at any moment: what was reported as committed is there, and the shard opens again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from sqlalchemy import select

from deliver.queue.schema import message, recipient
from deliver.queue.shard import open_shard
from tests.unit.queue.values import NOW

ROOT = Path(__file__).parents[2]

CHILD = """
import sys
from pathlib import Path
import trio
from deliver.queue import store
from deliver.queue.content import InlineContent
from deliver.queue.shard import open_shard
from tests.unit.queue import values
from tests.unit.queue.values import NOW, envelope

async def accept(shard, name):
    writer = shard.writer(name, inline_limit=1000, max_size=10**6)
    await writer.write(b"x" * (500 if name[-1] in "02468" else 5000))
    content = await writer.finish()
    await shard.sql.write(lambda conn: store.accept(conn, envelope(name), content, (), NOW))
    print(name, flush=True)

async def claim(shard):
    while True:
        await shard.sql.write(
            lambda conn: values.claim(conn, limit=2, lease=100, per_domain=10**6), durable=False
        )

async def main():
    async with open_shard(Path(sys.argv[1]), 0, NOW) as shard, trio.open_nursery() as nursery:
        nursery.start_soon(claim, shard)
        number = 0
        while True:
            async with trio.open_nursery() as wave:
                for number in range(number, number + 10):
                    wave.start_soon(accept, shard, f"m{number}")
            number += 1

trio.run(main)
"""


def reported_until_killed(directory: Path, after: int) -> set[str]:
    """Ids that the child said were committed; it is killed while it works, after the first `after` of them."""
    command = [sys.executable, "-c", CHILD, str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        reported = [child.stdout.readline() for _ in range(after)]
        child.send_signal(signal.SIGKILL)
        reported += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return {line.strip() for line in reported if line.endswith("\n")}


@pytest.mark.parametrize("after", [1, 7, 40, 150])
async def test_what_was_committed_survives_kill_nine(tmp_path, after):
    reported = await trio.to_thread.run_sync(reported_until_killed, tmp_path / "queue", after)
    assert len(reported) >= after
    async with open_shard(tmp_path / "queue", 0, NOW) as shard:
        rows = await shard.sql.read(lambda conn: conn.execute(select(message)).all())
        states = await shard.sql.read(lambda conn: conn.execute(select(recipient.c.state)).scalars().all())
        assert reported <= {row.id for row in rows}
        assert set(states) == {"queued"}
        for row in rows:
            assert (row.content is None) == (row.spool_name is not None)
            if row.spool_name:
                assert (shard.spool / row.spool_name).stat().st_size == 5000
        named = {row.spool_name for row in rows if row.spool_name}
        present = {path.name for path in shard.spool.iterdir()} if shard.spool.exists() else set()
        assert present - {"lost"} == named  # there is what was not confirmed yet
