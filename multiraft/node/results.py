"""What a user's machine answered, as it travels from the leader's node to the one that forwarded the command.

A result is a plain value (``machine/plain``) in msgpack. Of several commands each may have failed by itself, so there each
stands with a mark: (true, result) or (false, refusal). Plain functions over bytes; what comes from a peer is not believed.
"""

from __future__ import annotations

from typing import Any

import msgpack

from multiraft.errors import PeerProtocolError
from multiraft.node.refusals import decode_refusal, encode_refusal


def encode_results(value: Any, several: bool) -> bytes:
    """The answer to one command, or the list of those to several."""
    if not several:
        return msgpack.packb(value)
    return msgpack.packb(
        [
            [False, encode_refusal(one)] if isinstance(one, BaseException) else [True, one]
            for one in value
        ]
    )


def decode_results(body: bytes, count: int) -> Any:
    """The answer again, or with ``count`` above 0 a list of as many, with an exception where one failed.

    Raises PeerProtocolError where the body is none.
    """
    try:
        value = msgpack.unpackb(body, strict_map_key=False, use_list=True)
        if count == 0:
            return value
        if not isinstance(value, list) or len(value) != count:
            raise ValueError(f"no list of {count} results")
        return [one if good else decode_refusal(one) for good, one in value]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PeerProtocolError(f"a result that cannot be read: {error!r:.200}") from error
