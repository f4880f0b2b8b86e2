from __future__ import annotations

from deliver.resolve.mx import MxPlan, MxTarget, without_ourselves

PLAN = MxPlan(
    "example", (MxTarget("a.example", 5), MxTarget("us.example", 10), MxTarget("b.example", 10)), True
)


def test_our_own_host_and_everything_not_better_is_dropped() -> None:
    kept = without_ourselves(PLAN, frozenset({"us.example"}))
    assert [target.host for target in kept.targets] == ["a.example"]


def test_being_the_best_exchanger_leaves_nothing() -> None:
    assert without_ourselves(PLAN, frozenset({"a.example"})).targets == ()


def test_a_plan_without_us_is_untouched() -> None:
    assert without_ourselves(PLAN, frozenset({"other.example"})) is PLAN
