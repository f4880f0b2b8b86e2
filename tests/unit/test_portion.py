"""What a worker gets of the settings, and how settings travel."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.configuration import read
from deliver.portion import packed, portion, unpacked
from deliver.settings import Lmtp, Queue, Relay, Settings, Spool

ROOT = Path(__file__).parents[2]
FILES = sorted([ROOT / "conf" / "outrider.toml", *(ROOT / "conf" / "examples").glob("*.toml")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_settings_travel_unchanged(file: Path) -> None:
    settings = read(file, ()).settings
    assert unpacked(packed(settings)) == settings


def test_what_counts_at_a_time_is_divided_and_spool_directories_are_worker_0s() -> None:
    settings = Settings(
        queue=Queue(workers=50, slow_workers=5),
        relay=Relay(max_connections=500),
        lmtp=Lmtp(listen=("unix:lmtp.sock",), max_connections=99),
        spool=Spool(directories=("/srv/spool",)),
    )
    first, second = (portion(settings, worker, 2) for worker in (0, 1))
    assert (second.queue.workers, second.queue.slow_workers) == (25, 3)
    assert second.relay == settings.relay
    assert (first.spool.directories, second.spool.directories) == (("/srv/spool",), ())
    assert second.lmtp == Lmtp(listen=("unix:lmtp.sock",), max_connections=50)
    assert second.send.handover
    assert second.queue.per_site == settings.queue.per_site  # leased


def test_no_part_is_nothing() -> None:
    assert portion(Settings(queue=Queue(workers=1)), 5, 8).queue.workers == 1
