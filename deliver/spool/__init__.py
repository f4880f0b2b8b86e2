"""Messages that Exim's queuefile transport leaves in a directory, as two files each: `<id>-H` and `<id>-D`.

header      what a -H file says (pure)
directory   finding, locking, removing and setting aside such pairs (blocking file work)
ledger      what was taken, in the transaction that queues it
taking      one pair becomes messages of the queue
door        the loop over the directories
"""
