"""Reads documents whose expressions the server evaluates, also if an expression fails on some of them.

MongoDB ends a command at the first document on which an expression fails, and does not say which one it is. One bad
price would stop the sync. But ``explain`` says how many documents came before it. So the documents of a failed command
are read by their ids, up to the first failing one, that one alone, and so on. A failing document arrives with the
server's messages in place of the values (`document.with_failures`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Final

from pymongo.errors import OperationFailure

from product_sync.conversion.document import expressions, projection, with_failures
from product_sync.conversion.elements import Documents, document_of, elements
from product_sync.errors import SourceReadError
from product_sync.schema.row_schema import RowSchema
from product_sync.sources.mongodb import paging
from product_sync.sources.mongodb.collection import Query, SourceCollection
from product_sync.sources.mongodb.errors import server_message

ID_ONLY: Final = {"_id": 1}
_WHOLE: Final = {"_id": 1, "document": "$$ROOT"}
#: Ids in one command, if a page is read by its ids.
_AT_ONCE: Final = 500
#: Bytes of documents after which a page that is read by its ids ends.
_ENOUGH_BYTES: Final = 8 * 1024 * 1024

#: Reads the documents of a query with the fields of a projection.
_Read = Callable[[Query, Query], Sequence[bytes] | Documents]


class MappedDocuments:
    """Documents with the fields and expressions of a mapping. The methods are those of `SourceCollection`."""

    def __init__(self, collection: SourceCollection, row_schema: RowSchema, fields: Query | None = None) -> None:
        """``fields`` takes the place of the mapped fields."""
        self._collection = collection
        self._expressions = expressions(row_schema)
        self._projection = projection(row_schema) if fields is None else {**fields, **self._expressions}

    def page(self, query: Query, rows: int) -> Documents:
        read = partial(self._collection.page, rows=rows)
        try:
            return read(query, self._projection)
        except SourceReadError as error:
            self._require_evaluation_error(error)
        while ids := _ids(read(query, ID_ONLY)):
            documents: list[bytes] = []
            size = 0
            for wanted, found in self._parts(read, ids):
                part = found if isinstance(found, Documents) else Documents.joined(found)
                if size + part.size >= _ENOUGH_BYTES:
                    if not documents:
                        return part
                    break  # The next page reads this part again.
                documents += part
                size += part.size
                if documents and len(part) < wanted:
                    break  # The reply may have been cut at 16 MiB. The next page continues here.
            if documents:
                return Documents.joined(documents)
        return Documents.joined([])

    def current(self, query: Query, rows: int) -> Documents:
        try:
            return self._collection.current(query, self._projection, rows)
        except SourceReadError as error:
            self._require_evaluation_error(error)
            return Documents.joined(self._one_by_one(query))

    def all_current(self, query: Query) -> list[bytes]:
        try:
            return self._collection.all_current(query, self._projection)
        except SourceReadError as error:
            self._require_evaluation_error(error)
            return self._one_by_one(query)

    def _one_by_one(self, query: Query) -> list[bytes]:
        read = self._collection.all_current
        return list(chain.from_iterable(found for _, found in self._parts(read, _ids(read(query, ID_ONLY)))))

    def _require_evaluation_error(self, error: SourceReadError) -> None:
        """Raise ``error`` if it cannot come from an expression. If in doubt, the next command without expressions fails
        too and raises its own error."""
        if not self._expressions or not isinstance(error.__cause__, OperationFailure):
            raise error

    def _parts(self, read: _Read, ids: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes] | Documents]]:
        """The documents with these ids in order, in parts. For each part, how many ids it has and what was found."""
        if len(ids) == 1:
            yield 1, self._single(read, ids[0])
        for start in range(0, len(ids) if len(ids) > 1 else 0, _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            try:
                yield len(part), read(paging.any_of(part), self._projection)
                continue
            except SourceReadError as error:
                self._require_evaluation_error(error)
            # Not in the handler: the error holds what its frames hold, such as the ids of this part.
            for smaller in self._cut(part):
                yield from self._parts(read, smaller)

    def _cut(self, ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """The ids before the first document on which an expression fails, that one, and the others. If a document has
        changed meanwhile, they are cut at another place, and still become smaller."""
        good = self._collection.evaluated(paging.any_of(ids), self._projection)
        if good < len(ids):
            return iter((ids[:good], ids[good : good + 1], ids[good + 1 :]))
        # No expression fails, but the server cannot send what comes out: it is larger than a document may be.
        middle = len(ids) // 2
        return iter((ids[:middle], ids[middle:]))

    def _single(self, read: _Read, bson_id: bytes) -> list[bytes]:
        """The document with this id, or none. The expressions are added one by one, so that each failure is named. No
        reply is kept while the next one is read: the document may have 16 MB."""
        by_id = paging.any_of([bson_id])
        kept = {name: field for name, field in self._projection.items() if name not in self._expressions}
        failures = dict[str, str]()
        for name, expression in self._expressions.items():
            try:
                read(by_id, {**kept, name: expression})
                kept[name] = expression
            except SourceReadError as error:
                self._require_evaluation_error(error)
                failures[name] = server_message(error.__cause__)
        try:
            documents = list(read(by_id, kept))
        except SourceReadError as error:
            self._require_evaluation_error(error)
            if len(failures) == len(self._expressions):
                raise
            return self._single(read, bson_id)  # the document has changed meanwhile
        return [with_failures(document, failures) if failures else document for document in documents]


def sample(collection: SourceCollection, row_schema: RowSchema, rows: int) -> list[bytes]:
    """Some whole documents, each with the values of the expressions as further fields."""
    if not row_schema.expressions:
        return list(collection.page({}, {}, rows))
    return [_whole(document) for document in MappedDocuments(collection, row_schema, _WHOLE).page({}, rows)]


def _whole(raw: bytes) -> bytes:
    """A document that was read as `_WHOLE`."""
    _, document, *_ = elements(raw)
    view = memoryview(raw)
    return document_of(view[document.start + 4 : document.end - 1], view[document.end : -1])


def _ids(documents: Sequence[bytes] | Documents) -> list[bytes]:
    return [paging.only_id(document) for document in documents]
