"""Says what to do about each reason of the quarantine.

The command line prints these sentences. A test compares them with those of ``docs/quarantine.md``, which also says what
each reason means.
"""

from collections.abc import Mapping

from product_sync.schema.records import Reason

ADVICE: Mapping[Reason, str] = {
    Reason.UNSUPPORTED_ID: "give the product another id, or change a uuid or integer column to text",
    Reason.DUPLICATE_ID: "delete or rename one of them; both entries leave",
    Reason.MISSING_FIELD: "fill it, or give it a default or required: false in the mapping",
    Reason.EXPRESSION_FAILED: "correct the document, or let the expression handle it: $convert has onError and onNull",
    Reason.WRONG_TYPE: "correct the document, or map another field",
    Reason.NOT_JSON: "correct the document, or map only its other fields",
    Reason.NOT_EXACT: "correct it, or give the column more decimal places or another type, such as text or timestamptz."
    " It is never rounded",
    Reason.OUT_OF_RANGE: "correct it, or make the column wider",
    Reason.NOT_FINITE: "correct it",
    Reason.NUL_CHARACTER: "remove it",
    Reason.INVALID_UTF8: "write it again with the right encoding",
    Reason.TOO_LONG: "shorten it, or make the column wider",
    Reason.NOT_IN_ENUM: "correct it, or add the label to the enum type of the column",
    Reason.INVALID_BSON: "a driver wrote damaged BSON: write the document again",
    Reason.REPEATED_FIELD: "write the document again, with the field once",
    Reason.REFUSED_BY_DATABASE: "correct the document, or the constraint",
    Reason.SUPPRESSED_BY_DATABASE: "find out why the trigger drops the row",
}
