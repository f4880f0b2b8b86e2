"""Tests against real mail and DNS servers: Exim, Postfix, NSD and unbound."""
