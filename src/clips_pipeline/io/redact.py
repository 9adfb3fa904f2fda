"""The redactor: user names, passwords, tokens and signatures in text become `…`.

`redact` is used before anything is shown or written, `find_secret` to refuse configuration that contains a secret. Both
know the shapes of secrets (in URLs, headers and command lines), and the values of the credentials file (`remember`) and
of environment variables such as AWS_SECRET_ACCESS_KEY.
"""

import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "…"

# A shorter value would occur inside ordinary words.
_MIN_LENGTH, _MIN_LENGTH_IN_WORDS = 4, 8
_MAX_DEPTH = 20
# Limits for `find_secret`, so that its time is linear: addresses in one value, characters of an address.
_MAX_ADDRESSES, _MAX_LENGTH = 10_000, 4096
# Names of credentials and fsspec options.
_CREDENTIAL = re.compile("key|secret|token|pass|auth|sign|account", re.IGNORECASE)
# Names of parameters in a query or fragment.
_PARAMETER = re.compile(
    r"(?:^|[-_.])(?:sig|key|auth|pwd)(?:$|[-_.])|signature|token(?!iz)|secret|passw|passphrase|credential|access_?key"
    r"|api_?key|^x-(?:amz|goog)-",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(?:^|_)(?:SECRET|TOKEN|PASSWORD|PASSWD|PGPASSWORD|KEY)(?:$|_)", re.IGNORECASE)
_NO_SECRET_VARIABLE = re.compile(r"_(?:FILE|PATH|DIR|SOCK)$", re.IGNORECASE)
# In these, the text before `@` may be a user or container name and is shown; with `:` it includes a password.
_NAMES_BEFORE_AT = re.compile(
    r"(?:ssh|sftp|hdfs|webhdfs|abfs|abfss|wasb|wasbs|az|postgresql|postgres|mysql|mariadb)(?:\+\w+)?", re.IGNORECASE
)
_CHUNK = re.compile(r"[^\s'\"<>`]+")
_ADDRESS_START = re.compile(r"([A-Za-z][\w+.-]{0,30})://")
_URL_WITH_USER = re.compile(r"[A-Za-z][\w+.-]{0,30}://[^@\n]+@[^\n]+")
_SHELL_VARIABLES = re.compile(r"\$\{?\w+\}?(?::\$\{?\w+\}?)?")
# Secrets in headers and command lines. A value that begins with `$` is a shell variable, which is not secret. Every
# repetition before a required character is bounded, so that long words take linear time.
_VALUE = r"(?!['\"]?\$)(?:'[^']*'|\"[^\"]*\"|[^\s'\"]+)"
_IN_COMMANDS = (
    re.compile(
        r"((?:\bproxy-|\b)authorization|\b(?:set-)?cookie|\bprivate-token|\bapi-?key"
        r"|\bx-[\w-]{0,40}?(?:token|key|auth|secret)[\w-]{0,40})(\\?['\"]?\s{0,9}[:=]\s{0,9}['\"]?)"
        r"(?!(?:\w{1,20}\s{1,9})?['\"]?\$)(?![\s…])[^'\"\n]+",
        re.IGNORECASE,
    ),
    re.compile(r"(\bbearer)(\s{1,9})(?!\$)[\w.~+/=-]{8,}", re.IGNORECASE),
    re.compile(
        r"(--(?:\w{1,20}-){0,4}(?:password|passwd|token|secret|key|bearer|credentials?|auth))([= ]\s{0,9})(?!-)"
        + _VALUE,
        re.IGNORECASE,
    ),
    re.compile(r"((?<!\S)(?:-u|--(?:proxy-)?user))([= ]?['\"]?)(?!\d+:\d+\b)[^\s:'\"$]{1,200}:(?!\$)[^\s'\"]+"),
    re.compile(
        r"(\b(?:[A-Z0-9]{1,30}_){0,6}(?:SECRET|TOKEN|PASSWORD|PASSWD|PGPASSWORD|KEY)(?:_[A-Z0-9]{1,30}){0,3})(=)"
        + _VALUE
    ),
    re.compile(r"(\b(?:password|passwd|pwd|sslpassword|secret))(\s?=\s?)" + _VALUE, re.IGNORECASE),
    re.compile(
        r"(['\"][\w-]{0,30}(?:password|passwd|secret|token|api_key|access_key|account_key)['\"])(\s{0,9}:\s{0,9})"
        r"(?:'[^']*'|\"[^\"]*\")",
        re.IGNORECASE,
    ),
)

_remembered: set[str] = set()


def redact(text: str) -> str:
    """Return `text` with `…` in place of user information and signatures of URLs, secret headers and options, and known secrets.

    In doubt it hides too much: an `@` in the path of a URL with a port hides what is before it.
    """
    for secret in _known_secrets():
        if secret in text:
            short = len(secret) < _MIN_LENGTH_IN_WORDS
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text) if short else text.replace(secret, HIDDEN)
    if "://" in text:
        text = _CHUNK.sub(lambda chunk: _redact_addresses(chunk[0]), text)
    for pattern in _IN_COMMANDS:
        text = pattern.sub(rf"\1\2{HIDDEN}", text)
    return text


