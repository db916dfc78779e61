"""``python -m product_sync_torture.distributed``: kills each process in each phase. Exits with 1 on a violation."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from product_sync_tests.object_store import S3Server
from product_sync_tests.workers import redis
from product_sync_torture.distributed.campaign import KILLS, SHARDS, Round, Surroundings, play
from product_sync_torture.surroundings import finish, markdown, say, servers, temporary_folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="product_sync_torture.distributed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=len(KILLS), help="number of rounds; each plays the next kill")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first round of each kill")
    parser.add_argument("--only", default="", help="only kills whose name contains this")
    parser.add_argument("--report", type=Path, help="where to write the report, as Markdown")
    arguments = parser.parse_args()
    chosen = [kill for kill in KILLS if arguments.only in kill.name]
    if not chosen:
        parser.error(f"no kill has a name with {arguments.only!r} in it")
    rounds: list[Round] = []
    with temporary_folder() as folder, servers() as started, redis(folder) as redis_url:
        store = S3Server(Path(tempfile.mkdtemp(prefix="s3_", dir=folder)))
        store.start()
        try:
            for number in range(arguments.rounds):
                kill, seed = chosen[number % len(chosen)], arguments.seed + number // len(chosen)
                played = play(Surroundings(started, store, redis_url), kill, seed)
                rounds.append(played)
                say(
                    f"{number + 1}/{arguments.rounds} {kill.name}, seed {seed}: {played.ending}, {played.seconds:.0f} s"
                )
                for violation in played.violations:
                    say(f"  {violation}")
        finally:
            store.stop()
    finish(_report(rounds), arguments.report)
    return int(any(played.violations for played in rounds))


def _report(rounds: Sequence[Round]) -> str:
    bad = sum(bool(played.violations) for played in rounds)
    body = [
        f"{len(rounds)} rounds, {bad} of them with a violation. Each is a run in {SHARDS} shards on machines that",
        "share nothing but the databases, an S3 server and, with Celery, a Redis. One process is killed in a phase, or",
        "the run is terminated. Then the next run starts.",
        "",
        "| executor and victim, phase | rounds | how the run ended | steps begun again | **violations** |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(played.kill for played in rounds):
        same = [played for played in rounds if played.kill == name]
        endings = ", ".join(f"{ending} {times}" for ending, times in Counter(one.ending for one in same).items())
        bad = sum(bool(one.violations) for one in same)
        body.append(f"| {name} | {len(same)} | {endings} | {sum(one.again for one in same)} | {bad} |")
    found = [f"- `--only {one.kill!r} --seed {one.seed}`: {text}" for one in rounds for text in one.violations]
    return markdown("Distributed runs", "product_sync_torture.distributed", body, found)


if __name__ == "__main__":
    sys.exit(main())
