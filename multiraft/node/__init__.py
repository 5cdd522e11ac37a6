"""Ring 3: a node. The turn, which joins raft, log, links and state machines, and the asynchronous shell around it.

Start reading at ``turn`` (what happens, in which order), then ``node`` (what it is fed with) and ``store`` (what users see).
Nothing below this ring knows that there is a loop, and nothing here knows a rule of Raft.
"""
