"""Recomputes cost reports from what others counted: `bill.py ACCOUNTS.json`.

Each account has a report, the requests that the S3 server was asked, by identity, and the life of each function's process. Prices
are written out here once more, from AWS's pages for us-east-1 (November 2026). Every line of a report is named below; one that is
not, or that is off by more than 2 %, ends the run with status 1.
"""

import json
import math
import sys

TOLERANCE = 0.02
# Rounding to whole nano-dollars, line by line.
NANO_MIN = 2
# Time from a process's start to its first line, on a busy machine.
START_SECONDS_MAX = 0.02

GB_SECOND = {"x86_64": 0.0000166667, "aarch64": 0.0000133334}
INVOCATION = 0.20 / 1e6
GET = 0.0004 / 1e3
PUT = 0.005 / 1e3
STORED_GB_SECOND = 0.023 / (30 * 24 * 3600)
INTERNET_GB = 0.09
ATHENA_TB = 5.00

READS = {"Get", "Head"}
WRITES = {"Put", "CreateMultipart", "UploadPart", "CompleteMultipart", "AbortMultipart", "Copy"}


def close(ours, theirs):
    return between(ours, theirs, theirs)


def between(ours, least, most):
    return least - margin(least) <= ours <= most + margin(most)


def margin(nano):
    return max(TOLERANCE * abs(nano), NANO_MIN)


