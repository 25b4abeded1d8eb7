"""The server of the listening page: it takes ratings from who has the token, and from nobody else."""

import http.client
import json
import stat
from urllib.parse import urlsplit

import pytest

from vimss.errors import PlaceError
from vimss.ratings import MOST_BYTES, save_ratings, serve_page

RATED = {
    "study": "s", "split": "test", "piece": "p", "seconds": 10.0, "listener": "ear",
    "ratings": [{"label": "vn", "system": "op=film", "kind": "cell", "letter": "A", "value": 70}],
}  # fmt: skip


@pytest.fixture
def address(tmp_path):
    with serve_page(b"<p>page", lambda ratings: save_ratings(tmp_path, ratings), 0) as address:
        yield address


def ask(address: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    """The status and the answer; `path` follows the token."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_ratings_become_a_file_beside_the_study(address, tmp_path):
    token = urlsplit(address).path
    assert ask(address, "GET", token) == (200, b"<p>page")
    status, name = ask(address, "POST", f"{token}ratings", RATED)
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert status == 201 and path.name == name.decode() and kept.pop("saved").endswith("Z") and kept == RATED
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/ratings", "/ratings"])
def test_without_the_token_nothing_is_given_or_taken(address, tmp_path, path):
    assert ask(address, "GET", path)[0] == ask(address, "POST", path, RATED)[0] == 404
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_another_site_reaches_nothing_by_a_name_of_its_own(address):
    token = urlsplit(address).path
    assert ask(address, "GET", token, Host="evil.example:80")[0] == 404
    assert ask(address, "POST", f"{token}ratings", RATED, Host="evil.example:80")[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({**RATED, "ratings": []}, 400, b"at least 1"),
        ({**RATED, "ratings": [{**RATED["ratings"][0], "value": 101}]}, 400, b"less than or equal to 100"),
        ({**RATED, "folder": "/"}, 400, b"unknown key 'folder'"),
        ("no object", 400, b"ratings"),
    ],
)
def test_what_are_no_ratings_is_refused_with_the_reason(address, tmp_path, body, status, words):
    found = ask(address, "POST", f"{urlsplit(address).path}ratings", body)
    assert found[0] == status and words in found[1] and list(tmp_path.iterdir()) == []


def test_a_body_that_is_too_long_is_refused_unread(address):
    path, length = f"{urlsplit(address).path}ratings", str(MOST_BYTES + 1)
    assert ask(address, "POST", path, RATED, **{"Content-Length": length}) == (413, b"at most 1000000 bytes")


def test_it_listens_on_loopback_and_says_where_a_port_is_taken(address):
    assert urlsplit(address).hostname == "127.0.0.1"
    port = urlsplit(address).port
    with pytest.raises(PlaceError, match=f"port {port} must be free; got .*To fix: choose another --port"):
        serve_page(b"", lambda ratings: None, port).__enter__()
