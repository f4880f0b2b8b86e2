"""Tests, and the miniature mail Internet that they share with the demonstration."""
