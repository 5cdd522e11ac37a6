"""Writing to the tree: flushes, shard records, installs and drops. Plain functions for the state worker, which may block.

Each writes one transaction: keys, applied index, membership, descriptor and sessions of a shard together, or nothing. A
flush is void unless the tree stands exactly where the memtable began (the record's count of flushes says so): what was
queued before a snapshot was installed changes nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from multiraft.errors import InvariantViolation, NoSpace
from multiraft.machine.descriptors import (
    ShardDescriptor,
    ShardRecord,
    decode_record,
    encode_record,
    record_key,
)
from multiraft.machine.memtable import Memtable
from multiraft.machine.pages import Walk
from multiraft.machine.tree import Transaction, Tree, pages_of

CHUNK_RECORDS = 256
CHUNK_BYTES = 256 * 1024
SLACK_PAGES = 64


def flush_memtable(
    tree: Tree, memtable: Memtable, record: ShardRecord, valid: Callable[[], bool]
) -> bool:
    """Bring a frozen memtable and its shard's record into the tree. False where that was void."""
    memtable.sort()
    require_room(tree, memtable.bytes, memtable.count + 1)

    def job(transaction: Transaction) -> bool:
        stored = read_record(tree, transaction, record.group)
        if not valid() or stored is None or stored.flushes + 1 != record.flushes:
            return False
        if stored.applied_index > record.applied_index:
            raise InvariantViolation(
                f"a flush would lower the applied index of shard {record.group}"
            )
        for start, end, endless in memtable.ranges():
            delete_range(tree, transaction, start, None if endless else end)
        cursor = transaction.cursor(tree.data)
        walk = Walk(memtable)
        puts, deletes = walk.chunk(CHUNK_RECORDS, CHUNK_BYTES)
        while puts or deletes:
            cursor.putmulti(puts)
            for key in deletes:
                transaction.delete(key, db=tree.data)
            puts, deletes = walk.chunk(CHUNK_RECORDS, CHUNK_BYTES)
        put_record(tree, transaction, record)
        return True

    return bool(tree.write(job))


def write_records(tree: Tree, records: Sequence[ShardRecord]) -> None:
    """Records of shards that begin. One that the tree knows already is left alone: it has applied more."""
    require_room(tree, 1024 * len(records), len(records))

    def job(transaction: Transaction) -> None:
        for record in records:
            if read_record(tree, transaction, record.group) is None:
                put_record(tree, transaction, record)

    tree.write(job)


def replace_shard(
    tree: Tree,
    record: ShardRecord,
    chunks: Callable[[], Iterable[list[tuple[bytes, bytes]]]],
    size: int,
) -> None:
    """Put a snapshot in the place of all that a shard has in the tree, in one transaction."""
    require_room(tree, 2 * size, 0)

    def job(transaction: Transaction) -> None:
        stored = read_record(tree, transaction, record.group)
        if stored is not None:
            if stored.applied_index >= record.applied_index:
                raise InvariantViolation(f"an older snapshot would replace shard {record.group}")
            delete_descriptor_range(tree, transaction, stored.descriptor)
        delete_descriptor_range(tree, transaction, record.descriptor)
        cursor = transaction.cursor(tree.data)
        for chunk in chunks():
            cursor.putmulti(chunk)
        put_record(tree, transaction, record)

    tree.write(job)


def drop_shard(tree: Tree, group: int, keep_data: bool) -> None:
    """Remove a shard's record, and its keys unless another shard has taken them over."""

    def job(transaction: Transaction) -> None:
        stored = read_record(tree, transaction, group)
        if stored is not None:
            if not keep_data:
                delete_descriptor_range(tree, transaction, stored.descriptor)
            transaction.delete(record_key(group), db=tree.shards)

    tree.write(job)


# -- parts --------------------------------------------------------------------------------------------------------------


def read_record(tree: Tree, transaction: Transaction, group: int) -> ShardRecord | None:
    """A shard's record, checked; None where the tree has none."""
    key = record_key(group)
    data = transaction.get(key, None, tree.shards)
    return None if data is None else decode_record(key, data)


def put_record(tree: Tree, transaction: Transaction, record: ShardRecord) -> None:
    transaction.put(record_key(record.group), encode_record(record), db=tree.shards)


def delete_descriptor_range(
    tree: Tree, transaction: Transaction, descriptor: ShardDescriptor
) -> None:
    delete_range(tree, transaction, descriptor.start, descriptor.end or None)


def delete_range(tree: Tree, transaction: Transaction, start: bytes, end: bytes | None) -> None:
    """Delete [start, end), or everything from ``start`` on."""
    cursor = transaction.cursor(tree.data)
    placed = cursor.set_range(start) if start else cursor.first()
    while placed and (end is None or cursor.key() < end):
        cursor.delete()
        # Deleting moves on to the next record, or off the tree.
        placed = bool(cursor.key())


def require_room(tree: Tree, payload_bytes: int, records: int) -> None:
    """Raise NoSpace unless a transaction that writes that much surely finds room. Nothing happened then.

    Each record may make LMDB copy its leaf and a page above; no transaction copies more pages than the tree has.
    """
    with tree.reading() as transaction:
        present = pages_of(transaction, tree.data) + pages_of(transaction, tree.shards)
    pages = min(2 * records, present) + SLACK_PAGES
    if not tree.make_room(pages * tree.page_bytes + 2 * payload_bytes):
        raise NoSpace(f"the disk of {tree.path} has no room for a flush")
