"""Secrets that are known by the words around them: headers, options of commands, SQL, parameters of signed URLs.

One row for each form. A named group is a secret; the text around it stays.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator

from attrs import frozen

from release_tasks.core.redaction.harmless import (
    is_harmless_word,
    is_identifier,
    is_path,
    is_readable,
    is_reference,
    looks_random,
)
from release_tasks.core.redaction.views import Span
from release_tasks.core.redaction.vocabulary import Vocabulary

__all__ = ["PHRASES", "Phrase", "find_phrases", "phrases_in"]


@frozen
class Phrase:
    """A form of text. ``hints`` are lower-case texts, one of which is in the line of every match, as ``also`` is.

    Letters match in both cases, and every repetition has a limit. A value for which ``is_harmless`` is true stays.
    """

    name: str
    hints: tuple[bytes, ...]
    pattern: bytes
    is_harmless: Callable[[bytes], bool] | None = None
    also: bytes = b""


# A word of a shell or of a list in JSON or Python, up to the blank or the quote that ends it.
_WORD = rb"(?:\\{0,3}\"(?P<a>[^\"\n]{2,512})\"|\\{0,3}'(?P<b>[^'\n]{2,512})'|(?P<c>(?![-$])[^\s\"'\\,\]]{2,512}))"
_NAME_END = rb"(?:(?:\\{0,3}[\"'])?\]?[ \t]{0,4}[:=]>?|\\{0,3}[\"'][ \t]{0,4},)[ \t]{0,4}[\[(]?(?:\\{0,3}[\"'`])?"
_SECRET_OPTION = (
    rb"(?:password|passwd|passphrase|pass|pwd|secret|token|api-?key|access-?key|secret-?key|private-?key|account-?key|"
    rb"auth-?key|encryption-?key|master-?key|client-?secret|credentials?|cookie|secret-?string|sas-?token|auth|psk)"
)
_NAME = rb"(?:password|passwd|passphrase|secret|token|api_?key|access_?key|private_?key|_pass|_pwd|credentials?|_key)"
_DATABASES = rb"(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump|mariadb-admin)"
_REGISTRIES = rb"(?:docker|podman|crane|regctl|helm|oras|nerdctl|buildah|skopeo|oc|az|vault|npm|cf)"


def _is_account(value: bytes) -> bool:
    return is_identifier(value) or is_readable(value)


def _is_not_random(value: bytes) -> bool:
    return not looks_random(value)


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
        (b"curl ", b"wget "),
        rb"(?<![\w./])(?:curl|wget)[ ][^\n|;]{0,200}?(?<=[ ])(?-i:-[a-zA-Z]{0,6}u|--user)[ =]{0,4}"
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
        + rb"\b[^\n|;]{0,80}?\blogin\b[^\n|;]{0,160}?[ ](?-i:-p)[ ]{0,4}[\"']?(?P<v>[^\s\"'=-][^\s\"']{2,512})",
        also=b" -p",
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
        rb"confi(?:g|gure)[ :]set[ ]{1,4}(?:--\S{1,20}[ ]{1,4}){0,3}"
        rb"[\w.:/@-]{0,80}(?:secret|token|key|password|_auth)[\w.-]{0,20}[ =]{"
        rb"1,4}[\"']?(?P<v>[^\s\"']{4,512})",
    ),
    Phrase(
        "netrc",
        (b"password ", b"password\t", b"passwd "),
        rb"(?<!\w)(?:machine|login|user)[ \t]{1,8}\S{1,253}(?:\s{1,8}(?:login|user|account)[ \t]{1,8}\S{1,128}){0,2}"
        rb"\s{1,8}(?:password|passwd)[ \t]{1,8}(?P<v>\S{3,256})",
        is_harmless_word,
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
        rb"assertion|samlresponse|code_verifier|sid|phpsessid|jsessionid|asp\.net_sessionid|session|sessionid|session_id|"
        rb"connect\.sid|laravel_session|passkey)=(?P<v>(?=[a-z%._~+/-]{0,64}(?:[0-9]))[^\s&\"';<>,()\[\]]{16,4096})",
        is_readable,
        b"=",
    ),
    Phrase(
        "XML",
        (b"password>", b"passwd>", b"secret>", b"token>", b"apikey>", b"passphrase>"),
        rb"<(?:\w{1,40}:)?\w{0,40}(?:password|passwd|secret|token|apikey|passphrase)(?:[ ][^<>\n]{0,200})?>"
        rb"\s{0,80}(?P<v>[^<\s][^<\n]{3,1024}?)\s{0,80}</",
        is_harmless_word,
    ),
    Phrase(
        "XML attributes",
        (b"value=",),
        rb"(?:key|name)=\"[\w.:-]{0,60}(?:password|secret|token|api_?key|private_?key)\"[ \t]{1,4}value=\"(?"
        rb"P<v>[^\"\n]{4,1024})\"",
    ),
    Phrase(
        "Authorization with parameters",
        (b"authori",),
        rb"(?<!\w)(?:proxy-)?authori[sz]ation" + _NAME_END + rb"(?P<v>(?:digest|hawk|oauth|signature|mac|escher|"
        rb"[a-z0-9-]{1,16}-hmac-sha\d{1,3})[ ]{1,4}\w{1,30}=[^\n']{8,4096})",
    ),
    Phrase(
        "header of a provider",
        (b"fastly-key", b"honeycomb-team", b"jfrog-art-api", b"hub-signature", b"jenkins-crumb", b"cb-access-"),
        rb"(?<![\w-])(?:fastly-key|x-honeycomb-team|x-jfrog-art-api|x-hub-signature(?:-256)?|jenkins-crumb|"
        rb"cb-access-(?:sign|passphrase|key))" + _NAME_END + rb"(?:sha\d{1,3}=)?(?P<v>[^\s\"'`,;]{6,512})",
    ),
    # Commands whose arguments are secrets by their place.
    Phrase(
        "login with a token",
        (b"vault", b"cargo login", b"wandb", b"netlify", b"railway", b"snyk auth", b"authtoken"),
        rb"(?<![\w-])(?:vault[ ](?:login|operator[ ]unseal)|(?:cargo|wandb|netlify|railway)[ ]login|snyk[ ]auth|"
        rb"ngrok[ ](?:config[ ])?(?:add-)?authtoken)[ ]{1,4}(?:-[\w=-]{1,40}[ ]{1,4}){0,3}[\"']?(?P<v>[^\s\"']{8,512})",
        _is_not_random,
    ),
    Phrase(
        "user and password",
        (b"rabbitmqctl", b"alias set", b"host add", b"lftp", b"net use", b"nmcli"),
        rb"(?<![\w-])(?:rabbitmqctl[ ](?:-\S{1,40}[ ]){0,3}(?:add_user|change_password|authenticate_user)[ ]{1,4}"
        rb"\S{1,64}[ ]|mcl?i?[ ](?:alias[ ]set|config[ ]host[ ]add)[ ]\S{1,64}[ ]\S{1,253}[ ]\S{1,64}[ ]|"
        rb"lftp[ ][^\n|;]{0,160}?-u[ ]{1,4}[\w.@-]{1,64},|net[ ]use[ ][^\n|]{0,200}?/user:\S{1,128}[ ]|"
        rb"nmcli[ ][^\n|;]{0,200}?[ ]password[ ])[ ]{0,4}[\"']?(?P<v>[^\s\"'/-][^\s\"']{2,256})",
    ),
    Phrase(
        "Oracle",
        (b"sqlplus", b"expdp", b"impdp", b"sqlldr", b"userid=", b"oracle:"),
        rb"(?<!\w)(?:(?:sqlplus|expdp|impdp|sqlldr)\b[^\n|;]{0,80}?[ =]|userid=|jdbc:oracle:\w{2,5}:)[\"']?"
        rb"[\w$#.]{1,40}/(?P<v>[^\s@\"'/]{3,64})@",
    ),
    Phrase(
        "-p before the password",
        (b"7z", b"rar "),
        rb"(?<![\w/.])(?:7z[az]?|rar|unrar)[ ][^\n|;]{0,200}?[ ](?-i:-h?p)[\"']?(?P<v>[^\s\"'-][^\s\"']{2,128})",
    ),
    Phrase(
        "option of one command",
        (b"plink", b"pscp", b"psftp", b"ssh-keygen", b"twine", b"codecov", b"nuget", b"snmp", b"freerdp"),
        rb"(?<![\w/.])(?:(?:plink|pscp|psftp)[ ][^\n|;]{0,160}?-pw[ ]|ssh-keygen[ ][^\n|;]{0,160}?(?-i:-[NP])[ ]|"
        rb"twine[ ][^\n|;]{0,160}?(?-i:-p)[ ]|codecov[ ][^\n|;]{0,160}?-t[ ]|nuget[ ]push[ ][^\n|;]{0,160}?-k[ ]|"
        rb"snmp\w{2,12}[ ][^\n|;]{0,160}?(?-i:-c[ ]|-A[ ](?P<a>\S{4,64})[ ](?:-x[ ]\S{2,12}[ ])?-X[ ])|"
        rb"[xw]freerdp[ ][^\n|;]{0,160}?/p:)[ ]{0,4}[\"']?(?P<v>[^\s\"'-][^\s\"']{3,512})",
    ),
    Phrase(
        "bindpw",
        (b"bindpw", b"rootpw"),
        rb"(?:bindpw|rootpw)[ \t:=]{1,8}[\"']?(?P<v>[^\s\"']{4,256})",
        is_harmless_word,
    ),
    Phrase(
        "link with a token",
        (b"/reset", b"/invite", b"/magic", b"?magic=", b"&pw=", b"?pw=", b"appid="),
        rb"/(?:reset-password|reset_password|reset|invite|magic)/(?:\w{1,6}/)?(?P<a>(?=[a-z/-]{0,64}\d)[\w-]{20,512})|"
        rb"[?&](?:magic|appid)=(?P<b>[\w-]{20,512})|[?&]pw=(?P<v>[^\s&\"']{4,256})",
    ),
    Phrase("erl -setcookie", (b"-setcookie",), rb"(?<![\w-])-setcookie[ ]{1,4}[\"']?(?P<v>[^\s\"']{4,256})"),
    Phrase(
        "keytool",
        (b"storepass", b"keypass"),
        rb"(?<![\w-])--?(?:src|dest)?(?:store|key)pass(?:wd)?[ ]{1,4}[\"']?(?P<v>[^\s\"'-][^\s\"']{3,256})",
        is_harmless_word,
    ),
    Phrase(
        "ConvertTo-SecureString",
        (b"securestring",),
        rb"ConvertTo-SecureString[ ]{1,4}(?:-String[ ]{1,4})?(?P<_quote>[\"'])(?P<v>[^\"'\n]{3,256})(?P=_quote)",
    ),
    Phrase(
        "chpasswd",
        (b"chpasswd",),
        rb"echo[ ](?:-\w{1,3}[ ])?[\"']?[\w.-]{1,64}:(?P<v>[^\s\"']{3,256})[\"']?[ ]{0,4}\|[ ]{0,4}"
        rb"(?:sudo[ ])?chpasswd",
    ),
    Phrase(
        "echo to a command",
        (b"login", b"sudo", b"cryptsetup", b"passwd", b"kinit", b"with-token", b"<<<"),
        rb"(?<![\w-])(?:echo|printf)[ ]{1,4}(?:-\w{1,3}[ ]{1,4}){0,2}(?P<_quote>[\"'])?(?P<v>(?(_quote)[^\"'\n]{3,512}|"
        rb"[^\s\"'|]{3,512}))[\"']?[ ]{0,4}\|[ ]{0,4}(?:sudo[ ]-S|cryptsetup|passwd|kinit|(?:docker|podman|helm|gh|"
        rb"crane|oras|skopeo|buildah|vault|wandb|npm|glab)[ ][^\n|;]{0,80}?(?:login|--with-token))",
        also=b"|",
    ),
    Phrase(
        "here string",
        (b"<<<",),
        rb"(?<![\w-])(?:kinit|passwd|cryptsetup|sudo[ ]-S|docker[ ]login)\b[^\n|;<]{0,120}<<<[ ]{0,4}[\"']?"
        rb"(?P<v>[^\s\"']{3,256})",
    ),
    Phrase(
        "config set --secret",
        (b"--secret",),
        rb"config[ ]set[ ](?:--?\S{1,40}[ ]){0,4}--secret[ ](?:--?\S{1,40}[ ]){0,4}[\w:.-]{1,80}[ ]{1,4}[\"']?"
        rb"(?P<v>[^\s\"'-][^\s\"']{2,512})",
    ),
    Phrase(
        "setenv",
        (b"setenv", b"set -", b"env "),
        rb"(?<![\w-])(?:setenv|set[ ]-[gUx]{1,3}|env)[ ]{1,4}\w{0,60}" + _NAME + rb"\w{0,20}[ ]{1,4}" + _WORD,
        is_harmless_word,
    ),
    Phrase(
        "assignment in quotes",
        (b"password", b"passwd", b"secret", b"token", b"key", b"_pass", b"_pwd", b"credential"),
        rb"(?P<_quote>[\"'])(?<=[\s=,\[(][\"'])[\w.-]{0,60}" + _NAME + rb"\w{0,20}=(?P<v>[^\"'\n]{4,512})(?P=_quote)",
        is_harmless_word,
    ),
    Phrase(
        "--from-literal",
        (b"--from-literal",),
        rb"--from-literal[= ][\"']?[\w.-]{1,80}=(?P<v>[^\s\"']{4,512})",
        is_harmless_word,
    ),
    # Lines of protocols. Capitals, and the end of the line, tell them from sentences.
    Phrase(
        "AUTH",
        (b"auth ",),
        rb"(?<![\w\"'-])(?-i:AUTH)[ ](?:(?:PLAIN|LOGIN|XOAUTH2|CRAM-MD5)[ ](?P<a>[\w+/=]{8,4096})|(?:[\w.-]{1,40}[ ])?"
        rb"(?P<v>(?=[^\s\"']{0,64}[0-9])[^\s\"']{8,256})[ \t\r]{0,4}(?![^\n]))",
        is_harmless_word,
    ),
    Phrase(
        "AUTH of redis monitor",
        (b'"auth"',),
        rb"\"auth\"[ ](?:\"[^\"\n]{1,64}\"[ ])?\"(?P<v>[^\"\n]{3,512})\"(?![ ]\")",
    ),
    Phrase(
        "configuration of redis",
        (b"requirepass", b"masterauth", b"primaryauth", b"auth-pass"),
        rb"(?<!\w)(?:requirepass|masterauth|primaryauth|auth-pass[ ]\S{1,64})[\"']?[ =:]{1,4}[\"']?"
        rb"(?P<v>(?=[^\s\"']{0,64}[0-9]|[^\s\"']{12})[^\s\"']{4,512})",
        is_harmless_word,
    ),
    Phrase("ACL SETUSER", (b"acl setuser",), rb"acl[ ]setuser[ ][^\n]{1,80}?[ ]>(?P<v>\S{3,256})"),
    Phrase(
        "PASS, LOGIN",
        (b"pass ", b" login "),
        rb"(?-i:(?:PASS(?:(?<![^\n]PASS)|(?<=[>:][ ]PASS))|LOGIN(?<=\d[ ]LOGIN)[ ]\S{1,128}))[ ]"
        rb"(?P<v>(?=\S{0,64}[0-9])\S{4,256})[ \t\r]{0,4}(?![^\n])",
        is_readable,
    ),
    # Sentences of installers.
    Phrase(
        "the password is",
        (b"password", b"passwd", b"passphrase", b"token", b"secret", b"api key"),
        rb"(?<![\w-])(?:password|passwd|passphrase|token|secret|api[ ]key)(?:[ ]for[ ]\S{1,64})?[ ]{0,2}"
        rb"(?:[ ](?:is|was set to|set to))?[ ]?:?[ ]{1,4}[\"'`]?"
        rb"(?P<v>(?!\w{1,20}=)[^\s\"'`,;]{8,512})(?<![.:])",
        _is_not_random,
    ),
    Phrase(
        "password on the next line",
        (b"password", b"new value:", b"unseal key", b"recovery code", b"wif "),
        rb"(?<!\w)(?:password[^\n:=|]{1,100}:[ \t]{0,8}\r?\n(?:[ \t]{0,8}\r?\n)?[ \t]{0,8}|new[ ]value:[ ]|"
        rb"(?:unseal|recovery)[ ](?:key|code)s?(?:[ ]\d{1,2})?:[ ]{1,4}|wif[ :]{1,3})"
        rb"(?P<v>[^\s\"'`,;]{8,512})(?=[ \t\r]{0,8}(?:\n|(?![\s\S])|[ ][a-z]))",
        _is_not_random,
    ),
    Phrase(
        "words of a wallet",
        (b"mnemonic", b"seed phrase"),
        rb"(?:mnemonic|seed[ ]phrase)[\"']?[ ]?[:=][ ]?[\"']?(?P<v>(?:[a-z]{3,8}[ ]){11,23}[a-z]{3,8})",
    ),
    Phrase(
        "groups of four",
        (b"secret", b"seed", b"keypair"),
        rb"(?:secret|seed)[^\n:=]{0,16}[:=][ ]{0,4}(?P<a>(?:[A-Z2-7]{4}[ ]){3,15}[A-Z2-7]{4}|[A-Z2-7]{16,64})(?!\w)|"
        rb"keypair[^\n\[]{0,16}\[(?P<b>(?:\d{1,3},[ ]?){31,63}\d{1,3})\]",
    ),
    Phrase(
        "SQL, other forms",
        (b"password for", b"identified by"),
        rb"(?<!\w)(?:set[ ]password[ ]for[ ][^\n=]{1,128}=[ ]{0,4}[\"'](?P<a>[^\"'\n]{3,256})[\"']|identified[ ]by[ ]"
        rb"(?P<b>(?!(?:password|values|random)\b)[^\s\"';,]{4,128}))",
    ),
    Phrase(
        "AWS key and secret",
        (b"akia", b"asia"),
        rb"(?-i:A[KS]IA[A-Z0-9]{16})[\"']?[:,|\t ]{1,4}[\"']?(?P<v>[A-Za-z0-9/+]{40})(?![\w/+])",
    ),
)

_HINTS = tuple({hint for phrase in PHRASES for hint in phrase.hints})


def phrases_in(vocabulary: Vocabulary) -> list[tuple[Phrase, list[bytes]]]:
    """Return the phrases with a hint in a text, each with these hints: few in an ordinary text."""
    found = frozenset(vocabulary.those_in(_HINTS))
    present = [(phrase, [hint for hint in phrase.hints if hint in found]) for phrase in PHRASES] if found else []
    return [(phrase, hints) for phrase, hints in present if hints]


def find_phrases(data: bytes, lower: bytes, phrases: Iterable[tuple[Phrase, list[bytes]]]) -> Iterator[Span]:
    """Yield the places of secrets in ``data`` by ``phrases_in`` a text around it; ``lower`` is it in lower case."""
    for phrase, hints in phrases:
        if any(hint in lower for hint in hints) and phrase.also in lower:
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
