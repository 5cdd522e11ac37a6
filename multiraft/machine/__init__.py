"""Ring 2: state machines. The built-in ordered key-value store of all shards of a node, and the hosting of users' own machines.

Memtables are applied on the loop, in C; what may block runs on workers that the node gives. It never decides what is committed,
and knows no log, no link and no other node.
"""
