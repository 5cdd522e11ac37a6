"""Ring 2: links to other nodes. Frames of messages go over one connection a pair of nodes, files over others.

- ``transport`` joins the parts for a node; ``memory`` is the same face without sockets.
- ``connection`` is one connection with its hello (``hello``); ``link`` the rule for which one stands; ``server`` the door.
- ``receive`` (compiled) checks and hands over frames where the kernel wrote them.
- ``bulk``, ``outbox``, ``files``, ``throttle`` carry snapshot files; ``tls`` says whose certificate is whose.

Nothing here knows what is in a message, reads a clock other than the loop's, or keeps anything beyond a restart.
"""
