"""Reads documents whose expressions the server evaluates, also if an expression fails on some of them.

MongoDB ends a command at the first document on which an expression fails, and does not say which one it is. One bad
price would stop the sync. But ``explain`` says how many documents came before it. So the documents of a failed command
are read by their ids, a few hundred at once: first ``explain`` finds the failing ones, one after the other, then these
and the others are read. A failing document arrives with the server's messages in place of the values
(`document.with_failures`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from pymongo.errors import OperationFailure

from product_sync.conversion.document import expressions, projection, with_failures
from product_sync.conversion.elements import Documents, document_of, elements
from product_sync.errors import SourceReadError
from product_sync.schema.row_schema import RowSchema
from product_sync.sources.mongodb import paging
from product_sync.sources.mongodb.collection import Query, SourceCollection
from product_sync.sources.mongodb.errors import server_message

ID_ONLY: Final = {"_id": 1}
_ID_AND_SIZE: Final = {"_id": 1, "size": {"$bsonSize": "$$ROOT"}}
_WHOLE: Final = {"_id": 1, "document": "$$ROOT"}
#: Ids in one command, if a page is read by its ids, and bytes of their documents.
_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024

#: Reads the documents of a query with the fields of a projection. A reply ends at 16 MiB, so some may be left out.
_Read = Callable[[Query, Query], list[bytes] | Documents]


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
        while parts := _parts(read(query, _ID_AND_SIZE)):
            documents: list[bytes] = []
            for ids in parts:
                documents += self._by_ids(read, ids)
                if sum(map(len, documents)) >= _BYTES_AT_ONCE:
                    break  # The next page continues here.
            if documents:
                return Documents.joined(documents)
        return Documents.joined([])

    def current(self, query: Query, rows: int) -> Documents:
        try:
            return self._collection.current(query, self._projection, rows)
        except SourceReadError as error:
            self._require_evaluation_error(error)
        return Documents.joined(self._all_by_ids(query))

    def all_current(self, query: Query) -> list[bytes]:
        try:
            return self._collection.all_current(query, self._projection)
        except SourceReadError as error:
            self._require_evaluation_error(error)
        return self._all_by_ids(query)

    def _all_by_ids(self, query: Query) -> list[bytes]:
        read = self._collection.all_current
        return [each for ids in _parts(read(query, _ID_AND_SIZE)) for each in self._by_ids(read, ids)]

    def _require_evaluation_error(self, error: SourceReadError) -> None:
        """Raise ``error`` if it cannot come from an expression. If in doubt, the next command without expressions fails
        too and raises its own error."""
        if not self._expressions or not isinstance(error.__cause__, OperationFailure):
            raise error

    def _by_ids(self, read: _Read, ids: Sequence[bytes]) -> Iterator[bytes]:
        """The documents with these ids that exist, in order."""
        documents = self._together(read, ids)
        for each in ids:
            yield from [documents[each]] if each in documents else self._single(read, each)

    def _together(self, read: _Read, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """The documents with these ids, read with few commands. Not those that have changed meanwhile, or for which a
        reply has no room."""
        try:
            return _found(read, ids, self._projection)
        except SourceReadError as error:
            self._require_evaluation_error(error)
        failures = self._failures(read, ids)
        documents = self._together(read, [each for each in ids if each not in failures]) if failures else {}
        for names in {tuple(messages) for messages in failures.values()}:
            kept = {name: field for name, field in self._projection.items() if name not in names}
            alike = [each for each, messages in failures.items() if tuple(messages) == names]
            try:
                found = _found(read, alike, kept)
            except SourceReadError as error:
                self._require_evaluation_error(error)
            else:
                documents |= {each: with_failures(document, failures[each]) for each, document in found.items()}
        return documents

    def _failures(self, read: _Read, ids: Sequence[bytes]) -> dict[bytes, dict[str, str]]:
        """The ids of documents on which expressions fail, each with the messages by expression. If a document is
        deleted meanwhile, another one is suspected for it; so each is tried alone."""
        failures: dict[bytes, dict[str, str]] = {}
        while ids:
            good = self._collection.evaluated(paging.any_of(ids), {**ID_ONLY, **self._expressions})
            for suspected in ids[good : good + 1]:
                if messages := self._messages(read, suspected, {**ID_ONLY}):
                    failures[suspected] = messages
            ids = ids[good + 1 :]
        return failures

    def _messages(self, read: _Read, bson_id: bytes, kept: dict[str, Any]) -> dict[str, str]:
        """Which expressions fail on one document, and why, if one after the other is added to the fields ``kept``;
        those that do not fail are in ``kept`` then. No reply is kept while the next one is read: the document may have
        16 MB."""
        failures: dict[str, str] = {}
        for name, expression in self._expressions.items():
            try:
                read(paging.any_of([bson_id]), {**kept, name: expression})
                kept[name] = expression
            except SourceReadError as error:
                self._require_evaluation_error(error)
                failures[name] = server_message(error.__cause__)
        return failures

    def _single(self, read: _Read, bson_id: bytes) -> list[bytes]:
        """The document with this id, or none, without the expressions that fail or make it too large for a reply."""
        kept = {name: field for name, field in self._projection.items() if name not in self._expressions}
        failures = self._messages(read, bson_id, kept)
        try:
            documents = list(read(paging.any_of([bson_id]), kept))
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


def _found(read: _Read, ids: Sequence[bytes], fields: Query) -> dict[bytes, bytes]:
    """The documents of one command, by their ids."""
    found = {paging.only_id(document): document for document in read(paging.any_of(ids), fields)}
    return {each: found[each] for each in ids if each in found}


def _parts(ids_and_sizes: list[bytes] | Documents) -> list[list[bytes]]:
    """The ids in parts for one command each. The documents were read as `_ID_AND_SIZE`."""
    parts: list[list[bytes]] = []
    room = 0
    for raw in ids_and_sizes:
        *_, element = elements(raw)
        size = int.from_bytes(raw[element.start : element.end], "little")
        if not parts or size > room or len(parts[-1]) == _AT_ONCE:
            parts.append([])
            room = _BYTES_AT_ONCE
        parts[-1].append(paging.only_id(raw))
        room -= size
    return parts
