"""Clients of a server: each asks, waits for the answer, and asks again."""

import http.client
import itertools
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

PATIENCE_S = 120


@dataclass
class Load:
    """The answers that clients got: their status, or the name of an error, and the seconds of those with 200."""

    statuses: Counter = field(default_factory=Counter)
    seconds: list = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def errors(self) -> int:
        """All but 200 and 429."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 429))

    def quantile_ms(self, percent: int) -> float:
        return 1e3 * statistics.quantiles(self.seconds, n=100)[percent - 1]

    def summary(self) -> str:
        """Return '1,234 answers, p50 80 ms, p99 95 ms, 12 refused (429), 0 errors'."""
        times = f"p50 {self.quantile_ms(50):,.0f} ms, p99 {self.quantile_ms(99):,.0f} ms"
        return f"{self.statuses[200]:,} answers, {times}, {self.statuses[429]:,} refused (429), {self.errors} errors"

    def add(self, other: "Load") -> None:
        self.statuses += other.statuses
        self.seconds += other.seconds
        self.elapsed_s += other.elapsed_s


def load(port: int, path: str, bodies: list, clients: int, seconds: float) -> Load:
    """Let so many clients post `bodies` (JPEGs) in turn, to a server of this machine, for so many seconds."""
    found, lock, numbers = Load(), threading.Lock(), itertools.count()
    start = time.perf_counter()
    arguments = port, path, bodies, numbers, start + seconds, found, lock
    threads = [threading.Thread(target=client, args=arguments) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.elapsed_s = time.perf_counter() - start
    return found


def client(port: int, path: str, bodies: list, numbers, end: float, found: Load, lock) -> None:
    """Ask until `end`, and add what came of it to `found`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    while (start := time.perf_counter()) < end:
        wait_s = 0.0
        try:
            body = bodies[next(numbers) % len(bodies)]
            connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
            wait_s = float(answer.getheader("Retry-After", 0))
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
            connection.close()
        with lock:
            found.statuses[status] += 1
            if status == 200:
                found.seconds.append(time.perf_counter() - start)
        if wait_s:
            connection.close()  # The server would do so meanwhile.
            time.sleep(min(wait_s, max(end - time.perf_counter(), 0)))
    connection.close()
