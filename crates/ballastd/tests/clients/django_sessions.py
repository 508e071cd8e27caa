"""Sessions of Django in its cache, kept by django-redis: a visitor whose every request goes to another node.

    python3 django_sessions.py ADDRESS...
"""

import sys

import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

addresses = sys.argv[1:]
settings.configure(
    SECRET_KEY="of this test",
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF=__name__,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={
        name: {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{address}/0",
            "KEY_PREFIX": "shop",
        }
        for name, address in [("default", addresses[0])] + [(f"node-{n}", a) for n, a in enumerate(addresses)]
    },
)
django.setup()

from django.core.cache import caches  # noqa: E402  # Needs the settings.
from django.test import Client, override_settings  # noqa: E402


def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(request.session["count"])


def login(request):
    request.session.cycle_key()
    return HttpResponse("in")


def logout(request):
    request.session.flush()
    return HttpResponse("out")


urlpatterns = [path("count", count), path("login", login), path("logout", logout)]

visitor, other = Client(), Client()


def ask(client, request, where):
    with override_settings(SESSION_CACHE_ALIAS=f"node-{request % len(addresses)}"):
        answer = client.get(where)
    assert answer.status_code == 200, answer.status_code
    return answer.content.decode()


for request in range(30):
    assert ask(visitor, request, "/count") == str(request + 1)
assert ask(other, 1, "/count") == "1"
before = visitor.cookies["sessionid"].value
ask(visitor, 0, "/login")
assert visitor.cookies["sessionid"].value != before
assert ask(visitor, 1, "/count") == "31"
stolen = Client()
stolen.cookies["sessionid"] = before
assert ask(stolen, 2, "/count") == "1", "the session's old name still worked"
ask(visitor, 0, "/logout")
assert ask(visitor, 2, "/count") == "1"
assert ask(other, 2, "/count") == "2"

# What else sites keep in a cache.
first, second = caches["node-0"], caches["node-1"]
first.set_many({"a": 1, "b": [2]}, timeout=100)
assert second.get_many(["a", "b", "absent"]) == {"a": 1, "b": [2]}
assert not second.add("a", 2) and second.add("c", 3)
assert second.touch("a", 50) and 0 < first.ttl("a") <= 50
assert first.delete_many(["a", "b", "c"]) == 3
with first.lock("job", timeout=10):
    assert not second.lock("job", timeout=10).acquire(blocking=False)
