"""Answers of a user's machine, as they travel: plain values only, the same for whoever asks from wherever.

A call may be answered on the node that applied the command or on another, which forwarded it. So that both get the same,
every answer is what msgpack makes of it: None, bool, int of 64 bits, float, bytes, str, list (a tuple becomes one) and dict.
Nothing here knows of groups or links.
"""

from __future__ import annotations

from typing import Any

import msgpack

from multiraft.errors import CommandError, InvalidResult

RESULT_BYTES_MAX = 1024 * 1024
MESSAGE_CHARS_MAX = 4096
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def plain_result(value: Any) -> Any:
    """What every caller gets of a result; an InvalidResult to give instead where it cannot travel."""
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if kind is int and _INT_MIN <= value <= _INT_MAX:
        return value
    if kind is bytes and len(value) <= RESULT_BYTES_MAX:
        return value
    try:
        packed = msgpack.packb(value)
        if len(packed) > RESULT_BYTES_MAX:
            return InvalidResult(
                f"the command was applied, but its result has {len(packed)} bytes; the limit is {RESULT_BYTES_MAX}"
            )
        return unpack_result(packed)
    except (TypeError, ValueError, OverflowError, msgpack.UnpackException) as error:
        return InvalidResult(
            f"the command was applied, but its result ({kind.__name__}) is no plain value: {error}"
        )


def unpack_result(packed: bytes) -> Any:
    """The value again. Raises ValueError, TypeError or UnpackException for bytes that are none."""
    return msgpack.unpackb(packed, strict_map_key=False, use_list=True)


def plain_error(error: CommandError) -> CommandError:
    """What every caller gets of an answer that is an error: its words, without the state that they came from."""
    return CommandError(str(error)[:MESSAGE_CHARS_MAX])
