"""A site of Flask with Flask-Session at a VIP whose nodes are killed one after another.

    python3 flask_kills.py VIP NODE...

Configured as `examples/sessions/README.md` has it. Visitors log in, and one counts; whoever gets no answer asks again.
"""

import logging
import sys

import redis
from flask import Flask, session
from flask_session import Session

from told import Count, is_over, step, url

# What goes wrong is this program's to judge.
logging.disable(logging.CRITICAL)
vip, *nodes = sys.argv[1:]


def shop(address):
    app = Flask(__name__)
    app.config.update(
        SESSION_TYPE="redis",
        SESSION_KEY_PREFIX="shop:",
        SESSION_REDIS=redis.Redis.from_url(url(address), socket_connect_timeout=1, socket_timeout=3),
    )
    Session(app)

    @app.route("/login/<user>")
    def login(user):
        session["user"] = user
        return "in"

    @app.route("/who")
    def who():
        return session.get("user", "nobody")

    @app.route("/count")
    def count():
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    return app


def ask(app, where, cookie=None):
    """What `app` answers, and the visitor's cookie then; `None` if there was no answer."""
    headers = {"Cookie": cookie} if cookie else {}
    answer = app.test_client(use_cookies=False).get(where, headers=headers)
    if answer.status_code != 200:
        return None
    told = answer.headers.get("Set-Cookie")
    return answer.get_data(as_text=True), told.split(";")[0] if told else cookie


def insist(app, where, cookie=None):
    while (answer := ask(app, where, cookie)) is None:
        pass
    return answer


site = shop(vip)
visitors, counted = [], Count()
_, counter = insist(site, "/login/counter")
while not is_over():
    user = f"user-{len(visitors)}"
    visitors.append((insist(site, f"/login/{user}")[1], user))
    for cookie, user in (visitors[-1], visitors[len(visitors) * 7919 % len(visitors)]):
        assert insist(site, "/who", cookie)[0] == user, user
    answer = ask(site, "/count", counter)
    if answer is None:
        counted.failed()
    else:
        counted.answered(answer[0])
        step()
for node in map(shop, nodes):
    for cookie, user in visitors:
        assert insist(node, "/who", cookie)[0] == user, user
    counted.answered(insist(node, "/count", counter)[0])
print(f"{len(visitors)} visitors; {counted}")
