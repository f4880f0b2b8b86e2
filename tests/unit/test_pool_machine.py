"""The pool under any order of events: nobody gets a session that another one has, none is forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing
from hypothesis import given, strategies as st

from deliver.pool import SessionPool
from deliver.settings import Duration, Pool
from events.catalogue import Event
from tests.unit.test_pool import Line

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("new"), st.sampled_from("ab")),
        st.tuples(st.just("take"), st.sampled_from("ab")),
        st.tuples(st.just("put"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 1.0, 5.0, 30.0])),
        st.tuples(st.just("speak"), st.integers(0, 5)),
        st.tuples(st.just("cancelled take"), st.sampled_from("ab")),
    ),
    max_size=25,
)


@given(STEPS)
def test_every_session_has_one_owner_and_one_end(steps: list[tuple[str, object]]) -> None:
    async def main() -> None:
        told: list[Event] = []

        async def tell(events: Sequence[Event]) -> None:
            told.extend(events)

        limits = Pool(idle=Duration(10), max_age=Duration(40), max_sessions=2)
        made: list[Line] = []
        held: list[Line] = []
        async with SessionPool(limits, tell).open() as pool:
            for step, what in steps:
                if step == "new":
                    made.append(Line(str(what)))
                    held.append(made[-1])
                elif step == "take":
                    taken = await pool.take(str(what))
                    if taken is not None:
                        assert isinstance(taken, Line)
                        assert taken.terms == what
                        assert taken not in held
                        assert taken.ended is None
                        assert taken.usable
                        assert taken.listeners == 0
                        held.append(taken)
                elif step == "cancelled take":
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        taken = await pool.take(str(what))
                        if taken is not None:
                            assert isinstance(taken, Line)
                            held.append(taken)
                elif step == "put" and held:
                    line = held[int(str(what)) % len(held)]
                    if pool.put(line):
                        held.remove(line)
                elif step == "speak" and made:
                    made[int(str(what)) % len(made)].speak()
                elif step == "wait":
                    await trio.sleep(float(str(what)))
                assert pool.count <= 2
                for line in held:
                    assert line.ended is None, "closed under its owner"
        for line in made:
            assert (line.ended is None) is (line in held)
            assert line.listeners == 0
        ended = [line for line in made if line.ended is not None]
        assert len(told) == len(ended)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
