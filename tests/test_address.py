"""A base URL is an address that is safe to send tokens to, or it is refused."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.address import DEFAULT_BASE_URL, base_url
from runner.errors import SettingsError


@pytest.mark.parametrize(
    ("given_", "taken"),
    [
        (DEFAULT_BASE_URL, "https://sync.useparagon.com"),
        ("https://sync.useparagon.com/", "https://sync.useparagon.com"),
        ("https://sync.useparagon.com/api", "https://sync.useparagon.com"),
        ("https://sync.useparagon.com/api/", "https://sync.useparagon.com"),
        ("https://sync.useparagon.com/api///", "https://sync.useparagon.com"),
        ("https://sync.useparagon.com//api", "https://sync.useparagon.com"),
        ("  https://sync.useparagon.com \n", "https://sync.useparagon.com"),
        ("HTTPS://Sync.UseParagon.COM", "https://sync.useparagon.com"),
        ("https://on-prem.example:8443/paragon/api", "https://on-prem.example:8443/paragon"),
        ("https://on-prem.example/apis", "https://on-prem.example/apis"),
        ("https://10.1.2.3", "https://10.1.2.3"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("https://host:", "https://host"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:8080/api", "http://127.0.0.1:8080"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_address_is_taken_in_its_plain_form(given_: str, taken: str) -> None:
    """Scheme, host, port and path stay; `/api`, slashes and blanks at the end go."""
    assert base_url(given_) == taken
    assert base_url(taken) == taken


@pytest.mark.parametrize(
    "text",
    [
        "http://sync.useparagon.com",
        "http://10.1.2.3",
        "http://[2001:db8::1]",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://localhost.",
        "http://0.0.0.0",
    ],
)
def test_x2_http_is_for_this_machine_unless_allowed(text: str) -> None:
    """A token travels in the clear to no other host, unless a flag says so."""
    with pytest.raises(SettingsError, match=r"must be https.*--allow-http"):
        base_url(text)

    assert base_url(text, allow_http=True) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be an address such as"),
        ("sync.useparagon.com", "must be an address such as"),
        ("ftp://sync.useparagon.com", "must be an address such as"),
        ("file:///etc/passwd", "must be an address such as"),
        ("javascript:alert(1)", "must be an address such as"),
        ("https://", "must be an address such as"),
        ("https:///api", "must be an address such as"),
        ("https://:443", "must be an address such as"),
        ("https:sync.useparagon.com", "must be an address such as"),
        ("https://host:99999", "must be an address such as"),
        ("https://host:-1", "must be an address such as"),
        ("https://host:http", "must be an address such as"),
        ("https://[::1", "must be an address such as"),
        ("https://host:0", "must name a port from 1 to 65535"),
        ("https://host/?", "must not hold a query or a fragment"),
        ("https://host/?x=1", "must not hold a query or a fragment"),
        ("https://host/#x", "must not hold a query or a fragment"),
        ("https://host#", "must not hold a query or a fragment"),
        ("https://host/../admin", r"must not hold \. or \.\."),
        ("https://host/a/./b", r"must not hold \. or \.\."),
        ("https://host/%2e%2e/admin", "must be plain ASCII"),
        ("https://host/a b", "must be plain ASCII"),
        ("https://host\\@evil.example/", "must not hold a user|must be plain ASCII"),
        ("https://host\\evil", "must be plain ASCII"),
        ("https://h\u00f6st.example", "must be plain ASCII"),
        ("https://host\u3002example", "must be plain ASCII"),
        ("https://\uff11\uff12\uff17.0.0.1", "must be plain ASCII"),
        ("https://ho\tst", "must be plain ASCII"),
        ("https://ho\nst", "must be plain ASCII"),
        ("https://host\x00", "must be plain ASCII"),
    ],
)
def test_x2_what_is_no_plain_address_is_refused(text: str, why: str) -> None:
    """Anything in which two readers could see two hosts is told with its reason."""
    with pytest.raises(SettingsError, match=why) as refusal:
        base_url(text, allow_http=True)

    assert refusal.value.exit_code == 2
    assert str(refusal.value).startswith("--base-url ")


@pytest.mark.parametrize(
    "text",
    ["https://ann:s3cret@host", "https://ann@host", "https://:s3cret@host", "https://@host/s3cret"],
)
def test_x2_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    """The refusal does not show what was taken for a secret."""
    with pytest.raises(SettingsError, match="must not hold a user or a password") as refusal:
        base_url(text)

    assert "s3cret" not in str(refusal.value)
    assert "ann" not in str(refusal.value)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0X7F.1",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "127.0.0.1..",
        "256.1.1.1",
        "1.2.3.4.5",
        "0",
    ],
)
def test_x8_an_address_in_disguise_is_refused(host: str) -> None:
    """A host is named or written as four numbers; other spellings hide what is meant."""
    with pytest.raises(SettingsError, match="not as a bare number"):
        base_url(f"https://{host}/", allow_http=True)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]"]
)
def test_x8_a_link_local_address_is_refused(host: str) -> None:
    """The place where clouds keep their credentials is not the Sync API, however it is written."""
    with pytest.raises(SettingsError, match="must not be a link-local address"):
        base_url(f"https://{host}/", allow_http=True)


@given(st.text())
def test_no_text_is_an_error_of_ours(text: str) -> None:
    """Any text at all is either refused in words or becomes a plain https address."""
    for candidate in (text, f"https://{text}", f"https://host/{text}"):
        try:
            taken = base_url(candidate)
        except SettingsError:
            continue
        parts = urlsplit(taken)
        assert parts.scheme == "https" or parts.hostname in {"localhost", "127.0.0.1", "::1"}
        assert parts.hostname
        assert (parts.username, parts.query, parts.fragment) == (None, "", "")
        assert taken.isascii()
        assert not taken.endswith("/")
        assert base_url(taken) == taken
