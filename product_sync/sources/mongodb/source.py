"""Reads the collection page by page, and single documents by id.

Reading by skip and limit, or by ``$gt`` on a mixed ``_id``, loses documents in silence, and one cursor over the whole
collection has to start again when it is lost. Here a page is one command with one reply, and the next page
begins after the last ``_id`` of it: a failover costs one page.

What a snapshot sees under writes: every document that was there all the time, exactly once, because an ``_id``
never changes. A document that came or went meanwhile is seen or not.

Read concerns (``docs/decisions/0005``): the snapshot reads what a majority holds, so that it never shows a value
that a failover takes back. ``fetch`` and ``existing`` read what the primary holds *now*: where the majority lags
behind, its value is older than the one that an event has already carried to the target.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.collection import Collection
from pymongo.cursor import RawBatchCursor
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from product_sync.conversion.document import decode, projection
from product_sync.conversion.ids import source_key, to_bson
from product_sync.conversion.page import Documents, PageConverter
from product_sync.errors import SourceReadError
from product_sync.runtime import prefetch
from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.schema.records import IdType, SourceBatch, SourceId
from product_sync.schema.row_schema import ID_TYPE, RowSchema
from product_sync.sources.mongodb import paging, raw_reply
from product_sync.sources.mongodb.collection import BY_ID, collection_uuid, require_readable
from product_sync.sources.mongodb.errors import failed_in_mid_read, is_transient
from product_sync.sources.mongodb.id_match import IdMatch

_Document = dict[str, Any]
_Result = TypeVar("_Result")
_ID_INDEX = list(BY_ID.items())
#: Ids in one ``$in``: far below the 48 MB that a message may have, and soon answered.
_IDS_AT_ONCE = 1_000
#: ObjectIds in one question, which are put together without an object for each: some 230 kB.
_OBJECT_IDS_AT_ONCE = 10_000
_RETRY = RetryPolicy()
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


class MongoSource:
    """`product_sync.schema.ports.Source` on a MongoDB collection; the collection's name is in the layout.

    A page has at most ``page_rows`` documents and, unless one document alone is larger, ``page_bytes`` bytes of
    BSON. Memory is bounded by two replies of the server, 16 MiB each at most, and one page. A read that fails for a
    transient reason is tried again as ``retry`` says, every page anew.
    """

    def __init__(
        self,
        database: Database[_Document],
        row_schema: RowSchema,
        *,
        page_rows: int = 20_000,
        page_bytes: int = 8 * 1024 * 1024,
        retry: RetryPolicy = _RETRY,
        timing: Timing = SYSTEM_TIMING,
    ) -> None:
        self._database = database
        self._name = row_schema.collection
        self._page_rows = page_rows
        self._page_bytes = page_bytes
        self._retry = retry
        self._timing = timing
        self._projection = projection(row_schema)
        self._pages = PageConverter(row_schema)
        # The read preference of the URL counts for the snapshot only.
        self._primary: Collection[_Document] = database.get_collection(
            self._name, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("local")
        )
        self._uuid: object = None

    def snapshot(self) -> Generator[SourceBatch, None, None]:
        """See `Source.snapshot`.

        Raises `SourceReadError` also where the collection was replaced while it was read (``$out``, drop and
        import): the pages would then be of two catalogues, or the second one not yet complete.
        """
        self._uuid = require_readable(self._database, self._name)
        # The server reads the next page while this one is converted, which takes as long.
        for documents in prefetch.prefetched(self._replies()):
            for page in documents.pages(self._page_bytes):
                yield self._pages.batch(page)
        self._confirm_collection()

    def estimated_count(self) -> int:
        """See `Source.estimated_count`. 0 for a collection that does not exist."""
        return self._with_retries(self._primary.estimated_document_count)

    def count(self) -> int:
        """How many documents there are now, counted through the ``_id`` index. Raises as `snapshot`."""
        self._confirm_collection()
        return self._with_retries(partial(self._primary.count_documents, {}, hint=_ID_INDEX))

    def fetch(self, ids: Sequence[SourceId]) -> SourceBatch:
        """See `Source.fetch`. A document that can no longer be converted is among the rejects."""
        if not ids or any(source_id.type != IdType.OBJECT_ID for source_id in ids):
            return self._pages.batch(Documents.joined(self.documents(ids)))
        if self._uuid is None:
            self._confirm_collection()
        batches: list[SourceBatch] = []
        for chunk in (ids[at : at + _OBJECT_IDS_AT_ONCE] for at in range(0, len(ids), _OBJECT_IDS_AT_ONCE)):
            query = paging.any_object_id(pa.array([source_id.text for source_id in chunk], pa.string()))
            documents = self._with_retries(partial(self._answer, query, self._projection, len(chunk)))
            if len(documents) < len(chunk):
                # Some are gone, or all of them are too large for one answer.
                documents = Documents.joined(self.documents(chunk))
            batches += [self._pages.batch(page) for page in documents.pages(self._page_bytes)]
        return _joined(batches) if batches else self._pages.batch(Documents.joined([]))

    def documents(self, ids: Sequence[SourceId]) -> list[bytes]:
        """The documents of `fetch`, as they stand: BSON of their mapped fields."""
        return [document for document, _ in self._by_id(ids, self._projection)]

    def document(self, bson_id: Any) -> bytes | None:
        """The document with this very ``_id``, of whatever type, as in `documents`."""
        self._confirm_collection()
        query = {"_id": {"$eq": bson_id}}
        read = partial(self._primary.find_raw_batches, query, self._projection, hint=_ID_INDEX)
        wanted = source_key(bson_id)
        for document in self._with_retries(lambda: _documents(read())):
            if source_key(decode(paging.only_id(document))["_id"]) == wanted:
                return document
        return None

    def existing(self, ids: Sequence[SourceId]) -> set[SourceId]:
        """See `Source.existing`. Ids are returned as they were asked for."""
        if self._uuid is None:
            self._confirm_collection()
        found: set[SourceId] = set()
        pending = iter(ids)
        while chunk := list(islice(pending, _IDS_AT_ONCE)):
            found |= self._with_retries(partial(self._existing_under_this_id, chunk))
        # What was not seen at a glance is looked for with care: an integer may be stored in another width.
        missed = [source_id for source_id in ids if source_id not in found]
        return found | {asked for _, matches in self._by_id(missed, {"_id": 1}) for asked in matches}

    def all_exist(self, ids: pa.Table) -> bool:
        """See `Source.all_exist`: counted through the ``_id`` index. Only of ObjectIds, where a text has one id."""
        kinds = pc.unique(ids[ID_TYPE]).to_pylist()
        if kinds != [IdType.OBJECT_ID]:
            return not ids.num_rows
        texts = ids["id"].combine_chunks()
        chunks = [texts[start : start + _OBJECT_IDS_AT_ONCE] for start in range(0, len(texts), _OBJECT_IDS_AT_ONCE)]
        return all(self._with_retries(partial(self._count, chunk)) == len(chunk) for chunk in chunks)

    def _count(self, texts: pa.Array) -> int:
        answer = self._database.command(
            {
                "count": self._name,
                "query": paging.any_object_id(texts),
                "hint": BY_ID,
                "readConcern": {"level": "local"},
            },
            read_preference=ReadPreference.PRIMARY,
        )
        return int(answer["n"])

    def _existing_under_this_id(self, ids: Sequence[SourceId]) -> set[SourceId]:
        """Those of ``ids`` for which a document with this very ``_id``, byte by byte, is in the first answer."""
        wanted = {paging.id_document(source_id): source_id for source_id in ids}
        documents = self._answer(paging.any_of(wanted), {"_id": 1}, len(ids))
        return {wanted[document] for document in documents.each() if document in wanted}

    def _answer(self, query: RawBSONDocument, projection: dict[str, int], ids: int) -> Documents:
        """What the primary has of so many ids now, as far as one answer holds: 16 MiB."""
        answer = self._database.command(
            {
                "find": self._name,
                "filter": query,
                "projection": projection,
                "hint": BY_ID,
                "batchSize": ids,
                "singleBatch": True,
                "readConcern": {"level": "local"},
            },
            read_preference=ReadPreference.PRIMARY,
            codec_options=_RAW,
        )
        return raw_reply.documents(bytes(answer["cursor"].raw))

    def _replies(self) -> Iterator[Documents]:
        last, rows = None, self._page_rows
        while documents := self._with_retries(partial(self._page, last, rows)):
            yield documents
            last = documents[len(documents) - 1]
            # A reply of 16 MiB exists four times for a moment: of wide documents fewer are asked for.
            rows = max(1, min(self._page_rows, self._page_bytes * len(documents) // documents.size))

    def _page(self, last: bytes | None, rows: int) -> Documents:
        """At most ``rows`` documents that follow ``last``, in the order of ``_id``; empty at the end.

        A single batch leaves no cursor open on the server. Without a batch size of its own it would end after 101
        documents. It ends at 16 MiB in any case, so a short page does not mean the end.
        """
        if last is None:
            return self._first_of({}, rows)
        for query in paging.following(last):
            if documents := self._first_of(query, rows):
                break
        return documents

    def _first_of(self, query: Mapping[str, Any], rows: int) -> Documents:
        answer = self._database.command(
            {
                "find": self._name,
                "filter": query,
                "projection": self._projection,
                "sort": BY_ID,
                "hint": BY_ID,
                "limit": rows,
                "batchSize": rows,
                "singleBatch": True,
                "readConcern": {"level": "majority"},
            },
            read_preference=self._database.read_preference,
            codec_options=_RAW,
        )
        return raw_reply.documents(bytes(answer["cursor"].raw))

    def _by_id(self, ids: Sequence[SourceId], projection: dict[str, int]) -> list[tuple[bytes, list[SourceId]]]:
        """The documents that exist now, each with the ids of ``ids`` that it answers to."""
        if self._uuid is None:
            self._confirm_collection()
        found: list[tuple[bytes, list[SourceId]]] = []
        pending = iter(ids)
        while chunk := list(islice(pending, _IDS_AT_ONCE)):
            requested = IdMatch(chunk)
            answers = [
                (document, matches)
                for document in self._with_retries(partial(self._read, chunk, projection))
                if (matches := requested.matching(document))
            ]
            found += answers
            if len(answers) < len(chunk):
                # A collection that was dropped answers like one in which these products were deleted.
                self._confirm_collection()
        return found

    def _read(self, ids: Sequence[SourceId], projection: dict[str, int]) -> list[bytes]:
        values = [to_bson(source_id) for source_id in ids]
        replies = self._primary.find_raw_batches({"_id": {"$in": values}}, projection, hint=_ID_INDEX)
        return _documents(replies)

    def _with_retries(self, read: Callable[[], _Result]) -> _Result:
        """Run ``read`` until it succeeds, fails for good or the time for retries is used up."""
        backoff = Backoff(self._retry, self._timing)
        while True:
            backoff.attempt()
            try:
                return read()
            except PyMongoError as error:
                if not is_transient(error) or not backoff.wait():
                    raise failed_in_mid_read(error, self._database) from error

    def _confirm_collection(self) -> None:
        """Raise unless the collection is still the one that was read from first."""
        current = self._with_retries(partial(collection_uuid, self._database, self._name))
        if self._uuid is None:
            self._uuid = current
        elif current != self._uuid:
            raise SourceReadError(
                f"The collection {self._name!r} was replaced by another of the same name while it was being read.",
                hint="Start the sync again when whatever rebuilds the catalogue has finished.",
            )


def _joined(batches: Sequence[SourceBatch]) -> SourceBatch:
    rows = pa.concat_batches([batch.rows for batch in batches])
    rejects = tuple(reject for batch in batches for reject in batch.rejects)
    return SourceBatch(rows, rejects, sum(batch.documents for batch in batches))


def _documents(replies: RawBatchCursor[_Document]) -> list[bytes]:
    with replies:
        # The driver's annotation says documents; what comes are the bytes of a reply.
        return [document for reply in cast("Iterator[bytes]", replies) for document in paging.split(reply)]
