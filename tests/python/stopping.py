"""Statements that a client stops, and the time that the server takes to end them.

A test waits for what has to come as long as a busy machine may need, and judges the server by its own record.
"""

import os
import threading
import time

# Longest wait for what has to come.
PATIENCE_SECONDS = 60

# Tries of which one has to end in time.
TRIES = 6

# It finds no row for hours. Its column has a name of its own.
ENDLESS = "SELECT count(*) AS {} FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value * b.value = -1"


def eventually(holds):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not so after {PATIENCE_SECONDS} s"
        time.sleep(0.05)


def of(name):
    """Returns the condition that finds the statement whose column has this name, and no question about it."""
    return f"statement LIKE '% AS {name} FROM %' AND statement NOT LIKE '%gust.%'"


def runs(rows, name):
    """Tells if the server runs the statement. Before that its end would be in no history."""
    return rows(f"SELECT count(*) FROM gust.running WHERE place IS NOT NULL AND {of(name)}") == [(1,)]


def ends(rows, name):
    """Returns the statement's outcomes, and the seconds since 1970 at which each came."""
    return rows(f"SELECT outcome, date_part('epoch', started) + seconds FROM gust.queries WHERE {of(name)}")


def ends_within_a_second(rows, stopped):
    """Checks that a statement ends soon after `stopped(name)`, which returns the time at which its client began to stop it.

    A busy machine delays one of three now and then. A server that is slow delays all of them.
    """
    taken = []
    for attempt in range(TRIES):
        name = f"{stopped.__name__}_{os.getpid()}_{attempt}"
        began = stopped(name)
        eventually(lambda: ends(rows, name))
        [(outcome, ended)] = ends(rows, name)
        assert outcome == "cancelled", (name, outcome)
        taken.append(ended - began)
        if taken[-1] < 1:
            return
    raise AssertionError((stopped.__name__, taken))


class Stopping(threading.Thread):
    """Waits until the server runs a statement, and stops it."""

    def __init__(self, rows, name, stop):
        super().__init__()
        self.has_begun, self.stop, self.began, self.error = lambda: runs(rows, name), stop, None, None
        self.start()

    def run(self):
        try:
            eventually(self.has_begun)
        except Exception as error:
            self.error = error
        self.began = time.time()
        try:
            # Also after an error: nobody else ends the statement.
            self.stop()
        except Exception as error:
            self.error = self.error or error

    def ended(self):
        """Returns the time at which it began to stop the statement."""
        self.join()
        if self.error:
            raise self.error
        return self.began
