"""Shipped for tests, ours and those of users: histories and the judge of them. Nothing else imports it.

The map of the package:

- ``history``: operations, histories, JSON lines; ``recorder``: takes down what a workload does;
- ``model``: how to say what is correct; ``models``: a register, a key-value store, a counter, a list;
- ``linearizability``: the judge. Below it ``problem`` (a part of a history in numbers), ``blocks`` (what stands together),
  ``search`` (is there an order?), ``smallest`` (a failing part made small), ``explain`` (why nothing fits, in a sentence);
- ``picture``: a failing part as a page to look at;
- ``simulation``: one run from one seed, over ``cluster`` (whole nodes in simulated processes), ``nemesis`` (faults), ``workload``
  and ``invariants``; below them ``schedule`` and ``loop`` (time), ``world``, ``network`` and ``links``, ``disk`` and its parts;
- ``corpus``: runs as data; ``attempt``: one, whatever becomes of it; ``crew``: many, in processes; ``replay``: one as a story;
  ``shrinking``: one made small; ``commands``, ``checking`` and ``__main__``: all these from a command line;
- for tests of users: ``plugin`` (fixtures), ``trial`` (a simulated cluster), ``local`` (a real one), ``guard`` (is a machine
  deterministic?).

``docs/testing.md`` has an example.
"""

from __future__ import annotations

from multiraft.testing.history import FAIL as FAIL
from multiraft.testing.history import INFO as INFO
from multiraft.testing.history import OK as OK
from multiraft.testing.history import UNKNOWN as UNKNOWN
from multiraft.testing.history import BadField as BadField
from multiraft.testing.history import History as History
from multiraft.testing.history import HistoryError as HistoryError
from multiraft.testing.history import NoInvocation as NoInvocation
from multiraft.testing.history import NotJson as NotJson
from multiraft.testing.history import Operation as Operation
from multiraft.testing.history import StillOpen as StillOpen
from multiraft.testing.history import TimeWentBack as TimeWentBack
from multiraft.testing.history import UnknownType as UnknownType
from multiraft.testing.linearizability import FailingPart as FailingPart
from multiraft.testing.linearizability import Limits as Limits
from multiraft.testing.linearizability import Placed as Placed
from multiraft.testing.linearizability import Statistics as Statistics
from multiraft.testing.linearizability import Verdict as Verdict
from multiraft.testing.linearizability import check as check
from multiraft.testing.model import BadOperation as BadOperation
from multiraft.testing.model import BaseModel as BaseModel
from multiraft.testing.model import Model as Model
from multiraft.testing.models import MODELS as MODELS
from multiraft.testing.models import Counter as Counter
from multiraft.testing.models import KeyValue as KeyValue
from multiraft.testing.models import ListAppend as ListAppend
from multiraft.testing.models import Register as Register
from multiraft.testing.recorder import Call as Call
from multiraft.testing.recorder import Recorder as Recorder
