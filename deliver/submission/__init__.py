"""The sendmail command line for applications: a message from standard input goes to the relay.

    options    what the command line asks for (pure)
    addresses  address lists in header fields (pure)
    letter     the text with what its header lacks, Bcc removed (pure)
    local      where the relay is, and our name, from the settings file
    client     the relay's SMTP, in one go
    command    all of it: `run`

Programs start this hundreds of times: nothing here imports more than the standard library's basics.
"""
