"""The real servers that tests talk to: how each is configured, started, watched and stopped."""
