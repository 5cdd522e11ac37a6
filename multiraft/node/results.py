"""What a user's machine answered, as it travels from the leader's node to the one that forwarded the command.

Plain functions over bytes: msgpack of the result itself; of several commands, of a pair each: whether it is a result, and the
result or the refusal as bytes (``refusals``).
"""

from __future__ import annotations

from typing import Any

import msgpack

from multiraft.errors import PeerProtocolError
from multiraft.node.refusals import decode_refusal, encode_refusal


def encode_results(value: Any, several: bool) -> bytes:
    """What a user's machine answered to one command, or to several of which each may have failed by itself."""
    if not several:
        return msgpack.packb(value)
    return msgpack.packb(
        [
            [False, encode_refusal(one)] if isinstance(one, BaseException) else [True, one]
            for one in value
        ]
    )


def decode_results(body: bytes, several: bool) -> Any:
    """The answer again; of several, a list of answers and errors. Raises PeerProtocolError where the body is none."""
    try:
        value = msgpack.unpackb(body, strict_map_key=False, use_list=True)
        if not several:
            return value
        return [one if good else decode_refusal(one) for good, one in value]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PeerProtocolError(f"a result that cannot be read: {error}") from error
