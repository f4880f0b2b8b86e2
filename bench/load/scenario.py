"""The work: which messages go where, over what, and what is wrong with some destinations."""

from __future__ import annotations

from dataclasses import dataclass

from bench.load import place


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of work.

    `top`: recipient domains are those of `bench.load.place`; with `hop` all mail goes to the one next hop,
    else by MX. `share`: of the messages asked for: large ones take longer, and the fewer each destination
    gets, the more of them are first ones. `cold`: nothing is known beforehand. `slow` and `deferring`: how
    many of the 200 destinations are so.
    """

    name: str
    what: str
    hop: bool = False
    tls: bool = True
    top: str = "open"
    size: int = 4_000
    share: float = 1.0
    dane: bool = False
    cold: bool = False
    slow: int = 0
    deferring: int = 0

    def sick(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The numbers of the slow and of the deferring domains, spread over all."""
        every = place.DOMAINS // max(1, self.slow, self.deferring)
        slow = tuple(range(3, place.DOMAINS, every))[: self.slow]
        return slow, tuple(range(11, place.DOMAINS, every))[: self.deferring]

    def addresses(self) -> tuple[str, ...]:
        """Where the sink listens."""
        if self.hop:
            return (place.HOP,)
        return tuple(place.exchanger(number) for number in range(place.DOMAINS))

    def awaited(self, first: int, count: int) -> tuple[int, ...]:
        """The messages that have to arrive: all but those to deferring destinations."""
        _, deferring = self.sick()
        return tuple(
            number for number in range(first, first + count) if number % place.DOMAINS not in deferring
        )

    def healthy(self, first: int, count: int) -> tuple[int, ...]:
        """The messages whose latency counts: those to destinations with nothing wrong."""
        slow, _ = self.sick()
        return tuple(number for number in self.awaited(first, count) if number % place.DOMAINS not in slow)


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("plain", "clear text to one next hop, 4 kB", hop=True, tls=False),
        Scenario("starttls", "STARTTLS to one next hop, 4 kB", hop=True),
        Scenario("large", "STARTTLS to one next hop, 100 kB", hop=True, size=100_000, share=0.25),
        Scenario("domains", "STARTTLS to 200 domains by MX, 4 kB"),
        Scenario(
            "dane-cold",
            "DANE to 200 signed domains, nothing known, 4 kB",
            top="dane",
            dane=True,
            cold=True,
            share=1 / 3,
        ),
        Scenario("dane-warm", "DANE to 200 signed domains, known, 4 kB", top="dane", dane=True),
        Scenario(
            "sick",
            "STARTTLS to 200 domains, 5 % slow, 5 % deferring, 4 kB",
            slow=10,
            deferring=10,
            share=1 / 3,
        ),
    )
}
