"""However a store URL is mistyped, the password in it is printed nowhere: a marker goes in and must not come out."""

from __future__ import annotations

import traceback
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphflow import RedisCache
from graphflow.cli.run import resume_command
from graphflow.errors import InvalidAddress
from graphflow.server.address import URL_VARIABLE, Address, find_address, masked_url, parse_address
from graphflow.settings import Settings

MARK = "hunter2"

#: None ends in @ and the marker: with the host forgotten, that would be the host.
PASSWORDS = st.sampled_from(
    f"{MARK} {MARK}% %{MARK} %zz{MARK} {MARK}@w p:{MARK} {MARK}:w p/{MARK} {MARK}/w 12/{MARK} p?{MARK} {MARK}?w "
    f"p#{MARK} {MARK}#w p&{MARK} [{MARK} {MARK}] {MARK}\u2100 {MARK}\udcff {MARK}%00 p={MARK} "
    f"p%40{MARK} p%2F{MARK}%3F {MARK}%23%3A".split(" ")
)
#: Of stores that have passwords. Then everything that may stand there instead.
SCHEMES = st.sampled_from(
    [
        "redis://",
        "rediss://",
        "valkey://",
        "unix://",
        "http://",
        "REDIS://",
        "redsi://",
        "redis:",
        "redis:/",
        "redis:///",
        "redis//",
        "redis;//",
        "redis%3A//",
        "redis:%2F%2F",
        "unix:",
        "unix:/",
        "unix:///",
        "rediss:///",
        "",
        "://",
        "//",
        "/",
        " redis://",
        "'redis://",
    ]
)
LOGINS = st.sampled_from(
    [
        ":{}@",
        "me:{}@",
        "{}@",
        ":{}@@",
        "@:{}@",
        "me@x:{}@",
        "{}@me:x@",
        ":{}%40",
        "me:{}%40",
        "me%3A{}@",
        "me:{}",
        ":{}:",
        ":{}/@",
        "/{}@",
        "[{}]@",
        "me:{}@x@",
    ]
)
HOSTS = st.sampled_from(
    ["", "h h", *["h", "h:1", ":6379", "h:port", "h:0", "h:99999", "h:1:2", "[::1]", "[::1", "/h"]]
)
PATHS = st.sampled_from(["", "/0 ", "/\n", *["/", "/0", "/first", "/-1", "//0", "/run/r.sock", "run/r.sock"]])
QUERIES = st.sampled_from(["", *["?", "?db=0", "?db=x", "?bad=1", "?db=0&", "?ssl_cert_reqs=none"]])
WORDS = st.sampled_from(
    [
        "",
        "=",
        " ",
        *["password", "Password", "PASSWORD", "pass", "pwd", "passwort", "username", "user", "db", "auth"],
    ]
)
JOINTS = st.sampled_from(
    ["?", "&", ";", "%3F", "?db=0&", "?db=0;", "?db=0%26", "??", "/?", "#", "?ssl_ca_certs=x%26"]
)
VALUES = st.sampled_from(["{}={}", "{}%3D{}", "{}:{}", "{}{}"])


def _with_login(scheme: str, login: str, secret: str, host: str, path: str, query: str) -> str:
    return f"{scheme}{login.format(secret)}{host}{path}{query}"


def _with_option(scheme: str, host: str, path: str, joint: str, word: str, value: str, secret: str) -> str:
    return f"{scheme}{host}{path}{joint}{value.format(word, secret)}"


MISTYPED = st.one_of(
    st.builds(_with_login, SCHEMES, LOGINS, PASSWORDS, HOSTS, PATHS, QUERIES),
    st.builds(_with_option, SCHEMES, HOSTS, PATHS, JOINTS, WORDS, VALUES, PASSWORDS),
)


@settings(max_examples=600, deadline=None)
@given(MISTYPED)
@example(f"{MARK}://h")
@example(f"me:{MARK}@h:6379/0")
@example(f"redis:/me:{MARK}@h")
@example(f"redis:///:{MARK}@h:6379/0")
@example(f"redis://:12/{MARK}@h")
@example(f"redis://h?PASSWORD={MARK}")
@example(f"unix:///:{MARK}@/run/r.sock")
@example(f"unix:///run/r.sock%3Fpassword={MARK}")
@example(f"memory://me:{MARK}@h")
@example(f"embedded://me:{MARK}@h/srv")
@example(f"embedded:///:{MARK}@/srv")
def test_password_of_a_mistyped_url_is_shown_nowhere(url: str) -> None:
    for shown in _shown(url):
        assert MARK not in shown, url


@settings(max_examples=300, deadline=None)
@given(MISTYPED, st.sampled_from(["", "\udce4"]))
def test_url_that_can_be_read_is_written_so_that_it_is_read_again(url: str, strange: str) -> None:
    try:
        address = parse_address(url + strange, cwd=Path("/srv"))
    except InvalidAddress:
        return

    assert parse_address(address.url, cwd=Path("/other")) == address


def _shown(url: str) -> list[str]:
    """Everything that may be printed of a URL on its way in."""
    shown = [masked_url(url), repr(Settings(redis_url=url)), repr(RedisCache(url))]
    shown += [
        resume_command(["run", "x.py", "--url", url], "r"),
        resume_command(["run", "x.py", f"--url={url}"], "r"),
    ]
    for look in (
        lambda: parse_address(url, cwd=Path("/srv")),
        lambda: find_address(None, {URL_VARIABLE: url}, Path("/srv")),
    ):
        try:
            shown += _shown_of(look())
        except InvalidAddress as error:
            shown += _told_by(error)
    return shown


def _shown_of(address: Address) -> list[str]:
    return [str(address), repr(address), address.masked, repr([address])]


def _told_by(error: BaseException) -> list[str]:
    """The error, its attributes and traceback, and all that hangs below it, printed or not."""
    told = ["".join(traceback.format_exception(error))]
    below: BaseException | None = error
    while below is not None:
        told += [str(below), repr(below), repr(below.args), repr(vars(below))]
        below = below.__cause__ or below.__context__
    return told
