"""Every form in which a signing key is kept, and every mistake by its own name."""

from __future__ import annotations

import base64
import datetime
import json
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from runner.errors import SigningKeyError
from runner.secret import Secret
from runner.tokens import (
    SigningKey,
    Tokens,
    key_file_warning,
    load_signing_key,
    make_demo_key,
    read_key_file,
)

RSA = rsa.generate_private_key(65537, 2048)


def pem(
    key: Any = RSA,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> str:
    """Return *key* as PEM, ending in a line break."""
    text: bytes = key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())
    return text.decode()


def public_pem(form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> str:
    """Return the public half of the test's key as PEM."""
    return RSA.public_key().public_bytes(Encoding.PEM, form).decode()


def certificate() -> str:
    """Return a certificate for the test's key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(RSA.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=1))
        .sign(RSA, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


PKCS8 = pem()
PKCS1 = pem(form=PrivateFormat.TraditionalOpenSSL)
CERTIFICATE = certificate()
LOCKED = BestAvailableEncryption(b"passphrase")
LOCKED_PKCS8 = pem(encryption=LOCKED)
EC = ec.generate_private_key(ec.SECP256R1())
BODY = PKCS8.splitlines()[1:-1]

FORMS: dict[str, str] = {
    "as issued": PKCS8,
    "PKCS#1": PKCS1,
    "without the last line break": PKCS8.rstrip("\n"),
    "CRLF": PKCS8.replace("\n", "\r\n"),
    "CR": PKCS8.replace("\n", "\r"),
    "literal \\n": PKCS8.replace("\n", "\\n"),
    "literal \\r\\n": PKCS8.replace("\n", "\\r\\n"),
    "literal \\\\n": PKCS8.replace("\n", "\\\\n"),
    "literal \\n, PKCS#1": PKCS1.replace("\n", "\\n"),
    "literal \\n before real ones": PKCS8.replace("\n", "\\n\n"),
    "blanks for line breaks": PKCS8.replace("\n", " "),
    "nothing for line breaks": PKCS8.replace("\n", ""),
    "blanks for line breaks, PKCS#1": PKCS1.replace("\n", " "),
    "one long line": "\n".join([PKCS8.splitlines()[0], "".join(BODY), PKCS8.splitlines()[-1]]),
    "empty lines": PKCS8.replace("\n", "\n\n"),
    "indented": PKCS8.replace("\n", "\n    "),
    "blanks around": f" \t\n{PKCS8}\n  ",
    "double quotes": f'"{PKCS8}"',
    "single quotes, literal \\n": "'" + PKCS8.replace("\n", "\\n") + "'",
    "quotes in quotes": f"\"'{PKCS8}'\"",
    "byte order mark": "\ufeff" + PKCS8,
    "text around": f"Bag Attributes: none\n{PKCS8}\nbye",
    "beside its certificate": CERTIFICATE + PKCS8 + CERTIFICATE,
    "beside its public half": PKCS8 + public_pem(),
    "wrapped in base64": base64.b64encode(PKCS8.encode()).decode(),
    "wrapped in base64, in lines": base64.encodebytes(PKCS1.encode()).decode(),
    "3072 bits": pem(rsa.generate_private_key(65537, 3072)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_key_is_taken(form: str) -> None:
    """The key is read, and signs what its public half confirms."""
    key = load_signing_key(Secret(FORMS[form]), origin="PARAGON_SIGNING_KEY")
    token = key.sign({"sub": "org:42"})

    assert jwt.decode(token, key.public_pem(), algorithms=["RS256"]) == {"sub": "org:42"}


GET = "Use the RSA private key (PEM) from the SDK Setup page of the Paragon dashboard."
AGAIN = "Copy the key again, from the BEGIN line to the END line."
NO_BEGIN = f"KEY is cut off: the '-----BEGIN PRIVATE KEY-----' line is missing. {AGAIN}"
NO_END = f"KEY is cut off: the '-----END PRIVATE KEY-----' line is missing. {AGAIN}"
PUBLIC = f"KEY holds a public key, which cannot sign. {GET}"
CERTIFIED = f"KEY holds a certificate, which cannot sign. {GET}"
OTHER_PEM = f"KEY holds PEM, but no private key. {GET}"
ENCRYPTED = (
    "KEY holds an encrypted key, and there is no way to give its passphrase. "
    "Decrypt it to a private file first: openssl pkey -in ENCRYPTED.pem -out KEY.pem"
)
OPENSSH = f"KEY holds a key in OpenSSH's own format, which is not the one Paragon issues. {GET}"
NOT_PEM = f"KEY is not PEM: it has no first line of a private key. {GET}"
NOT_BASE64 = f"KEY is damaged: what stands between its BEGIN and END lines is not base64. {AGAIN}"
NOT_A_KEY = (
    "KEY is damaged: what stands between its BEGIN and END lines is base64, "
    f"but not a whole private key. {AGAIN}"
)
TOKEN = (
    "KEY holds a token (JWT), not a key. "
    f"A ready-made user token belongs in PARAGON_USER_TOKEN. To mint tokens: {GET}"
)
PATH = (
    "KEY holds what looks like the path of a file, not a key. "
    "Give the path with --signing-key-file or in PARAGON_SIGNING_KEY_FILE."
)


def not_rsa(kind: str) -> str:
    """Return the message for a key of another kind."""
    return f"KEY holds {kind} key, but tokens are signed with RS256, which needs an RSA key. {GET}"


def several(count: int) -> str:
    """Return the message for more keys than one."""
    return f"KEY holds {count} private keys, and which one is meant cannot be told. Leave only one."


def without(text: str, line: int) -> str:
    """Return *text* without one of its lines."""
    lines = text.splitlines()
    del lines[line]
    return "\n".join(lines)


def other_curve() -> str:
    """Return an EC key whose curve no library knows."""
    der = EC.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    p256, unknown = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030104")
    assert p256 in der
    body = base64.b64encode(der.replace(p256, unknown)).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"


MISTAKES: dict[str, tuple[str, str]] = {
    "empty": ("", f"KEY is empty. {GET}"),
    "blanks": (" \r\n\t\\n", f"KEY is empty. {GET}"),
    "quotes only": ('""', f"KEY is empty. {GET}"),
    "public": (public_pem(), PUBLIC),
    "public, PKCS#1": (public_pem(PublicFormat.PKCS1), PUBLIC),
    "public, literal \\n": (public_pem().replace("\n", "\\n"), PUBLIC),
    "public, for ssh": (
        RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        PUBLIC,
    ),
    "certificate": (CERTIFICATE, CERTIFIED),
    "certificate request": (CERTIFICATE.replace("CERTIFICATE", "CERTIFICATE REQUEST"), OTHER_PEM),
    "encrypted": (LOCKED_PKCS8, ENCRYPTED),
    "encrypted, PKCS#1": (pem(form=PrivateFormat.TraditionalOpenSSL, encryption=LOCKED), ENCRYPTED),
    "encrypted, labeled as if not": (LOCKED_PKCS8.replace("ENCRYPTED ", ""), ENCRYPTED),
    "encrypted EC": (pem(EC, encryption=LOCKED), ENCRYPTED),
    "1024 bits": (
        pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505  # the mistake is the point
        f"KEY holds an RSA key of 1024 bits; at least 2048 are needed. {GET}",
    ),
    "EC": (pem(EC), not_rsa("an EC")),
    "EC, own label": (pem(EC, PrivateFormat.TraditionalOpenSSL), not_rsa("an EC")),
    "Ed25519": (pem(ed25519.Ed25519PrivateKey.generate()), not_rsa("an Ed25519")),
    "DSA": (pem(dsa.generate_private_key(2048)), not_rsa("a DSA")),
    "X25519": (pem(x25519.X25519PrivateKey.generate()), not_rsa("another kind of")),
    "unknown curve": (other_curve(), not_rsa("another kind of")),
    "OpenSSH": (pem(form=PrivateFormat.OpenSSH), OPENSSH),
    "JWK": (
        json.dumps({"kty": "RSA", "d": "c4n4ry"}),
        f"KEY holds a key as JSON (JWK), not as PEM. {GET}",
    ),
    "JSON": (json.dumps({"private_key": "c4n4ry"}), f"KEY holds JSON, not a PEM key. {GET}"),
    "token": (jwt.encode({"sub": "u"}, RSA, algorithm="RS256"), TOKEN),
    "token with Bearer": ("Bearer " + jwt.encode({"sub": "u"}, RSA, algorithm="RS256"), TOKEN),
    "path": ("/run/secrets/paragon.pem", PATH),
    "path on Windows": ('"C:\\keys\\paragon key.PEM"', PATH),
    "prose": ("the key is in the vault", NOT_PEM),
    "base64 alone": ("".join(BODY), NOT_PEM),
    "base64 that only begins like PEM": ("LS0tLS1CRUdJTiBQUklW!", NOT_PEM),
    "base64 of other bytes that begin like PEM": (
        base64.b64encode(b"-----BEGIN\xff\xfe").decode(),
        NOT_PEM,
    ),
    "lower case": (PKCS8.replace("BEGIN PRIVATE KEY", "begin private key"), NO_BEGIN),
    "no BEGIN line": (without(PKCS8, 0), NO_BEGIN),
    "no END line": (without(PKCS8, -1), NO_END),
    "no END line, literal \\n": (without(PKCS8, -1).replace("\n", "\\n"), NO_END),
    "BEGIN line alone": ("-----BEGIN PRIVATE KEY-----", NO_END),
    "nothing between": (PKCS8.splitlines()[0] + PKCS8.splitlines()[-1], NOT_A_KEY),
    "a line lost": (without(PKCS8, 5), NOT_A_KEY),
    "half of it": (
        "\n".join([PKCS8.splitlines()[0], *BODY[:9], PKCS8.splitlines()[-1]]),
        NOT_A_KEY,
    ),
    "other base64": (PKCS8.replace("".join(BODY[0]), "A" * 64), NOT_A_KEY),
    "a foreign letter": (PKCS8.replace(BODY[3], "é" + BODY[3][1:]), NOT_BASE64),
    "an ellipsis": (PKCS8.replace(BODY[3], "..."), NOT_BASE64),
    "lone surrogate": (PKCS8.replace(BODY[3], "\udcff" + BODY[3][1:]), NOT_BASE64),
    "a letter lost": (PKCS8.replace(BODY[3], BODY[3][1:]), NOT_BASE64),
    "two keys": (PKCS8 + PKCS1, several(2)),
    "three keys": (PKCS8 + pem(EC) + PKCS8, several(3)),
    "a key after a cut one": (without(PKCS8, -1) + "\n" + PKCS8, several(2)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_has_its_own_text(mistake: str) -> None:
    """What was found, where, and what to do now; and it is a fault of the settings, exit 2."""
    text, message = MISTAKES[mistake]

    with pytest.raises(SigningKeyError) as caught:
        load_signing_key(Secret(text), origin="KEY")

    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def failure(call: Callable[[], object]) -> SigningKeyError:
    """Return what *call* raises, without the frames of this test, which know the key."""
    try:
        call()
    except SigningKeyError as error:
        below = error.__traceback__
        while below is not None and below.tb_frame.f_code.co_filename == __file__:
            below = below.tb_next
        return error.with_traceback(below)
    raise AssertionError


def pieces(text: str) -> set[str]:
    """Return the windows of 12 characters of *text*, its BEGIN and END lines left out."""
    kept = [line for line in text.replace("\\n", "\n").splitlines() if "-----" not in line]
    whole = "".join(kept)
    return {whole[at : at + 12] for at in range(0, len(whole) - 11, 4)}


def leaks(error: BaseException, text: str) -> set[str]:
    """Return the pieces of *text* that a traceback with local variables shows."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = "".join(whole.format()) + repr(error) + repr(error.args)
    return {piece for piece in pieces(text) if piece in shown}


def test_the_search_for_leaks_finds_one() -> None:
    """An error that holds the key, or whose frame does, would be found."""

    def careless(text: str) -> None:
        raise SigningKeyError(f"{len(text)} characters, but no key")

    with pytest.raises(SigningKeyError) as caught:
        careless("c4n4ry-c4n4ry")

    assert leaks(caught.value, "c4n4ry-c4n4ry") == pieces("c4n4ry-c4n4ry")
    assert leaks(SigningKeyError(PKCS8), PKCS8) != set()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_x1_no_part_of_a_refused_key_is_in_its_traceback(mistake: str) -> None:
    """Neither the message nor a local variable nor a chained error shows any of the text."""
    text = Secret(MISTAKES[mistake][0])
    error = failure(lambda: load_signing_key(text, origin="KEY"))

    assert leaks(error, text.reveal()) == set()
    assert error.__cause__ is None
    assert error.__context__ is None
    assert error.__traceback__ is not None


def test_x1_a_refused_file_is_not_in_its_traceback(tmp_path: Path) -> None:
    """Bytes that are not text are shown nowhere; a decoder's own error would hold them."""
    file = tmp_path / "key.der"
    file.write_bytes(b"\xffc4n4ry-c4n4ry-c4n4ry")
    error = failure(lambda: read_key_file(file))

    assert leaks(error, "c4n4ry-c4n4ry-c4n4ry") == set()
    assert error.__context__ is None


def test_x1_a_loaded_key_shows_its_size_only() -> None:
    """Its repr is stars and bits, it keeps no dictionary, and it cannot be pickled."""
    key = load_signing_key(Secret(PKCS8), origin="KEY")

    assert repr(key) == "SigningKey(***, 2048 bits)"
    assert str(key) == "SigningKey(***, 2048 bits)"
    assert not hasattr(key, "__dict__")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(key)


async def test_a1_the_key_is_parsed_once() -> None:
    """One call that parses, on any thread, however many tokens are minted."""
    loads: list[str] = []

    def listen(frame: object, event: str, called: Any) -> None:
        name = getattr(called, "__name__", "")
        if event == "c_call" and name.startswith("load_") and "key" in name:
            loads.append(name)

    threading.setprofile(listen)
    sys.setprofile(listen)
    try:
        key = load_signing_key(Secret(PKCS8), origin="KEY")
        tokens = Tokens(key, audience="a", renew_ahead_s=60)
        for number in range(40):
            await tokens.mint(f"user {number}")
        tokens.close()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)

    assert loads == ["load_der_private_key"]
    assert tokens.minted == 40


