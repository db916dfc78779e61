"""Reads the collection page by page, and single documents by id.

Reading by skip and limit, or by ``$gt`` over mixed types of ``_id``, silently loses documents, and one cursor over the
whole collection has to start again when it is lost. Here a page is one command with one reply, and the next page begins
after its last ``_id``: a failover costs one page.

A snapshot under writes contains every document that existed all the time exactly once, because an ``_id`` never
changes. A document that was inserted or deleted during the read may be in it or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pymongo.database import Database

from product_sync.conversion.document import decode
from product_sync.conversion.elements import Documents
from product_sync.conversion.ids import possible_ids, source_key
from product_sync.conversion.ids import source_id as source_id_of
from product_sync.conversion.page import PageConverter
from product_sync.runtime import prefetch
from product_sync.runtime.backoff import RetryPolicy
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.schema.changes import ChangePosition
from product_sync.schema.records import IdType, SourceBatch, SourceId
from product_sync.schema.row_schema import ID_TYPE, RowSchema
from product_sync.schema.scope import EVERYTHING, Everything, Ids, KeyRange, ReadScope
from product_sync.sources.mongodb import key_segments, paging
from product_sync.sources.mongodb.changes import MongoChanges
from product_sync.sources.mongodb.collection import Query, SourceCollection
from product_sync.sources.mongodb.expressions import ID_ONLY, MappedDocuments, sample
from product_sync.sources.mongodb.id_match import IdMatch
from product_sync.sources.mongodb.key_segments import WHOLE, Segment

#: Ids in one ``$in``: far below the limit of 48 MB for a message, and answered quickly.
_IDS_AT_ONCE = 1_000
#: ObjectIds in one ``$in``. They are built without an object per id and take about 230 kB.
_OBJECT_IDS_AT_ONCE = 10_000
#: Products of a page if the scope names them. A text id may be that of several ``_id``s.
_NAMED_AT_ONCE = 500
#: Documents of a sample.
_SAMPLED = 100
_RETRY = RetryPolicy()


class MongoSource:
    """`product_sync.schema.ports.Source` for a MongoDB collection, which the row schema names. `snapshot` reads the
    documents of ``scope``.

    A page has at most ``page_rows`` documents and ``page_bytes`` bytes of BSON, or one document that is larger. Memory
    is bounded by two replies of the server, 16 MiB each at most, and one page. Each command is retried as ``retry``
    says.
    """

    def __init__(
        self,
        database: Database[dict[str, Any]],
        row_schema: RowSchema,
        *,
        page_rows: int = 20_000,
        page_bytes: int = 8 * 1024 * 1024,
        retry: RetryPolicy = _RETRY,
        timing: Timing = SYSTEM_TIMING,
        scope: ReadScope = EVERYTHING,
        changes: MongoChanges | None = None,
    ) -> None:
        self._scope = scope
        self._collection = SourceCollection(database, row_schema, retry=retry, timing=timing)
        self._mapped = MappedDocuments(self._collection, row_schema)
        self._row_schema = row_schema
        self._changes = changes or MongoChanges(database, row_schema.collection, retry=retry, timing=timing)
        self._page_rows = page_rows
        self._page_bytes = page_bytes
        self._converter = PageConverter(row_schema)

    def snapshot(self) -> Generator[SourceBatch, None, None]:
        """See `Source.snapshot`.

        Raises `SourceReadError` also if the collection was replaced during the read (``$out``, drop and import): the
        pages would come from two catalogues, or from an incomplete one.
        """
        self._collection.require_readable()
        match self._scope:
            case Everything():
                yield from self._all_pages([WHOLE])
            case KeyRange():
                has_collation = self._collection.has_collation()
                yield from self._all_pages(key_segments.segments(self._scope, has_collation=has_collation))
            case Ids():
                yield from self._named_pages(self._scope)
        self._collection.confirm_unchanged()

    def _all_pages(self, segments: Iterable[Segment]) -> Iterator[SourceBatch]:
        for documents in prefetch.prefetched(chain.from_iterable(map(self._replies, segments))):
            for page in documents.pages(self._page_bytes):
                yield self._converter.batch(page)

    def _named_pages(self, scope: Ids) -> Iterator[SourceBatch]:
        for texts in _chunks(scope.texts, _NAMED_AT_ONCE):
            yield self.fetch([source_id for text in texts for source_id in possible_ids(text)])
        for others in _chunks(scope.others, _NAMED_AT_ONCE):
            yield self.fetch(others)

    def estimated_count(self) -> int:
        """See `Source.estimated_count`; with documents that the filter leaves out. 0 for a missing collection."""
        count = self._collection.estimated_count()
        return count // self._scope.of if isinstance(self._scope, KeyRange) else count

    def whole_count(self) -> tuple[int, bool]:
        return self._collection.whole_count()

    def scan_note(self) -> str:
        """A sentence if every read of the whole source costs much because no index serves the filter; else empty."""
        return self._collection.scan_note()

    def sample(self) -> list[bytes]:
        is_limited = not isinstance(self._scope, Everything)
        return [] if is_limited else sample(self._collection, self._row_schema, _SAMPLED)

    def sample_ids(self, count: int) -> list[str]:
        self._collection.confirm_found()
        found = (source_id_of(decode(document)["_id"]) for document in self._collection.sample_ids(count))
        return [each.text for each in found if each]

    def count(self) -> int:
        """How many documents match the filter now. Raises the same errors as `snapshot`."""
        self._collection.confirm_unchanged()
        return self._collection.count()

    def fetch(self, ids: Sequence[SourceId]) -> SourceBatch:
        """See `Source.fetch`. A document that can no longer be converted is among the rejects."""
        if not ids or any(source_id.type != IdType.OBJECT_ID for source_id in ids):
            return self._converter.batch(Documents.joined(self.documents(ids)))
        self._collection.confirm_found()
        batches: list[SourceBatch] = []
        for chunk in _chunks(ids, _OBJECT_IDS_AT_ONCE):
            query = paging.any_object_id(pa.array([source_id.text for source_id in chunk], pa.string()))
            documents = self._mapped.current(query, len(chunk))
            if len(documents) < len(chunk):
                # Some were deleted, or all are too large for one reply.
                documents = Documents.joined(self.documents(chunk))
            batches += [self._converter.batch(page) for page in documents.pages(self._page_bytes)]
        return _joined(batches) if batches else self._converter.batch(Documents.joined([]))

    def documents(self, ids: Sequence[SourceId]) -> list[bytes]:
        """The documents of `fetch` as BSON with their mapped fields."""
        return [document for document, _ in self._by_id(ids, self._mapped.all_current)]

    def document(self, bson_id: Any) -> bytes | None:
        """As `documents`, the one with exactly this ``_id``, of any type."""
        self._collection.confirm_unchanged()
        wanted = source_key(bson_id)
        for document in self._mapped.all_current({"_id": {"$eq": bson_id}}):
            if source_key(decode(paging.only_id(document))["_id"]) == wanted:
                return document
        return None

    def existing(self, ids: Sequence[SourceId]) -> set[SourceId]:
        """See `Source.existing`. Returns the ids as they were requested."""
        self._collection.confirm_found()
        found: set[SourceId] = set()
        for chunk in _chunks(ids, _IDS_AT_ONCE):
            requested = {paging.id_document(source_id): source_id for source_id in chunk}
            documents = self._collection.current(paging.any_of(requested), ID_ONLY, len(chunk))
            found |= {requested[document] for document in documents if document in requested}
        # Looks up the remaining ids one by one: an integer may be stored in another width.
        remaining = [source_id for source_id in ids if source_id not in found]
        ids_only = partial(self._collection.all_current, projection=ID_ONLY)
        return found | {match for _, matches in self._by_id(remaining, ids_only) for match in matches}

    def all_exist(self, ids: pa.Table) -> bool:
        """See `Source.all_exist`. Counts in the ``_id`` index, for ObjectIds only: their text has one ``_id``."""
        if pc.unique(ids[ID_TYPE]).to_pylist() != [IdType.OBJECT_ID]:
            return not ids.num_rows
        texts = ids["id"].combine_chunks()
        chunks = _chunks(texts, _OBJECT_IDS_AT_ONCE)
        return all(self._collection.count_ids(paging.any_object_id(chunk)) == len(chunk) for chunk in chunks)

    def change_feed(self) -> MongoChanges:
        return self._changes

    def read_after(self, position: ChangePosition) -> None:
        """See `Source.read_after`. Raises `ChangesUnavailable` if the member that is read lags far behind."""
        self._collection.read_after(position.time)

    def _replies(self, segment: Segment) -> Iterator[Documents]:
        last, rows = None, self._page_rows
        while documents := self._page(segment, last, rows):
            yield documents
            last = paging.only_id(documents[len(documents) - 1])
            # For a moment a reply of 16 MiB exists four times, so fewer wide documents are requested.
            rows = max(1, min(self._page_rows, self._page_bytes * len(documents) // documents.size))

    def _page(self, segment: Segment, last: bytes | None, rows: int) -> Documents:
        """At most ``rows`` documents of ``segment`` after ``last``, in the order of ``_id``; empty at the end."""
        if last is None:
            return self._mapped.page(segment.query({}), rows)
        queries = paging.following(last)
        for query in queries[:1] if segment.is_one_type else queries:
            if documents := self._mapped.page(segment.query(query), rows):
                break
        return documents

    def _by_id(
        self, ids: Sequence[SourceId], read: Callable[[Query], list[bytes]]
    ) -> list[tuple[bytes, list[SourceId]]]:
        """The documents that exist now, each with the requested ids that it has."""
        self._collection.confirm_found()
        found: list[tuple[bytes, list[SourceId]]] = []
        for chunk in _chunks(ids, _IDS_AT_ONCE):
            requested = IdMatch(chunk)
            query = paging.any_of(map(paging.id_document, chunk))
            documents = read(query)
            matched = [(document, matches) for document in documents if (matches := requested.matching(document))]
            found += matched
            if len(matched) < len(chunk):
                # A dropped collection gives the same reply as one in which these products were deleted.
                self._collection.confirm_unchanged()
        return found


def _chunks(ids: Any, size: int) -> Iterator[Any]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _joined(batches: Sequence[SourceBatch]) -> SourceBatch:
    rows = pa.concat_batches([batch.rows for batch in batches])
    rejects = tuple(reject for batch in batches for reject in batch.rejects)
    absent = sum((Counter(batch.absent) for batch in batches), Counter[str]())
    return SourceBatch(rows, rejects, sum(batch.documents for batch in batches), absent)
