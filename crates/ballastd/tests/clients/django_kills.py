"""A Django site with its sessions at a VIP whose nodes are killed one after another.

    python3 django_kills.py VIP NODE...

Configured as `examples/sessions/README.md` has it. Visitors log in, and one counts; whoever gets no answer asks again.
"""

import sys

import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

from told import Count, is_over, step, url

vip, *nodes = sys.argv[1:]


def cache(address):
    return {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": url(address),
        "KEY_PREFIX": "shop",
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": 1,
            "SOCKET_TIMEOUT": 3,
            "CONNECTION_POOL_KWARGS": {
                "retry": Retry(ExponentialBackoff(cap=1, base=0.1), 5),
                "retry_on_error": [ConnectionError, TimeoutError],
            },
        },
    }


settings.configure(
    SECRET_KEY="of this test",
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF=__name__,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    # What goes wrong is this program's to judge.
    LOGGING_CONFIG=None,
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={name: cache(a) for name, a in [("default", vip)] + [(f"node-{n}", a) for n, a in enumerate(nodes)]},
)
django.setup()

from django.test import Client, override_settings  # noqa: E402  # Needs the settings.


def login(request, user):
    request.session.cycle_key()
    request.session["user"] = user
    return HttpResponse("in")


def who(request):
    return HttpResponse(request.session.get("user", "nobody"))


def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(request.session["count"])


urlpatterns = [path("login/<user>", login), path("who", who), path("count", count)]


def ask(cookie, where):
    """The answer, and the visitor's cookie then; `None` if there was none."""
    client = Client(raise_request_exception=False)
    if cookie:
        client.cookies["sessionid"] = cookie
    answer = client.get(where)
    if answer.status_code != 200:
        return None
    told = client.cookies.get("sessionid")
    return answer.content.decode(), told.value if told else None


def login_of(user):
    while (answer := ask(None, f"/login/{user}")) is None:
        pass
    return answer[1]


forgotten = 0


def known(cookie, where):
    """The same of a visitor who is known. Django takes a session that it could not read for one that is not there, and
    has the visitor begin anew; whether it was there is told by asking with the old cookie again."""
    global forgotten
    before = forgotten
    while forgotten < before + 20:
        answer = ask(cookie, where)
        if answer is None:
            return None
        if answer[1] == cookie and answer[0] != "nobody":
            return answer[0]
        forgotten += 1
    raise AssertionError(f"the session is gone: {answer}")


def who_is(cookie):
    while (answer := known(cookie, "/who")) is None:
        pass
    return answer


visitors, counted = [], Count()
counter = login_of("counter")
while not is_over():
    user = f"user-{len(visitors)}"
    visitors.append((login_of(user), user))
    for cookie, user in (visitors[-1], visitors[len(visitors) * 7919 % len(visitors)]):
        assert who_is(cookie) == user, user
    answer = known(counter, "/count")
    if answer is None:
        counted.failed()
    else:
        counted.answered(answer)
        step()
for node in range(len(nodes)):
    with override_settings(SESSION_CACHE_ALIAS=f"node-{node}"):
        for cookie, user in visitors:
            assert who_is(cookie) == user, (node, user)
        counted.answered(known(counter, "/count"))
print(f"{len(visitors)} visitors, {forgotten} times a session could not be read; {counted}")