class Account:
    def __init__(self, account):
        self.account = account
        self.case = account["case"]
        self.cost = account["report"]["cost"]
        self.lives = {int(pid): tuple(life) for pid, life in account["processes"].items()}
        self.functions = [r for r in account["requests"] if "-function-" in r["identity"]]
        self.coordinator = [r for r in account["requests"] if r["identity"].endswith("-coordinator")]
        assert len(self.functions) + len(self.coordinator) == len(account["requests"]), "somebody else asked"
        self.attempts = account["report"]["attempts"]
        self.failed = account["report"]["attempts_failed"]
        # What an attempt asked for is known where it answered.
        lost = self.failed.get("Crashed", 0) + self.failed.get("Cancelled", 0)
        self.wrote = {self.pid(r) for r in self.functions if r["operation"] in WRITES}
        by_end = sorted(self.lives, key=lambda pid: self.lives[pid][1])
        if self.failed.get("Crashed"):
            # Each fragment's first attempt, and so the first to end, does all its work and then crashes.
            self.lost = set(by_end[: self.failed["Crashed"]])
        else:
            self.lost = set(by_end[len(by_end) - lost :]) if lost else set()
        self.answered = [r for r in self.functions if self.pid(r) not in self.lost]

    @staticmethod
    def pid(request):
        return int(request["identity"].rsplit("-", 1)[1])

    def dollars(self, names, bases=("reported", "metered", "bounded")):
        lines = [line for line in self.cost["lines"] if line["item"] in names and line["basis"] in bases]
        return sum(line["nano_dollars"] for line in lines)

    def quantity(self, name):
        return sum(line["quantity"] for line in self.cost["lines"] if line["item"] == name)

    def gb_seconds(self, pids):
        gb = self.account["memory_mb"] / 1024
        return sum(gb * math.ceil(self.lives[pid][1] - self.lives[pid][0]) / 1e3 for pid in pids)

    def starts(self, count):
        """Nano-dollars that the starts of so many processes may cost more: a process notes itself once its shell runs."""
        gb = self.account["memory_mb"] / 1024
        return 1e9 * GB_SECOND[self.account["architecture"]] * gb * START_SECONDS_MAX * count

    def gb_seconds_at_most(self, pids):
        """The bound of attempts without an answer: until the query's deadline, or the longest start of 3 s, and 1 s of grace."""
        gb, deadline = self.account["memory_mb"] / 1024, self.account["began_ms"] + self.account["timeout_ms"]
        return sum(gb * math.ceil(max(deadline - self.lives[pid][0], 3_000) + 1_000) / 1e3 for pid in pids)

    def coordinator_at_least(self):
        """Nano-dollars that are certain: a busy machine may pause the test before the statement begins and after it ends."""
        return 1e9 * self.coordinator_per_ms() * (self.account["ends_ms"] - self.account["runs_ms"])

    def coordinator_per_ms(self):
        return self.account["coordinator_dollars_an_hour"] / 3600 / 1e3

    def expected(self):
        """Nano-dollars by line, from the server's and the operating system's accounts alone. The coordinator's is the most it may be."""
        per_second = GB_SECOND[self.account["architecture"]]
        count = lambda requests, operations: sum(r["operation"] in operations for r in requests)
        exchange = f"exchange-{self.case}/"
        results = [r for r in self.coordinator if r["operation"] == "Get" and r["key"].startswith(exchange)]
        # A result is read once; a read of it that was sent again is the coordinator's own.
        fetched = {r["key"] for r in results}
        own = [r for r in self.coordinator if r not in results]
        again = len(results) - len(fetched)
        cancelled = self.failed.get("Cancelled", 0)
        ended = [pid for pid in self.lives if not (cancelled and pid in self.lost)]
        over = self.account["over_ms"]
        stored = sum(
            r["bytes"] * (over - self.lives[self.pid(r)][1]) / 1e3 / (1 << 30)
            for r in self.answered
            if r["operation"] == "Put"
        )
        lines = {
            # A cancelled attempt has no answer.
            ("compute", "start_up"): per_second
            * (self.gb_seconds(ended) + self.gb_seconds_at_most(self.lost if cancelled else [])),
            ("invocations",): INVOCATION * len(self.lives),
            ("table_reads",): GET * count(self.answered, READS),
            ("table_lists",): PUT * count(self.answered, {"List"}),
            ("exchange_writes",): PUT * count(self.answered, WRITES),
            ("exchange_reads",): GET * len(fetched),
            ("coordinator_reads",): GET * (count(own, READS) + again),
            ("coordinator_writes",): PUT * count(self.coordinator, WRITES | {"List"}),
            ("exchange_storage",): STORED_GB_SECOND * max(stored, 0),
            ("data_transfer",): INTERNET_GB * sum(r["bytes"] for r in self.coordinator if r["operation"] == "Get") / (1 << 30),
            ("coordinator",): self.coordinator_per_ms() * (over - self.account["began_ms"]),
        }
        return {names: 1e9 * dollars for names, dollars in lines.items()}

    def check(self):
        wrong = []

        def expect(what, ours, theirs, less=0, more=0):
            if not between(ours, theirs - less, theirs + more):
                apart = f", at most {less:.1f} less and {more:.1f} more" if less or more else ""
                wrong.append(f"{what}: the report says {ours}, recomputed {theirs:.1f}{apart}")

        lines = self.expected()
        less = {("coordinator",): lines[("coordinator",)] - self.coordinator_at_least()}
        # Whose time is over, a function or the coordinator, has counted a request that may not have reached the server yet.
        late = {("table_reads",): GET * len(self.lives), ("coordinator_reads",): GET, ("coordinator_writes",): PUT}
        more = {names: 1e9 * dollars for names, dollars in late.items()} if self.case == "time-out" else {}
        if self.case == "time-out":
            # The exchange is cleaned once more when the last attempt has ended. That may be after the report.
            lists = sum(r["operation"] == "List" and r["key"].startswith(f"exchange-{self.case}/") for r in self.coordinator)
            assert lists in (1, 2), f"the exchange was cleaned {lists} times"
            less[("coordinator_writes",)] = 1e9 * PUT * (lists - 1)
        more[("compute", "start_up")] = self.starts(len(self.lives))
        known = {name for names in lines for name in names} | {"logs", "lost_requests", "open_attempts"}
        wrong += [f"a line nobody recomputed: {line}" for line in self.cost["lines"] if line["item"] not in known]
        for names, nano in lines.items():
            expect(" and ".join(names), self.dollars(names), nano, less.get(names, 0), more.get(names, 0))
        at_most = sum(line["nano_dollars"] or 0 for line in self.cost["lines"])
        expect("the sum of all lines", self.cost["at_most"], at_most)
        expect("the total", self.cost["at_most"], sum(lines.values()), sum(less.values()), sum(more.values()))
        expect("attempts", self.attempts, len(self.lives))
        # What nobody knows has no amount, and is there.
        unknown = [line for line in self.cost["lines"] if line["basis"] == "unknown"]
        wrong += [f"an unknown line has an amount: {line}" for line in unknown if line["nano_dollars"] is not None]
        expect("attempts whose requests are lost", self.quantity("lost_requests"), len(self.lost))
        wrong += self.waste()
        wrong += self.athena()
        return wrong

    def waste(self):
        """What each case must show as waste, by the same accounts."""
        waste, per_second = self.cost["waste"], GB_SECOND[self.account["architecture"]]
        by_end = sorted(self.lives, key=lambda pid: self.lives[pid][1])
        def spent(pids, known_requests):
            requests = [r for r in self.functions if self.pid(r) in pids] if known_requests else []
            dollars = per_second * self.gb_seconds(pids) + INVOCATION * len(pids)
            dollars += GET * sum(r["operation"] in READS for r in requests)
            dollars += PUT * sum(r["operation"] in WRITES for r in requests)
            return 1e9 * dollars
        unsure = {}
        expect = {"failed": 0.0, "retried": 0.0, "speculative": 0.0, "cancelled": waste["cancelled"], "hedged": 0.0}
        if self.case in ("retry", "crash"):
            failed = sum(self.failed.values())
            assert failed == len(self.lives) - failed > 0, f"each fragment fails once: {self.failed}"
            expect["failed"], unsure["failed"] = spent(by_end[:failed], self.case == "retry"), self.starts(failed)
        asked, twice = set(), 0
        for r in self.account["requests"]:
            question = (r["identity"], r["key"], r["first"], r["bytes"])
            twice += question in asked and r["operation"] == "Get" and r["bytes"] > 0
            asked.add(question)
        gone = sum(r["refused"] == 499 for r in self.account["requests"])
        assert self.case != "hedge" or twice + gone > 0, "no read was sent again"
        # Of a read that was sent again, both came, or one was given up. So is a read ahead that nobody needed.
        expect["hedged"], unsure["hedged"] = 1e9 * GET * twice, 1e9 * GET * gone
        if self.case in ("cancel", "time-out"):
            gb_seconds = self.gb_seconds_at_most(self.lost)
            expect["cancelled"] = 1e9 * (per_second * gb_seconds + INVOCATION * len(self.lost))
            if self.case == "time-out":
                # Functions that answered that their time was over.
                late = [pid for pid in self.lives if pid not in self.lost]
                expect["failed"] = spent(late, True)
            else:
                assert self.lost, "nothing was cancelled"
        return [
            f"waste, {kind}: the report says {waste[kind]}, recomputed {nano:.1f}, at most {unsure.get(kind, 0):.1f} more"
            for kind, nano in expect.items()
            if not between(waste[kind], nano, nano + unsure.get(kind, 0))
        ]

    def athena(self):
        megabyte = 1 << 20
        used = self.cost["athena"]["bytes"]
        billed = max(math.ceil(used / megabyte), 10) * megabyte if used else 0
        nano = 1e9 * ATHENA_TB * billed / (1 << 40)
        return [] if close(self.cost["athena"]["nano_dollars"], nano) else [f"Athena: {self.cost['athena']}, recomputed {nano:.1f}"]


def main():
    accounts = [Account(account) for account in json.load(open(sys.argv[1], encoding="utf-8"))]
    failed = False
    for account in accounts:
        wrong = account.check()
        failed |= bool(wrong)
        total = account.cost["at_most"]
        print(f"{account.case}: {len(account.lives)} processes, {len(account.account['requests'])} requests, {total} nano-dollars")
        for what in wrong:
            print(f"{account.case}: {what}", file=sys.stderr)
    sys.exit(failed)


main()
