"""The parts of `python -m bench relay`: work, injector, sink, the relays under measurement, accounting."""
