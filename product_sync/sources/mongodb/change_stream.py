"""A change stream that can stay open on the server from one reading to the next.

It takes plain commands. The driver's own ``watch`` opens a stream again by itself after an error, also on another
server; here only `changes` decides at which token it may go on. And the server searches its oplog from the token to the
end before it replies, so opening a stream needs a time limit of its own.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import pymongo
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

#: Only the keys, so that the event of a document of 15 MB arrives.
_PIPELINE: Final = [{"$project": {"operationType": 1, "documentKey._id": 1, "clusterTime": 1}}]
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
#: Milliseconds that the server waits for an event at the end of the stream. Its default is a second.
_AWAIT_MS: Final = 1
#: Seconds that the end of a stream may take. Without it, the server ends the stream after ten minutes.
_CLOSE_S: Final = 2.0


class ChangeStream:
    """An open change stream of the collection. ``events`` are the first ones after the token ``after``, or after the
    present; with none the stream is at its end. It goes on at ``token``.

    ``within_s`` limits the opening instead of the connection's time limit. Raises driver errors.
    """

    def __init__(
        self, database: Database[Any], name: str, after: str = "", *, max_events: int = 1, within_s: float | None = None
    ) -> None:
        self._database = database
        self._name = name
        # The server goes on with a cursor only in the session that has opened it.
        self._session = database.client.start_session(causal_consistency=False)
        stage = {"resumeAfter": RawBSONDocument(bytes.fromhex(after))} if after else {}
        command = {
            "aggregate": name, "pipeline": [{"$changeStream": stage}, *_PIPELINE], "cursor": {"batchSize": max_events},
            "readConcern": {"level": "majority"},
        }  # fmt: skip
        with pymongo.timeout(within_s):
            self.events = self._batch(command, "firstBatch")

    def is_still_at_end(self) -> bool:
        """Ask whether nothing has happened since. ``token`` moves on."""
        command = {"getMore": Int64(self._cursor), "collection": self._name, "batchSize": 1, "maxTimeMS": _AWAIT_MS}
        return not self._batch(command, "nextBatch") and self._cursor != 0

    def close(self) -> None:
        """End it here and on the server."""
        if self._cursor:
            with suppress(PyMongoError), pymongo.timeout(_CLOSE_S):
                self._database.command(
                    {"killCursors": self._name, "cursors": [Int64(self._cursor)]}, session=self._session
                )
        self._session.end_session()

    def _batch(self, command: dict[str, Any], batch: str) -> list[RawBSONDocument]:
        self._cursor = 0  # after an error, the server ends it by itself
        try:
            reply = self._database.command(command, session=self._session, codec_options=_RAW)["cursor"]
        except PyMongoError:
            self._session.end_session()  # else the server keeps it for half an hour
            raise
        self._cursor = int(reply["id"])
        self.token = str(reply["postBatchResumeToken"].raw.hex())
        return list(reply[batch])
