"""redis-py, sync in threads or asyncio in tasks, at a VIP whose nodes are killed one after another.

    python3 redis_py_kills.py sync|asyncio VIP NODE...

Sessions are written by a client that repeats what was under way, counters by one that does not: both as
`examples/sessions/README.md` has them.
"""

import asyncio
import sys
import threading

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError
from redis.retry import Retry

from told import Count, is_over, step, url

WORKERS = 4
TIMES = {"socket_connect_timeout": 1, "socket_timeout": 3, "decode_responses": True}


def clients(kind, retry, address):
    """One that repeats, one that does not."""
    patient = retry(ExponentialBackoff(cap=1, base=0.1), 5)
    repeats = {"retry": patient, "retry_on_error": [ConnectionError, TimeoutError]}
    return (
        kind.from_url(url(address), **TIMES, **repeats),
        kind.from_url(url(address), **TIMES, retry=retry(NoBackoff(), 0)),
    )


def steps(worker, written, count):
    """What a worker does until the end, a command at a time: yields those, and is sent their answers."""
    number = 0
    while not is_over():
        key, user = f"shop:session:{worker}:{number}", f"user {worker}:{number}"
        while isinstance((yield "patient", "SET", key, user, "EX", 600), RedisError):
            pass
        written[key] = user
        number += 1
        known = f"shop:session:{worker}:{number * 7919 % number}"
        for key in (key, known):
            while isinstance(seen := (yield "patient", "GET", key), RedisError):
                pass
            assert seen == written[key], (key, seen)
        # A store that answers, so that what is unknown is only what was really under way.
        while isinstance((yield "patient", "PING"), RedisError):
            pass
        answer = yield "plain", "INCR", f"shop:counter:{worker}"
        if isinstance(answer, RedisError):
            count.failed(answer)
        else:
            count.answered(answer)
            step()


def work(both, worker, written, count):
    task, answer = steps(worker, written, count), None
    while True:
        try:
            which, *command = task.send(answer)
        except StopIteration:
            return
        try:
            answer = both[which == "plain"].execute_command(*command)
        except RedisError as error:
            answer = error


async def work_async(both, worker, written, count):
    task, answer = steps(worker, written, count), None
    while True:
        try:
            which, *command = task.send(answer)
        except StopIteration:
            return
        try:
            answer = await both[which == "plain"].execute_command(*command)
        except RedisError as error:
            answer = error


def threads(vip, written, counts):
    both, failed = clients(redis.Redis, Retry, vip), []

    def run(worker):
        try:
            work(both, worker, written[worker], counts[worker])
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=run, args=[worker]) for worker in range(WORKERS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for error in failed:
        raise error


async def tasks(vip, written, counts):
    both = clients(redis.asyncio.Redis, redis.asyncio.retry.Retry, vip)
    await asyncio.gather(*(work_async(both, at, written[at], counts[at]) for at in range(WORKERS)))
    for client in both:
        await client.close()


how, vip, *nodes = sys.argv[1:]
written = [{} for _ in range(WORKERS)]
counts = [Count() for _ in range(WORKERS)]
if how == "sync":
    threads(vip, written, counts)
else:
    asyncio.run(tasks(vip, written, counts))
sessions = {key: user for some in written for key, user in some.items()}
for node in nodes:
    client, _ = clients(redis.Redis, Retry, node)
    keys = list(sessions)
    assert client.mget(keys) == list(sessions.values()), f"sessions are missing at {node}"
    for worker, count in enumerate(counts):
        count.check(client.get(f"shop:counter:{worker}"))
print(f"{len(sessions)} sessions;", "; ".join(str(count) for count in counts))
