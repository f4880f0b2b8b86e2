"""Handing a message of `outrider send` over to a running service, through a UNIX socket of the same user.

frames   how both sides put things into octets; pure
client   the calling side: imports next to nothing, since it runs once per message
server   the service's side
"""