def test_a_key_file_is_read(tmp_path: Path) -> None:
    """UTF-8 with or without byte order mark, and the UTF-16 that PowerShell writes."""
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file = tmp_path / f"{encoding}.pem"
        file.write_bytes(PKCS8.encode(encoding))
        assert read_key_file(file) == Secret(PKCS8)
        assert read_key_file(str(file)) == Secret(PKCS8)


WHERE = "Check --signing-key-file or PARAGON_SIGNING_KEY_FILE."


def loop_of_links(folder: Path) -> Path:
    """Return a link that leads to itself."""
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def file_of(data: bytes) -> Callable[[Path], Path]:
    """Return what makes a file with *data* in a folder."""

    def make(folder: Path) -> Path:
        (folder / "key").write_bytes(data)
        return folder / "key"

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.pem", f"does not exist. {WHERE}"),
        (lambda folder: folder, f"is a folder, not a key file. {WHERE}"),
        (lambda folder: folder / "nul\0", f"is not a path that a file can have. {WHERE}"),
        (loop_of_links, f"cannot be read (Too many levels of symbolic links). {WHERE}"),
        (file_of(b""), f"is empty. {GET}"),
        (file_of(b" \r\n"), f"is empty. {GET}"),
        (file_of(b"x" * 65_537), f"is larger than 64 KiB, so it is no PEM key. {WHERE}"),
        (
            file_of(b"\x30\x82\xff"),
            (
                "is not text, so it is not PEM. If it is a key in DER form: "
                "openssl pkey -inform DER -in KEY.der -out KEY.pem"
            ),
        ),
    ],
)
def test_a_key_file_that_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    """The path, what is wrong with it, and what to check."""
    path = make(tmp_path)

    with pytest.raises(SigningKeyError) as caught:
        read_key_file(path)

    assert str(caught.value) == f"{path} {message}"


