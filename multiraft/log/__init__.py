"""The durable Raft log of all groups of a node: one LMDB environment, one writer, one sync for everything that is queued.

- ``schema``: names, limits, settings and values; ``directory``: the directory and its superblock, as files
- ``environment``: the small face of LMDB; nothing else here imports it but to name its errors
- ``accounting``, ``entries``, ``index`` (compiled): what lies where, and how much of each batch is needed; ``lookup`` asks
  it, ``moving`` tells it what compaction did
- ``carrying`` (compiled): runs copied byte by byte; ``compaction``: what to delete and what to copy first
- ``loading``: from a directory to a sound index; ``reads``: runs read back; ``store``: the whole (``LmdbLogStore``)
- ``memory``: the same without a disk, for tests; ``inspect``: looking into a log that nobody has open

It decides nothing about Raft: which entries may be cut, what is committed and who votes is said to it, and only held against
what it was told before. Its invariants stand in ``index`` and ``store``; the bytes in ``docs/formats.md``.
"""
