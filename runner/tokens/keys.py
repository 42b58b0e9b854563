"""Reads a signing key in every form in which people keep one, and refuses the rest by name.

Text of a key stands inside a `Secret` or in no variable at all, and every refusal is raised
where no text is in reach: a traceback that prints local variables shows stars. For the same
reason no exception of a library is chained, as some carry what they could not read.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn, SupportsIndex, final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from runner.errors import SigningKeyError
from runner.secret import STARS, HiddenStr, Secret

MIN_BITS: Final = 2048
"""RFC 7518 section 3.3: shorter keys must not sign RS256."""

MAX_FILE_BYTES: Final = 64 * 1024
"""A 16,384-bit key in PEM takes 13 KB; whatever is larger than this is no key."""

_GET = "Use the RSA private key (PEM) from the SDK Setup page of the Paragon dashboard."
_AGAIN = "Copy the key again, from the BEGIN line to the END line."

_EMPTY = f"is empty. {_GET}"
_PUBLIC = f"holds a public key, which cannot sign. {_GET}"
_CERTIFICATE = f"holds a certificate, which cannot sign. {_GET}"
_OTHER_PEM = f"holds PEM, but no private key. {_GET}"
_OPENSSH = f"holds a key in OpenSSH's own format, which is not the one Paragon issues. {_GET}"
_JWK = f"holds a key as JSON (JWK), not as PEM. {_GET}"
_JSON = f"holds JSON, not a PEM key. {_GET}"
_TOKEN = (
    "holds a token (JWT), not a key. "
    f"A ready-made user token belongs in PARAGON_USER_TOKEN. To mint tokens: {_GET}"
)
_PATH = (
    "holds what looks like the path of a file, not a key. "
    "Give the path with --signing-key-file or in PARAGON_SIGNING_KEY_FILE."
)
_NOT_PEM = f"is not PEM: it has no first line of a private key. {_GET}"
_NO_BEGIN = f"is cut off: the '-----BEGIN PRIVATE KEY-----' line is missing. {_AGAIN}"
_NO_END = f"is cut off: the '-----END PRIVATE KEY-----' line is missing. {_AGAIN}"
_ENCRYPTED = (
    "holds an encrypted key, and there is no way to give its passphrase. "
    "Decrypt it to a private file first: openssl pkey -in ENCRYPTED.pem -out KEY.pem"
)
_NOT_BASE64 = f"is damaged: what stands between its BEGIN and END lines is not base64. {_AGAIN}"
_NOT_A_KEY = (
    "is damaged: what stands between its BEGIN and END lines is base64, "
    f"but not a whole private key. {_AGAIN}"
)
_NOT_RSA = f"holds {{kind}} key, but tokens are signed with RS256, which needs an RSA key. {_GET}"
_TOO_SHORT = f"holds an RSA key of {{bits}} bits; at least {MIN_BITS} are needed. {_GET}"
_SEVERAL = "holds {count} private keys, and which one is meant cannot be told. Leave only one."

_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (ec.EllipticCurvePrivateKey, "an EC"),
    (ed25519.Ed25519PrivateKey, "an Ed25519"),
    (dsa.DSAPrivateKey, "a DSA"),
)

# Line breaks as they come from files of every system, and spelled out as in .env files.
_LINE_BREAK = re.compile(r"(?:\\+r)?\\+n|\\+r|\r\n?")
_WRAPPING = " \t\r\n\"'`\ufeff"
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)(-----END |(?=-----BEGIN )|\Z)", re.DOTALL)
_PEM_IN_BASE64 = "LS0tLS1CRUdJT"
_JWT = re.compile(r"(?:Bearer\s+)?eyJ[\w-]*\.[\w-]+\.[\w-]*", re.ASCII | re.IGNORECASE)
_FILE_NAME = re.compile(r"[^\n]{1,250}\.(?:pem|key|p8|txt)", re.IGNORECASE)
_PUBLIC_SSH = ("ssh-rsa ", "ssh-ed25519 ", "ssh-dss ", "ecdsa-sha2-")


@final
class SigningKey:
    """A parsed RSA private key. It keeps no text of the key and prints as stars."""

    __slots__ = ("_key",)

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key

    @property
    def bits(self) -> int:
        """Length of the modulus; at least `MIN_BITS` for a key that was loaded."""
        return self._key.key_size

    def sign(self, claims: Mapping[str, object]) -> HiddenStr:
        """Return a JWT (RS256) of *claims*. Takes nearly a millisecond with 2048 bits."""
        return HiddenStr(jwt.encode(dict(claims), self._key, algorithm="RS256"))

    def public_pem(self) -> bytes:
        """Return the public half as PEM, for whoever checks the tokens."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def __repr__(self) -> str:
        return f"SigningKey({STARS}, {self.bits} bits)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a SigningKey cannot be pickled or copied")


def load_signing_key(text: Secret, *, origin: str) -> SigningKey:
    r"""Parse *text*, once; *origin* is the file's path or the variable's name, for errors.

    Takes PEM (PKCS#8 or PKCS#1) with real line breaks, CRLF, a spelled-out ``\n``, blanks or
    none in their place, blanks and quotes around it, other text or certificates beside it,
    and PEM that was wrapped in base64 once more.
    Raises `SigningKeyError` for anything else, saying what was found instead.
    """
    found = _find_key(text)
    if isinstance(found, str):
        raise SigningKeyError(f"{origin} {found}")
    return SigningKey(found)


