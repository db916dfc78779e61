"""Says what each reason of the quarantine means and what to do about it.

The command line prints these sentences. A test compares them with those of ``docs/quarantine.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from product_sync.schema.records import Reason, Stage


@dataclass(frozen=True, slots=True)
class Advice:
    """``meaning`` says what is wrong with the document, ``action`` what to do."""

    stage: Stage
    meaning: str
    action: str


ADVICE: Mapping[Reason, Advice] = {
    Reason.UNSUPPORTED_ID: Advice(
        Stage.CONVERT,
        "the _id is a double, a date, a document …: only ObjectIds, strings, whole numbers and UUIDs can be ids."
        " A uuid column accepts a text only if it is a canonical UUID, an integer column accepts only whole numbers",
        "give the product another id, or change a uuid or integer column to text",
    ),
    Reason.DUPLICATE_ID: Advice(
        Stage.CONVERT,
        'two documents have _ids of different types and the same text, such as the number 5 and the string "5":'
        " the target has one row for both",
        "delete or rename one of them; both entries leave",
    ),
    Reason.MISSING_FIELD: Advice(
        Stage.CONVERT,
        "a required field is missing or null",
        "fill it, or give it a default or required: false in the mapping",
    ),
    Reason.EXPRESSION_FAILED: Advice(
        Stage.CONVERT,
        "MongoDB could not evaluate the expression of the column for this document; the value is the server's message",
        "correct the document, or let the expression handle it: $convert has onError and onNull",
    ),
    Reason.WRONG_TYPE: Advice(
        Stage.CONVERT,
        "a text where a number belongs, a boolean where a text belongs …; a text is never read as a number."
        " A date column accepts a text only if it is a date such as 2024-03-01."
        " For a dotted path: a value on the way is not a document",
        "correct the document, or map another field",
    ),
    Reason.NOT_JSON: Advice(
        Stage.CONVERT,
        "JSON has no such value: binary data, a regular expression, a BSON timestamp, code, a DBRef, MinKey, MaxKey."
        " ObjectIds, dates and UUIDs are copied as text",
        "correct the document, or map only its other fields",
    ),
    Reason.NOT_EXACT: Advice(
        Stage.CONVERT,
        "the column would lose a part of the value: 2.5 in an integer, 99.999 in a numeric(10,2), blanks at the end of"
        " a char(n), a time of day in a date, a time that the clock of a timestamp's zone shows twice",
        "correct it, or give the column more decimal places or another type, such as text or timestamptz."
        " It is never rounded",
    ),
    Reason.OUT_OF_RANGE: Advice(
        Stage.CONVERT,
        "the number or the date is outside the range of the column",
        "correct it, or make the column wider",
    ),
    Reason.NOT_FINITE: Advice(Stage.CONVERT, "NaN or Infinity", "correct it"),
    Reason.NUL_CHARACTER: Advice(Stage.CONVERT, "the text has a U+0000, which PostgreSQL cannot hold", "remove it"),
    Reason.INVALID_UTF8: Advice(
        Stage.CONVERT, "the text has bytes that are not UTF-8", "write it again with the right encoding"
    ),
    Reason.TOO_LONG: Advice(
        Stage.CONVERT,
        "the text is longer than the varchar or char, or a JSON than 100 million characters. It is never cut",
        "shorten it, or make the column wider",
    ),
    Reason.NOT_IN_ENUM: Advice(
        Stage.CONVERT,
        "the text is not a label of the column's enum type; letter case counts",
        "correct it, or add the label to the enum type of the column",
    ),
    Reason.INVALID_BSON: Advice(
        Stage.CONVERT,
        "the document cannot be decoded at all",
        "a driver wrote damaged BSON: write the document again",
    ),
    Reason.REPEATED_FIELD: Advice(
        Stage.CONVERT,
        "the document has a mapped field twice, and it is unclear which value counts",
        "write the document again, with the field once",
    ),
    Reason.REFUSED_BY_DATABASE: Advice(
        Stage.LOAD,
        "a CHECK constraint, NOT NULL or a trigger of the target refused the row; the value is the server's message."
        " A row that a unique, exclusion or foreign key constraint refuses because of another row is not in quarantine",
        "correct the document, or the constraint",
    ),
    Reason.SUPPRESSED_BY_DATABASE: Advice(
        Stage.LOAD,
        "a trigger of the target dropped the row without an error",
        "find out why the trigger drops the row",
    ),
}
