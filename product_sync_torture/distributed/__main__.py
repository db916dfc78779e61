"""``python -m product_sync_torture.distributed``: kills each process in each phase. Exits with 1 on a violation."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from product_sync_tests.object_store import S3Server
from product_sync_tests.workers import redis
from product_sync_torture.distributed.campaign import KILLS, SHARDS, Round, stage
from product_sync_torture.surroundings import keep, kept, markdown, say, servers, temporary_folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="product_sync_torture.distributed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each kill")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first round of each kill")
    parser.add_argument("--only", default="", help="only kills whose name contains this")
    parser.add_argument("--keep", type=Path, help="file of played rounds, which are not played again")
    parser.add_argument("--report", type=Path, help="where to write the report, as Markdown, after each round")
    arguments = parser.parse_args()
    chosen = [kill for kill in KILLS if arguments.only in kill.name]
    if not chosen:
        parser.error(f"no kill has a name with {arguments.only!r} in it")
    rounds = kept(arguments.keep, Round)
    known = {(played.kill, played.seed) for played in rounds}
    seeds = range(arguments.seed, arguments.seed + arguments.rounds)
    left = [(kill, seed) for seed in seeds for kill in chosen if (kill.name, seed) not in known]
    with temporary_folder() as folder, servers() as started, redis(folder) as redis_url, ExitStack() as stack:
        store = S3Server(Path(tempfile.mkdtemp(prefix="s3_", dir=folder)))
        store.start()
        stack.callback(store.stop)

        def play(executor: str) -> None:
            with stage(started, store, redis_url, executor, Path(tempfile.mkdtemp(dir=folder))) as own:
                for kill, seed in left:
                    if kill.executor == executor:
                        rounds.append(own.play(kill, seed))
                        _show(rounds[-1], len(rounds))
                        keep(arguments.keep, rounds[-1])
                        if arguments.report:
                            arguments.report.write_text(_report(rounds), encoding="utf-8")

        with ThreadPoolExecutor() as pool:
            list(pool.map(play, dict.fromkeys(kill.executor for kill, _ in left)))
    say(_report(rounds))
    return int(any(played.violations for played in rounds))


def _show(played: Round, count: int) -> None:
    missed = f" ({played.missed} missed)" if played.missed else ""
    say(f"{count} {played.kill}, seed {played.seed}: {played.ending}{missed}, {played.seconds:.0f} s")
    for violation in played.violations:
        say(f"  {violation}")


def _report(rounds: Sequence[Round]) -> str:
    bad = sum(bool(one.violations) for one in rounds)
    played = {one.kill for one in rounds}
    unfinished = [] if len(played) == len(KILLS) else [f"**{len(played)} of {len(KILLS)} kinds were played.**", ""]
    average = sum(one.seconds for one in rounds) / len(rounds)
    body = [
        "`docs/guarantees.md` says what this proves.",
        "",
        *unfinished,
        f"{len(rounds)} rounds, {bad} of them with a violation; {average:.0f} s a round. Each is a run in {SHARDS}",
        "shards on machines that share nothing but the databases, an S3 server and, with Celery, a Redis. In a phase",
        "one process is killed or the run terminated; then comes the next run. A kill has missed if its step had",
        "ended.",
        "",
        "| executor: victim, phase | rounds | how the run ended | steps begun again | missed | **violations** |",
        "|---|---|---|---|---|---|",
    ]
    for name in (kill.name for kill in KILLS if kill.name in played):
        same = [one for one in rounds if one.kill == name]
        endings = ", ".join(f"{ending} {times}" for ending, times in Counter(one.ending for one in same).items())
        again, missed, bad = (
            sum(counts) for counts in zip(*((one.again, one.missed, bool(one.violations)) for one in same), strict=True)
        )
        body.append(f"| {name} | {len(same)} | {endings} | {again} | {missed} | {bad} |")
    found = [f"- `--only {one.kill!r} --seed {one.seed}`: {text}" for one in rounds for text in one.violations]
    return markdown("Distributed runs", "product_sync_torture.distributed", body, found)


if __name__ == "__main__":
    sys.exit(main())
