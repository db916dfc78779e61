"""The stored position: it never goes back, never runs ahead of the work behind it, and never survives damage unseen."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from product_sync.errors import ChangesLost, ChangesUnavailable
from product_sync.schema.changes import ChangePosition, ClusterTime
from product_sync.schema.records import IdType, SourceId
from product_sync.state import change_position
from product_sync.state.change_position import (
    CHANGES,
    MAX_UNSETTLED,
    StoredPosition,
    Unsettled,
    UnsettledReason,
    advance,
    lose_position,
    read_last_proof,
    read_lost,
    read_position,
    record_full_proof,
    record_proof_alone,
)
from product_sync.state.mirror import mirror_of
from product_sync.state.store import StateFolder
from product_sync_tests.state.test_contract import damage

NOW = datetime(2030, 1, 1, tzinfo=UTC)
A, B = SourceId(IdType.STRING, 'a"\n'), SourceId(IdType.OTHER, "CAFfaWQA")
LOST = ChangesLost("The oplog is too short.", reason="history_lost", hint="Make it longer.")


@pytest.fixture
def folder(root: Path) -> StateFolder:
    return StateFolder(root, "key")


def at(second: int, *, collection: str = "uuid", token: str = "") -> ChangePosition:
    return ChangePosition(token or f"token{second}", ClusterTime(second, 1), collection)


def unsettled(*ids: SourceId, since: int = 1) -> dict[SourceId, Unsettled]:
    return {each: Unsettled(ClusterTime(since, 0), UnsettledReason.IN_FLIGHT) for each in ids}


def prove(folder: StateFolder, position: ChangePosition, *ids: SourceId, run_id: str = "full") -> bool:
    return record_full_proof(folder, position, run_id=run_id, at=NOW, unsettled=unsettled(*ids))


def stored(folder: StateFolder) -> StoredPosition:
    found = read_position(folder)
    assert found is not None
    return found


def test_what_was_stored_is_read_again(folder: StateFolder) -> None:
    assert read_position(folder) is None
    assert prove(folder, at(10), A, B)
    found = stored(folder)
    assert found.position == at(10)
    assert (found.proof.run_id, found.proof.at, found.proof.time) == ("full", NOW, ClusterTime(10, 1))
    assert found.unsettled == unsettled(A, B)


def test_a_pass_moves_on_and_never_back(folder: StateFolder) -> None:
    prove(folder, at(10), A)
    before = stored(folder)
    assert advance(folder, before, at(20), {})
    assert stored(folder) == StoredPosition(at(20), before.proof, {})
    assert advance(folder, before, at(19), unsettled(B))
    assert stored(folder) == StoredPosition(at(20), before.proof, unsettled(B))


def test_a_pass_goes_on_within_one_time_as_in_a_long_transaction(folder: StateFolder) -> None:
    prove(folder, at(10))
    assert advance(folder, stored(folder), at(10, token="later"), {})
    assert stored(folder).position.token == "later"


def test_of_two_passes_at_once_the_unsettled_products_of_both_stay(folder: StateFolder) -> None:
    prove(folder, at(10))
    before = stored(folder)
    assert advance(folder, before, at(20), unsettled(A))
    assert advance(folder, before, at(21), unsettled(B))
    assert stored(folder).unsettled == unsettled(A, B)
    assert advance(folder, before, at(15), {})
    assert stored(folder).position == at(21)


def test_a_pass_that_stands_on_an_older_full_proof_stores_nothing(folder: StateFolder) -> None:
    prove(folder, at(10))
    before = stored(folder)
    prove(folder, at(20), A, run_id="newer")
    assert not advance(folder, before, at(30), {})
    assert stored(folder).unsettled == unsettled(A)


def test_a_full_run_that_began_before_the_passes_renews_the_proof_and_keeps_their_position(folder: StateFolder) -> None:
    prove(folder, at(10))
    advance(folder, stored(folder), at(40), unsettled(A))
    assert prove(folder, at(20), B, run_id="newer")
    found = stored(folder)
    assert (found.position, found.proof.run_id, found.unsettled) == (at(40), "newer", unsettled(A, B))


def test_an_older_full_run_that_ends_last_changes_nothing(folder: StateFolder) -> None:
    prove(folder, at(20), run_id="newer")
    assert not prove(folder, at(10), run_id="older")
    assert stored(folder).proof.run_id == "newer"


def test_a_position_of_another_collection_is_replaced(folder: StateFolder) -> None:
    prove(folder, at(50), A)
    assert prove(folder, at(20, collection="other"))
    assert stored(folder).position == at(20, collection="other")
    assert stored(folder).unsettled == {}


def test_a_loss_is_reported_once_and_ends_with_the_next_full_run(folder: StateFolder) -> None:
    prove(folder, at(10))
    before = stored(folder)
    for _ in range(2):
        lose_position(folder, before, LOST)
    assert read_position(folder) is None
    lost = read_lost(folder)
    assert lost is not None
    assert (lost.reason, lost.message, lost.hint) == ("history_lost", LOST.message, LOST.hint)
    assert read_last_proof(folder) == before.proof
    assert not advance(folder, before, at(20), {})
    assert prove(folder, at(5), run_id="next")
    assert read_lost(folder) is None


def test_a_loss_does_not_take_away_the_position_of_a_newer_full_run(folder: StateFolder) -> None:
    prove(folder, at(10))
    before = stored(folder)
    prove(folder, at(20), run_id="newer")
    lose_position(folder, before, LOST)
    assert stored(folder).position == at(20)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"position": {"token": "t"}}', b'{"lost": {"proof": 5}}']
)
def test_a_damaged_file_is_no_position_and_said(
    folder: StateFolder, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    prove(folder, at(10))
    damage(folder, CHANGES, content)
    with caplog.at_level(logging.WARNING):
        assert read_position(folder) is None
    assert "full sync" in caplog.text
    assert prove(folder, at(5))


def test_more_unsettled_products_than_a_pass_should_look_at_take_a_full_run(folder: StateFolder) -> None:
    many = [SourceId(IdType.STRING, str(number)) for number in range(MAX_UNSETTLED + 1)]
    prove(folder, at(10), *many[1:])
    assert len(stored(folder).unsettled) == MAX_UNSETTLED
    prove(folder, at(20), *many)
    lost = read_lost(folder)
    assert lost is not None
    assert lost.reason == "too_many_unsettled"


def test_a_full_run_of_a_source_that_cannot_be_followed_is_a_proof_without_a_position(folder: StateFolder) -> None:
    alone = ChangesUnavailable("It is a standalone server.")
    record_proof_alone(folder, alone, run_id="full", at=NOW)
    proof, lost = read_last_proof(folder), read_lost(folder)
    assert proof is not None
    assert lost is not None
    assert (proof.run_id, lost.reason, lost.message) == ("full", "unavailable", alone.message)
    prove(folder, at(10))
    record_proof_alone(folder, alone, run_id="later", at=NOW)
    assert stored(folder).position == at(10)


_ADVANCE_FOR_EVER = """
import itertools, os
from product_sync.schema.changes import ChangePosition, ClusterTime
from product_sync.settings import state_root
from product_sync.state.change_position import advance, read_position
from product_sync.state.store import StateFolder
folder = StateFolder(state_root(os.environ), "key")
for second in itertools.count(11):
    stored = read_position(folder)
    advance(folder, stored, ChangePosition("token" * 1000, ClusterTime(second, 1), "uuid"), {})
    print(second, flush=True)
"""


def test_a_kill_leaves_a_whole_position_that_is_not_older_than_the_last_one_stored(folder: StateFolder) -> None:
    prove(folder, at(10))
    mirror = mirror_of(folder.root)
    env = {**os.environ, "PRODUCT_SYNC_STATE": mirror.objects.url if mirror else str(folder.root)}
    with subprocess.Popen(
        [sys.executable, "-c", _ADVANCE_FOR_EVER], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
        last = int(process.stdout.read().split()[-1])
    assert last <= stored(folder).position.time.seconds <= last + 1
    assert change_position.read_lost(folder) is None
