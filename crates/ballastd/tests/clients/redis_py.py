"""What applications do with redis-py, sync and asyncio, over all nodes.

    python3 redis_py.py ADDRESS...

Every connection is to one node; what one of them was told, all others must see. Ends with an assertion where Ballast is
not what the library takes it for.
"""

import asyncio
import contextlib
import sys

import redis
import redis.asyncio
from redis.exceptions import LockError, LockNotOwnedError, NoScriptError, ResponseError, WatchError

TIMEOUT = 20


def connect(kind, address):
    host, port = address.rsplit(":", 1)
    return kind(host=host, port=int(port), decode_responses=True, socket_timeout=TIMEOUT, client_name="tests")


def values(nodes):
    first, second, third = nodes
    assert first.set("text", "naïve", ex=100)
    assert [node.get("text") for node in nodes] == ["naïve"] * 3
    assert 0 < second.ttl("text") <= 100
    assert first.set("text", "other", nx=True) is None
    assert first.set("text", "other", xx=True, get=True) == "naïve"
    assert first.hset("hash", mapping={"user": "7", "cart": "a,b"}) == 2
    assert third.hgetall("hash") == {"user": "7", "cart": "a,b"}
    assert second.hincrby("hash", "user", 3) == 10
    assert first.sadd("set", "a", "b") == 2
    assert second.smembers("set") == {"a", "b"}
    assert third.delete("hash", "set", "absent") == 2
    try:
        first.incr("text")
        raise AssertionError("a text was counted up")
    except ResponseError as error:
        assert str(error) == "value is not an integer or out of range", error


def walks(nodes):
    first, second, third = nodes
    with first.pipeline(transaction=False) as pipeline:
        for key in range(300):
            pipeline.set(f"walk:{key}", key)
        assert pipeline.execute() == [True] * 300
    assert set(second.scan_iter("walk:*", count=50)) == {f"walk:{key}" for key in range(300)}
    # A walk may go on at another node.
    cursor, seen = 0, set()
    for node in [first, second, third] * 1000:
        cursor, keys = node.scan(cursor, match="walk:*", count=20)
        seen.update(keys)
        if cursor == 0:
            break
    assert len(seen) == 300, len(seen)
    assert third.mget("walk:1", "absent", "walk:299") == ["1", None, "299"]


def transactions(nodes):
    first, second, third = nodes
    with first.pipeline() as pipeline:
        pipeline.set("n", 1).incr("n").get("n").hset("m", "f", "v").expire("m", 100)
        assert pipeline.execute() == [True, 2, "2", 1, True]
    with first.pipeline() as pipeline:
        pipeline.set("n", "x").incr("n")
        assert isinstance(pipeline.execute(raise_on_error=False)[1], ResponseError)
    with second.pipeline() as pipeline:
        pipeline.watch("n")
        assert pipeline.get("n") == "x"
        third.set("n", 5)
        pipeline.multi()
        pipeline.set("n", 6)
        try:
            pipeline.execute()
            raise AssertionError("what was watched had changed at another node")
        except WatchError:
            pass
    assert first.get("n") == "5"

    def double(pipeline):
        value = int(pipeline.get("n"))
        pipeline.multi()
        pipeline.set("n", value * 2)

    assert third.transaction(double, "n") == [True]
    assert second.get("n") == "10"


def events(nodes):
    first, second, third = nodes
    pubsub = second.pubsub()
    pubsub.psubscribe("__keyevent@*__:expired")
    pubsub.subscribe("news")
    assert [pubsub.get_message(timeout=TIMEOUT)["type"] for _ in range(2)] == ["psubscribe", "subscribe"]
    third.publish("news", "hello")
    assert pubsub.get_message(timeout=TIMEOUT)["data"] == "hello"
    for key in range(5):
        first.set(f"short:{key}", "v", px=50)
    told = [pubsub.get_message(timeout=TIMEOUT) for _ in range(5)]
    assert {message["channel"] for message in told} == {"__keyevent@0__:expired"}
    assert {message["data"] for message in told} == {f"short:{key}" for key in range(5)}
    pubsub.close()


def locks(nodes):
    first, second, third = nodes
    mine = first.lock("lock", timeout=30)
    assert mine.acquire()
    assert not second.lock("lock", timeout=30).acquire(blocking=False)
    assert mine.extend(100) and 100 < third.ttl("lock") <= 130
    assert mine.extend(40, replace_ttl=True) and third.ttl("lock") <= 40
    assert mine.reacquire() and third.ttl("lock") <= 30
    # Who has the lock is told by its token, on whichever node it asks.
    also_mine = second.lock("lock", timeout=30, thread_local=False)
    also_mine.local.token = mine.local.token
    also_mine.release()
    assert not third.exists("lock")
    for late in (mine.release, lambda: mine.extend(1)):
        try:
            late()
            raise AssertionError("a lock that was lost was still good for something")
        except LockError:
            pass
    with third.lock("lock", timeout=30, blocking_timeout=TIMEOUT):
        assert first.exists("lock")
    short = first.lock("lock", timeout=0.05)
    assert short.acquire()
    with second.lock("lock", timeout=30, sleep=0.01, blocking_timeout=TIMEOUT):
        try:
            short.release()
            raise AssertionError("a lock that had ended was released")
        except LockNotOwnedError:
            pass
    try:
        first.register_script("return redis.call('get', KEYS[1])")(keys=["lock"])
        raise AssertionError("an unknown script was run")
    except NoScriptError:
        pass


async def asynchronous(addresses):
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(connect(redis.asyncio.Redis, address)) for address in addresses]
        first, second, third = nodes
        await first.set("async", 0)
        await asyncio.gather(*(nodes[at % 3].incr("async") for at in range(60)))
        assert await second.get("async") == "60"
        async with first.pipeline(transaction=True) as pipeline:
            assert await pipeline.set("a", 1).incr("a").get("a").execute() == [True, 2, "2"]
        async with second.pipeline() as pipeline:
            await pipeline.watch("a")
            await third.set("a", 9)
            pipeline.multi()
            pipeline.set("a", 10)
            try:
                await pipeline.execute()
                raise AssertionError("what was watched had changed at another node")
            except WatchError:
                pass

        async def critical(node):
            async with node.lock("async lock", timeout=30, sleep=0.005, blocking_timeout=TIMEOUT):
                value = int(await node.get("guarded") or 0)
                await asyncio.sleep(0)
                await node.set("guarded", value + 1)

        await asyncio.gather(*(critical(nodes[at % 3]) for at in range(12)))
        assert await first.get("guarded") == "12"
        lock = second.lock("async lock", timeout=30)
        assert await lock.acquire() and await lock.extend(30) and await lock.reacquire()
        await lock.release()

        pubsub = third.pubsub()
        await pubsub.psubscribe("__keyevent@0__:expired")
        assert (await pubsub.get_message(timeout=TIMEOUT))["type"] == "psubscribe"
        await first.set("brief", "v", px=50)
        assert (await pubsub.get_message(timeout=TIMEOUT))["data"] == "brief"
        await pubsub.close()


addresses = sys.argv[1:]
clients = [connect(redis.Redis, address) for address in addresses]
for part in (values, walks, transactions, events, locks):
    part(clients)
asyncio.run(asynchronous(addresses))