def test_the_largest_key_file(tmp_path: Path) -> None:
    """64 KiB are read; what they hold is judged by whoever parses it."""
    path = file_of(b"x" * 65_536)(tmp_path)

    assert len(read_key_file(path).reveal()) == 65_536


@pytest.mark.parametrize(
    ("mode", "who"),
    [
        (0o600, None),
        (0o400, None),
        (0o620, None),
        (0o640, "its group"),
        (0o604, "everyone"),
        (0o644, "its group and everyone"),
    ],
)
def test_x7_a_key_file_that_others_can_read_is_warned_about(
    tmp_path: Path, mode: int, who: str | None
) -> None:
    """It names who can read it and how to close it; a private file is no matter."""
    path = tmp_path / "my key.pem"
    path.write_text(PKCS8)
    path.chmod(mode)
    expected = who and (
        f"{path} can be read by {who} (mode {mode:04o}), and whoever holds this key "
        f"can act as any user. Close it: chmod 600 '{path}'"
    )

    assert key_file_warning(path) == expected


def test_no_warning_about_a_file_that_is_not_there(tmp_path: Path) -> None:
    """That it cannot be read is told by whoever reads it."""
    assert key_file_warning(tmp_path / "none.pem") is None
    assert key_file_warning(tmp_path / "nul\0") is None


def test_the_demo_key_is_a_key() -> None:
    """2048 bits, fresh each time."""
    key = load_signing_key(make_demo_key(), origin="demo")

    assert key.bits == 2048
    assert make_demo_key() != make_demo_key()
    assert isinstance(key, SigningKey)
