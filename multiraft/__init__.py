"""multiraft: many Raft groups in one process, on one loop, one transport and one log.

Ways in::

    async with multiraft.open("data") as db:                    # one embedded node, durable, no configuration
        await db.put(b"user:1", b"ada")

    node = multiraft.Node(multiraft.Config(node_id=1, ...))      # one node of a cluster, in your own program
    async with node:
        await node.store.put(b"user:1", b"ada")

    with multiraft.sync.open("data") as db: ...                  # the same without a loop, for any number of threads

    group = await node.create_group("hits", Counter)             # your own state machine: docs/machines.md

    $ multiraft serve ...                                        # one node as a process of its own
    async with multiraft.Client(["host:port"]) as client:       # its store, from another program
        await client.put(b"user:1", b"ada")

The map of the package, from the leaves up (``docs/architecture.md`` has the whole):

- ``errors``, ``ids``, ``config``, ``interfaces``: words and seams;
- ``_core``, ``_batch``, ``_frames``, ``_routes``, ``_ticket``, ``records``: bytes and numbers, compiled;
- ``raft``: the algorithm, compiled, without I/O; ``placement``: where keys live;
- ``log``, ``transport``, ``machine``: the disk, the network, the state;
- ``node``: the turn that joins them, and the shell around it;
- ``client``, ``cli``: a cluster from outside.
"""

from __future__ import annotations

from multiraft import sync as sync
from multiraft.client import Client as Client
from multiraft.config import Config as Config
from multiraft.config import TlsConfig as TlsConfig
from multiraft.errors import BatchError as BatchError
from multiraft.errors import Closed as Closed
from multiraft.errors import CommandError as CommandError
from multiraft.errors import ConfigError as ConfigError
from multiraft.errors import DeadlineExceeded as DeadlineExceeded
from multiraft.errors import GroupExists as GroupExists
from multiraft.errors import GroupUnknown as GroupUnknown
from multiraft.errors import InvalidCommand as InvalidCommand
from multiraft.errors import InvalidResult as InvalidResult
from multiraft.errors import MultiRaftError as MultiRaftError
from multiraft.errors import NoSpace as NoSpace
from multiraft.errors import OutcomeUnknown as OutcomeUnknown
from multiraft.errors import Overloaded as Overloaded
from multiraft.errors import PreconditionFailed as PreconditionFailed
from multiraft.errors import Quarantined as Quarantined
from multiraft.errors import Rejected as Rejected
from multiraft.errors import Retryable as Retryable
from multiraft.errors import StorageError as StorageError
from multiraft.errors import TooLarge as TooLarge
from multiraft.interfaces import DiskStateMachine as DiskStateMachine
from multiraft.interfaces import LeadershipEvents as LeadershipEvents
from multiraft.interfaces import StateMachine as StateMachine
from multiraft.node.embedded import open as open
from multiraft.node.groups import Group as Group
from multiraft.node.node import Node as Node
from multiraft.node.operations import Absent as Absent
from multiraft.node.operations import Delete as Delete
from multiraft.node.operations import DeleteRange as DeleteRange
from multiraft.node.operations import Entry as Entry
from multiraft.node.operations import Present as Present
from multiraft.node.operations import Put as Put
from multiraft.node.operations import RevisionIs as RevisionIs
from multiraft.node.operations import ValueIs as ValueIs
from multiraft.node.store import Store as Store

__version__ = "0.1.0.dev0"
