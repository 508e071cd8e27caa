"""Sessions of Flask, kept by Flask-Session: a visitor whose every request goes to another node.

    python3 flask_sessions.py ADDRESS...
"""

import sys

import redis
from flask import Flask, session
from flask_session import Session


def shop(address):
    """The application as it runs beside one node."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="of this test",
        SESSION_TYPE="redis",
        SESSION_KEY_PREFIX="shop:",
        SESSION_REDIS=redis.Redis.from_url(f"redis://{address}/0", socket_timeout=20),
    )
    Session(app)

    @app.route("/count")
    def count():
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    @app.route("/logout")
    def logout():
        session.clear()
        return "out"

    return app


def ask(app, where, cookie):
    """What `app` answers, and the cookie that the visitor has then."""
    headers = {"Cookie": cookie} if cookie else {}
    answer = app.test_client(use_cookies=False).get(where, headers=headers)
    assert answer.status_code == 200, answer.status
    told = answer.headers.get("Set-Cookie")
    return answer.get_data(as_text=True), told.split(";")[0] if told else cookie


apps = [shop(address) for address in sys.argv[1:]]
cookie = None
for request in range(30):
    answer, cookie = ask(apps[request % len(apps)], "/count", cookie)
    assert answer == str(request + 1), (request, answer)
assert ask(apps[0], "/count", None)[0] == "1"
ask(apps[0], "/logout", cookie)
assert ask(apps[1], "/count", cookie)[0] == "1"
