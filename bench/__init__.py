"""Measurements: `python -m bench` lists and runs all, `python -m bench NAME` one; each has a `main`."""