def redact_values(value: Any) -> Any:
    """Return a JSON value with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_values(item) for key, item in value.items()}
    return [redact_values(item) for item in value] if isinstance(value, list | tuple) else value


def find_secret(text: str) -> str | None:
    """Return what kind of secret an address or another value of the configuration contains, None where there is none.

    Unlike `redact`, it must not refuse what is no secret, such as a path with an `@`.

    Args:
        text: one value. In `pipe:COMMAND`, the shell's variables are no secrets.
    """
    command = "pipe:" in text
    for part in _CHUNK.findall(text) if command else [text]:
        for start in islice(_ADDRESS_START.finditer(part), _MAX_ADDRESSES):
            rest = part[start.end() : start.end() + _MAX_LENGTH]
            user = _user_information(start[1], rest)
            if user and not (command and _SHELL_VARIABLES.fullmatch(user)):
                return "a user name or password"
            if _has_secret_parameter(rest):
                return "a signature, token or password in its query"
    if command and any(pattern.search(text) for pattern in _IN_COMMANDS):
        return "a password or token in its command"
    if any(len(secret) >= _MIN_LENGTH_IN_WORDS and secret in text for secret in _known_secrets()):
        return "a value of the credentials"
    return None


def remember(credentials: Any) -> None:
    """Add the secrets of credentials (nested mappings, such as a credentials file) to those that this process redacts."""
    _remembered.update(_secrets_in(credentials, False, _MAX_DEPTH))


def forget() -> None:
    """Remove all remembered secrets."""
    _remembered.clear()


def _known_secrets() -> list[str]:
    """Return remembered secrets and those of the environment, as they stand and as in URLs, longest first."""
    found = set(_remembered)
    for name, value in os.environ.items():
        if _URL_WITH_USER.fullmatch(value):
            found.update(_passwords_in(value))
        elif len(value) >= _MIN_LENGTH_IN_WORDS and _is_secret_variable(name, value):
            found.add(value)
    long_enough = {secret for secret in found if len(secret) >= _MIN_LENGTH}
    return sorted(long_enough | {quote(secret, safe="") for secret in long_enough}, key=lambda one: (-len(one), one))


def _is_secret_variable(name: str, value: str) -> bool:
    if not _VARIABLE.search(name) or _NO_SECRET_VARIABLE.search(name):
        return False
    return not (value.startswith("/") and os.path.exists(value))


def _secrets_in(value: Any, secret: bool, depth: int) -> Iterator[str]:
    if isinstance(value, Mapping) and depth:
        for name, inner in value.items():
            yield from _secrets_in(inner, secret or _CREDENTIAL.search(str(name)) is not None, depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for inner in value:
            yield from _secrets_in(inner, secret, depth - 1)
    elif isinstance(value, str):
        if _URL_WITH_USER.fullmatch(value):
            yield from _passwords_in(value)
        elif secret:
            yield value
            # The scheme of a header is not secret.
            yield from value.strip().split(" ")[1:]


def _passwords_in(url: str) -> Iterator[str]:
    user, colon, password = url.split("://", 1)[1].rpartition("@")[0].partition(":")
    secret = password if colon else user
    yield from {secret, unquote(secret)}


def _redact_addresses(chunk: str) -> str:
    start = _ADDRESS_START.search(chunk)
    if start is None:
        return chunk
    rest = chunk[start.end() :]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    # A password may contain `/`, `?` and `@`, so where there is a `:` everything up to the last `@` may belong to it.
    at = (rest if ":" in authority else authority).rfind("@")
    if at >= 0 and (":" in authority or not _NAMES_BEFORE_AT.fullmatch(start[1])):
        rest = f"{HIDDEN}{rest[at:]}"
    path, question, query = rest.partition("?")
    if question and "=" in query:
        # Keep punctuation of the sentence.
        rest = f"{path}?{HIDDEN}{query[len(query.rstrip('.,:;)]')) :]}"
    path, hash_sign, fragment = rest.partition("#")
    if hash_sign and _has_secret_parameter(f"#{fragment}"):
        rest = f"{path}#{HIDDEN}"
    return chunk[: start.end()] + rest


def _user_information(scheme: str, rest: str) -> str:
    """Return what is before the `@` of a URL; empty where it has no user information, or only a name that is not secret."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if at:
        return "" if ":" not in user and _NAMES_BEFORE_AT.fullmatch(scheme) else user
    name, colon, port = authority.partition(":")
    # `user:a/b@host`: the password contains a slash. A port is a number, or the end of an IPv6 address.
    if colon and "@" in rest and not name.startswith("[") and not re.fullmatch(r"\d*", port):
        return rest.rpartition("@")[0]
    return ""


def _has_secret_parameter(rest: str) -> bool:
    names = re.findall(r"[?&#;]([\w.-]{1,100})=", rest)
    return any(_PARAMETER.search(name) for name in names)
