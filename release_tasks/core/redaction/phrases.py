"""Secrets that are known by the words around them: headers, options of commands, SQL, parameters of signed URLs.

One row for each form. A named group is a secret; the text around it stays.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

from attrs import frozen

from release_tasks.core.redaction.harmless import is_harmless_word, is_identifier, is_path, is_readable, is_reference
from release_tasks.core.redaction.views import Span

__all__ = ["PHRASES", "Phrase", "find_phrases"]


@frozen
class Phrase:
    """A form of text. ``hints`` are lower-case texts, one of which is in the line of every match.

    Letters match in both cases, and every repetition has a limit. A value for which ``is_harmless`` is true stays.
    """

    name: str
    hints: tuple[bytes, ...]
    pattern: bytes
    is_harmless: Callable[[bytes], bool] | None = None


# A word of a shell or of a list in JSON or Python, up to the blank or the quote that ends it.
_WORD = rb"(?:\\{0,3}\"(?P<a>[^\"\n]{2,512})\"|\\{0,3}'(?P<b>[^'\n]{2,512})'|(?P<c>(?![-$])[^\s\"'\\,\]]{2,512}))"
_NAME_END = rb"(?:(?:\\{0,3}[\"'])?\]?[ \t]{0,4}[:=]>?|\\{0,3}[\"'][ \t]{0,4},)[ \t]{0,4}[\[(]?(?:\\{0,3}[\"'`])?"
_SECRET_OPTION = (
    rb"(?:password|passwd|passphrase|pass|pwd|secret|token|api-?key|access-?key|secret-?key|private-?key|account-?key|"
    rb"auth-?key|encryption-?key|master-?key|client-?secret|credentials?|cookie|secret-?string|sas-?token|auth|psk)"
)
_DATABASES = rb"(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump|mariadb-admin)"
_REGISTRIES = rb"(?:docker|podman|helm|oras|nerdctl|buildah|skopeo|oc|az|vault|npm|cf)"


def _is_account(value: bytes) -> bool:
    return is_identifier(value) or is_readable(value)


def _is_plain_option(value: bytes) -> bool:
    return is_harmless_word(value) or is_path(value) or re.fullmatch(rb"[a-z]{2,12}:[a-z]{2,12}", value) is not None


PHRASES = (
    Phrase(
        "Authorization",
        (b"authori",),
        rb"(?<!\w)(?:proxy-)?authori[sz]ation"
        + _NAME_END
        + rb"(?:(?:bearer|basic|token|api-?key|negotiate|ntlm|key|splunk|ssws|bot|oauth|genie\w{3}|sharedkey|flyv1|aws)"
        rb"[ \t=:]{1,4}(?P<a>(?!\$\{)[^\s\"'`]{4,4096})|(?!(?:\w{1,20}[ ])?\$\{)"
        rb"(?P<b>(?=[^\n\"'`]{0,64}(?:[0-9=_-]|[a-z]{8}))[^\n\"'`\s][^\n\"'`]{3,4096}))",
    ),
    Phrase(
        "Cookie",
        (b"cookie",),
        rb"(?<![a-z0-9])(?:set-)?cookie2?(?:\\{0,3}[\"'])?[ \t]{0,4}[:,][ \t]{0,4}\[?(?:\\{0,3}[\"'`])?(?!\$\{)"
        rb"(?P<v>[\w.\[\]-]{1,128}=[^\n\"'`]{3,4096})",
    ),
    Phrase(
        "Bearer, Basic",
        (b"bearer", b"basic", b"ssws", b"splunk", b"flyv1"),
        rb"(?<![\w-])(?:bearer|basic|ssws|splunk|flyv1)[ \t]{1,4}"
        rb"(?P<v>(?=[a-z._~+/-]{0,128}(?:[0-9=]|(?-i:[a-z][A-Z])))[\w.~+/=-]{8,4096})",
    ),
    Phrase(
        "header with a key",
        (b"-key", b"-token", b"-secret", b"-auth", b"-signature", b"-password", b"-session"),
        rb"(?<!\w)x-[a-z-]{0,40}(?:key|token|secret|auth|signature|password|session)"
        + _NAME_END
        + rb"(?!\$\{)(?P<v>[^\n\"'`\s;,&]{4,4096})",
        is_path,
    ),
    Phrase(
        "option",
        (b"--", b"-pass"),
        rb"(?<![\w-])--?(?:[a-z0-9]{1,20}-){0,4}"
        + _SECRET_OPTION
        + rb"(?:[ \t]{1,4}|=|\\{0,3}[\"'],[ \t]{0,4})"
        + _WORD,
        _is_plain_option,
    ),
    Phrase(
        "-u user:password",
        (b"-u", b"--user", b"--proxy-user", b"--login", b"--auth", b"--basic-auth"),
        rb"(?<![\w-])(?<!python[ ])(?<!python3[ ])"
        rb"(?:-u|--user|--proxy-user|--userpwd|--login|--auth|--basic-auth)(?:[ \t=]{0,4}|\\{0,3}["
        rb"\"'],[ \t]{0,4})"
        rb"\\{0,3}(?P<_quote>[\"'])?[\w.@+$-]{0,128}[:%](?![/:])"
        rb"(?P<v>(?(_quote)[^\"'\n\\]{2,256}|[^\s\"'\\]{2,256}))",
        _is_account,
    ),
    Phrase(
        "curl -u",
        (b"curl", b"wget", b"http"),
        rb"(?<![\w./])(?:curl|wget|https?|xh)[ ][^\n|;]{0,200}?(?<=[ ])(?-i:-[a-zA-Z]{0,6}u|--user)[ =]{0,4}"
        rb"(?P<_quote>[\"'])?[\w.@+-]{1,64}:(?P<v>(?(_quote)[^\"'\n\\]{2,256}|[^\s\"'\\]{2,256}))",
    ),
    Phrase(
        "mysql -p",
        (b"mysql", b"mariadb"),
        rb"(?<!\w)"
        + _DATABASES
        + rb"\b[^\n|;]{0,200}?[ ](?-i:-p)(?P<v>[^\s\"'=-][^\s\"']{2,128}|[\"'][^\"'\n]{3,128})",
    ),
    Phrase(
        "redis-cli -a",
        (b"redis-cli", b"valkey-cli", b"keydb-cli"),
        rb"(?:redis|valkey|keydb)-cli\b[^\n|;]{0,200}?[ ](?:-a|--pass)[ ]{1,4}[\"']?(?P<v>[^\s\"']{3,256})",
    ),
    Phrase("sshpass -p", (b"sshpass",), rb"sshpass[ ]{1,4}(?-i:-p)[ ]{0,4}[\"']?(?P<v>[^\s\"']{3,256})"),
    Phrase(
        "login -p",
        (b"login",),
        rb"(?<!\w)"
        + _REGISTRIES
        + rb"\b[^\n|;]{0,80}?\blogin\b[^\n|;]{0,160}?[ ](?-i:-p)[ ]{1,4}[\"']?(?P<v>[^\s\"']{3,512})",
    ),
    Phrase(
        "-w, -P, -p, -k of clients",
        (b" -w", b" -p", b" -k"),
        rb"(?<![\w-])(?-i:"
        rb"ldap\w{1,10}[ ][^\n|;]{0,200}?(?<=[ ])-w|"
        rb"(?:mosquitto_\w{3}|ipmitool|sqlcmd|bcp|unzip|zip)[ ][^\n|;]{0,200}?(?<=[ ])-P|"
        rb"(?:mongo\w{0,8}|cqlsh|cypher-shell|influx|clickhouse-client)[ ][^\n|;]{0,200}?(?<=[ ])-p|"
        rb"openssl[ ](?!s_client)[^\n|;]{0,200}?(?<=[ ])-[kK])"
        rb"[ =]{1,4}[\"']?(?P<v>(?!\d{1,5}(?:[\s\"']|$))[^\s\"'/-][^\s\"'/]{3,128})(?![^\s\"'])",
        is_path,
    ),
    Phrase("smbclient -U", (b"-u",), rb"(?<!\w)(?-i:-U)[ ]{0,4}[\"']?[\w.\\-]{1,64}%(?P<v>[^\s\"']{3,128})"),
    Phrase(
        "htpasswd -b",
        (b"htpasswd",),
        rb"htpasswd\b[^\n|;]{0,80}[ ]-\w{0,6}b\w{0,6}[ ]{1,4}(?:-\S{1,20}[ ]{1,4}){0,4}[^\s-]\S{0,127}[ ]{1,4}"
        rb"\S{1,64}[ ]{1,4}[\"']?(?P<v>[^\s\"']{3,128})",
    ),
    Phrase("openssl pass:", (b"pass:",), rb"(?<!\w)pass:(?P<v>[^\s\"']{3,256})"),
    Phrase(
        "configure set",
        (b"configure set", b"config set", b"config:set"),
        rb"confi(?:g|gure)[ :]set[ ]{1,4}[\w.:/@-]{0,80}(?:secret|token|key|password|_auth)[\w.-]{0,20}[ =]{"
        rb"1,4}[\"']?(?P<v>[^\s\"']{4,512})",
    ),
    Phrase(
        "netrc",
        (b"login", b"password"),
        rb"(?<!\w)(?:login|user)[ \t]{1,8}\S{1,128}\s{1,8}(?:password|passwd)[ \t]{1,8}(?P<v>\S{3,256})",
    ),
    Phrase(
        "npmrc", (b"_auth", b"_password"), rb"(?<!\w)_(?:auth|password)[ \t]{0,2}=[ \t]{0,2}\"?(?P<v>[^\s\"$]{4,512})"
    ),
    Phrase(
        "pgpass",
        (b":5432:", b":*:", b":6432:"),
        rb"(?<![\w.])[\w.*-]{1,253}:(?:5432|6432|\*):[\w*-]{1,63}:[\w*-]{1,63}:(?P<v>[^\s:\"']{4,128})",
    ),
    Phrase(
        "SQL",
        (b"password", b"identified"),
        rb"(?<!\w)(?:password|identified[ ](?:with[ ]\S{1,40}[ ])?(?:by|as))[ \t]{1,4}(?:password[ \t])?(?P<"
        rb"_quote>'|\")(?P<v>[^'\"\n]{3,256})(?P=_quote)",
    ),
    Phrase(
        "name and value",
        (b"value",),
        rb"(?<!\w)(?:name|key)\\{0,3}[\"']?\s{0,4}[:=]\s{0,4}\\{0,3}[\"']?[\w.-]{0,60}"
        rb"(?:password|passwd|secret|token|api_?key|access_?key|private_?key|credentials?|cookie|_dsn|_pass|"
        rb"_pwd)[\w.-]{0,20}"
        rb"\\{0,3}[\"']?\s{0,4},?\s{0,40}\\{0,3}[\"']?value\\{0,3}[\"']?\s{0,4}[:=]\s{0,4}\\{0,3}[\"']?"
        rb"(?P<v>[^\s\"',}\\]{4,1024})",
    ),
    Phrase(
        "docker auth",
        (b'"auth"', b'"identitytoken"', b'"registrytoken"', b'\\"auth\\"'),
        rb"\"(?:auth|identitytoken|registrytoken)\\{0,3}\"[ \t]{0,4}:[ \t]{0,4}\\{0,3}\"(?P<v>[\w+/=.-]{8,4096})",
    ),
    Phrase(
        "parameter",
        (
            b"sig",
            b"assertion",
            b"sid=",
            b"samlresponse",
            b"session",
            b"verifier",
            b"hmac",
            b"passkey",
            b"code=",
            b"key=",
        ),
        rb"(?:[?&;]|(?<![\w.-]))(?:x-amz-signature|x-goog-signature|x-oss-signature|signature|sig|hmac|code|"
        rb"key|client_assertion|"
        rb"assertion|samlresponse|code_verifier|sid|phpsessid|jsessionid|asp\.net_sessionid|sessionid|session_id|"
        rb"connect\.sid|laravel_session|passkey)=(?P<v>(?=[a-z%._~+/-]{0,64}(?:[0-9]))[^\s&\"';<>,()\[\]]{16,4096})",
        is_readable,
    ),
    Phrase(
        "XML",
        (b"password>", b"passwd>", b"secret>", b"token>", b"apikey>", b"passphrase>"),
        rb"<(?:\w{1,40}:)?\w{0,40}(?:password|passwd|secret|token|apikey|passphrase)>(?P<v>[^<\n]{4,1024})</",
    ),
    Phrase(
        "XML attributes",
        (b"value=",),
        rb"(?:key|name)=\"[\w.:-]{0,60}(?:password|secret|token|api_?key|private_?key)\"[ \t]{1,4}value=\"(?"
        rb"P<v>[^\"\n]{4,1024})\"",
    ),
    Phrase(
        "JSON Web Key",
        (b'"kty"',),
        rb"\"(?:d|p|q|dp|dq|qi|k)\\{0,3}\"[ \t]{0,4}:[ \t]{0,4}\\{0,3}\"(?P<v>[\w-]{20,2048})",
    ),
)


def find_phrases(data: bytes, lower: bytes) -> Iterator[Span]:
    """Yield the places of secrets in ``data``; ``lower`` is the same in lower case."""
    for phrase in PHRASES:
        if any(hint in lower for hint in phrase.hints):
            for match in _compiled(phrase.pattern).finditer(data):
                yield from (
                    match.span(group)
                    for group in match.re.groupindex
                    if not group.startswith("_") and match[group] is not None and not is_reference(match[group])
                    if phrase.is_harmless is None or not phrase.is_harmless(match[group])
                )


@functools.cache
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.IGNORECASE)