def read_key_file(path: str | os.PathLike[str]) -> Secret:
    """Return the text of the file at *path*; raise `SigningKeyError` if there is none to read."""
    found = _read(Path(path))
    if isinstance(found, str):
        raise SigningKeyError(f"{os.fspath(path)} {found}")
    return found


def key_file_warning(path: str | os.PathLike[str]) -> str | None:
    """Return a warning if others than the file's owner may read it, else None.

    Mounted secrets are often readable by a group, so this warns and does not refuse.
    """
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return None
    # Elsewhere the mode says nothing about who may read.
    if os.name != "posix" or not mode & 0o044:
        return None
    others = " and ".join(
        who for who, bit in (("its group", 0o040), ("everyone", 0o004)) if mode & bit
    )
    return (
        f"{os.fspath(path)} can be read by {others} (mode {mode:04o}), and whoever holds this key "
        f"can act as any user. Close it: chmod 600 {shlex.quote(os.fspath(path))}"
    )


def make_demo_key() -> Secret:
    """Return a new RSA key of 2048 bits as PEM. Takes some tenths of a second."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=MIN_BITS)
    return Secret(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode("ascii")
    )


class _Block(msgspec.Struct, frozen=True):
    """One PEM block: from its BEGIN line to its END line, to the next BEGIN, or to the end."""

    label: str
    body: Secret
    ended: bool


def _find_key(text: Secret) -> rsa.RSAPrivateKey | str:
    """Return the key in *text*, or what is wrong, as the end of a sentence."""
    text = _unwrapped(_cleaned(text))
    if not text.reveal():
        return _EMPTY
    blocks = _blocks(text)
    private = [block for block in blocks if block.label.endswith("PRIVATE KEY")]
    if not private:
        return _without_block(text) if not blocks else _without_private_key(blocks[0].label)
    if len(private) > 1:
        return _SEVERAL.format(count=len(private))
    return _rsa_key(private[0])


def _cleaned(text: Secret) -> Secret:
    return Secret(_LINE_BREAK.sub("\n", text.reveal()).strip(_WRAPPING))


def _unwrapped(text: Secret) -> Secret:
    if not text.reveal().startswith(_PEM_IN_BASE64):
        return text
    try:
        return _cleaned(Secret(_from_base64(text).decode("ascii")))
    except ValueError:
        return text


def _from_base64(text: Secret) -> bytes:
    # Line breaks may have become blanks, or nothing: none of them carries meaning here.
    return base64.b64decode(
        "".join(text.reveal().split()).encode("ascii", "replace"), validate=True
    )


def _blocks(text: Secret) -> tuple[_Block, ...]:
    return tuple(
        _Block(label, Secret(body), bool(end)) for label, body, end in _BLOCK.findall(text.reveal())
    )


def _without_private_key(label: str) -> str:
    if "PUBLIC KEY" in label:
        return _PUBLIC
    return _CERTIFICATE if label.endswith("CERTIFICATE") else _OTHER_PEM


def _without_block(text: Secret) -> str:
    if "-----END " in text.reveal():
        return _NO_BEGIN
    if text.reveal().startswith("{"):
        return _JWK if '"kty"' in text.reveal() else _JSON
    if _JWT.fullmatch(text.reveal()):
        return _TOKEN
    if text.reveal().startswith(_PUBLIC_SSH):
        return _PUBLIC
    return _PATH if _FILE_NAME.fullmatch(text.reveal()) else _NOT_PEM


def _rsa_key(block: _Block) -> rsa.RSAPrivateKey | str:
    if block.label == "OPENSSH PRIVATE KEY":
        return _OPENSSH
    if not block.ended:
        return _NO_END
    if block.label == "ENCRYPTED PRIVATE KEY" or "Proc-Type:" in block.body.reveal():
        return _ENCRYPTED
    try:
        key = serialization.load_der_private_key(_from_base64(block.body), password=None)
    except binascii.Error:
        return _NOT_BASE64
    except UnsupportedAlgorithm:
        return _NOT_RSA.format(kind="another kind of")
    except TypeError:
        # Encrypted in truth, whatever its label says.
        return _ENCRYPTED
    except ValueError:
        return _NOT_A_KEY
    if not isinstance(key, rsa.RSAPrivateKey):
        names = (name for kind, name in _KINDS if isinstance(key, kind))
        return _NOT_RSA.format(kind=next(names, "another kind of"))
    if key.key_size < MIN_BITS:
        return _TOO_SHORT.format(bits=key.key_size)
    return key


def _read(path: Path) -> Secret | str:
    """Return the text of a file, or what is wrong with it, as the end of a sentence."""
    where = "Check --signing-key-file or PARAGON_SIGNING_KEY_FILE."
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return f"does not exist. {where}"
    except IsADirectoryError:
        return f"is a folder, not a key file. {where}"
    except OSError as error:
        return f"cannot be read ({error.strerror}). {where}"
    except ValueError:
        return f"is not a path that a file can have. {where}"
    if len(raw) > MAX_FILE_BYTES:
        return f"is larger than {MAX_FILE_BYTES // 1024} KiB, so it is no PEM key. {where}"
    return _decoded(raw)


def _decoded(raw: bytes) -> Secret | str:
    # PowerShell 5 writes UTF-16 when output is redirected into a file.
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = Secret(raw.decode(encoding))
    except UnicodeDecodeError:
        return (
            "is not text, so it is not PEM. If it is a key in DER form: "
            "openssl pkey -inform DER -in KEY.der -out KEY.pem"
        )
    return text if text.reveal().strip() else _EMPTY
