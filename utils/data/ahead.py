"""Iterators that work ahead in threads. An error comes where its item would; closing an iterator ends its threads."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

END = object()  # follows the last item


def prefetch(items, ahead: int):
    """Yield `items` in order, while one thread works out the next `ahead` of them."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        try:
            pending = deque(pool.submit(next, iterator, END) for _ in range(ahead))
            while (item := pending.popleft().result()) is not END:
                pending.append(pool.submit(next, iterator, END))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
            if hasattr(iterator, "close"):
                iterator.close()


def map_ahead(function, items, workers: int, start=None):
    """Yield function(item) for each of `items`, in order, by `workers` threads; start() runs first in each."""
    with ThreadPoolExecutor(workers, thread_name_prefix="map", initializer=start) as pool:
        try:
            pending: deque = deque()
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
