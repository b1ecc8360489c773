"""Secrets in the forms of the field, with made-up values, and harmless lines that look a little like them.

Every value is generated, and every token is put together from parts, so that no scanner takes this file for a leak.
"""

from __future__ import annotations

import base64
import json
import random
import string

from attrs import frozen

__all__ = ["HARMLESS", "LEAKS", "PEM", "Leak", "pieces"]

_random = random.Random(20261129)
_DIGITS, _HEX = string.digits, "0123456789abcdef"
_LETTERS = string.ascii_letters + _DIGITS


@frozen
class Leak:
    """A text of the field with a secret in it; ``secret`` is the part that nothing may show."""

    name: str
    text: str
    secret: str


def pieces(secret: str) -> set[str]:
    """Return short pieces of a secret, from its start, its middle and its end."""
    words = [word for word in secret.split("\n") if len(word) >= 6 and "-----" not in word]
    found = set()
    for word in words:
        middle = len(word) // 2
        found |= {word[:8], word[-8:], word[middle - 4 : middle + 4]} if len(word) > 8 else {word}
    return found


def _value(alphabet: str, size: int) -> str:
    while True:
        value = "".join(_random.choice(alphabet) for _ in range(size))
        if any(each in _DIGITS for each in value) and any(each.isalpha() for each in value):
            return value


def word(size: int = 24) -> str:
    """Return letters and digits."""
    return _value(_LETTERS, size)


def low(size: int) -> str:
    """Return small letters and digits."""
    return _value(string.ascii_lowercase + _DIGITS, size)


def up(size: int) -> str:
    """Return capital letters and digits."""
    return _value(string.ascii_uppercase + "234567", size)


def hexa(size: int) -> str:
    """Return digits in hex."""
    return _value(_HEX, size)


def _mixed(size: int) -> str:
    """Return letters and digits, with a digit and a capital near the start."""
    return word(size - 2) if size < 3 else "b" + number(1) + "Q" + word(size - 3)


def number(size: int) -> str:
    """Return digits, the first not 0."""
    return _random.choice("123456789") + "".join(_random.choice(_DIGITS) for _ in range(size - 1))


def uuid() -> str:
    """Return an id with the dashes of a UUID."""
    return f"{hexa(8)}-{hexa(4)}-{hexa(4)}-{hexa(4)}-{hexa(12)}"


def _pem(kind: str) -> str:
    lines = "\n".join(word(64) for _ in range(8))
    return f"-----BEGIN {kind}-----\n{lines}\n{word(40)}==\n-----END {kind}-----"


PEM = _pem("RSA " + "PRIVATE KEY")

# Before each token stands what a log writes there; the token is the prefix and the generated value.
_TOKENS = [
    ("1Password", "A3-", f"{up(6)}-{up(11)}-{up(5)}-{up(5)}-{up(5)}"),
    ("1Password service account", "ops_" + "eyJ", word(120)),
    ("Adobe", "p8" + "e-", low(32)),
    ("age", "AGE-SECRET-" + "KEY-1", up(58)),
    ("Airtable", "pat" + word(14) + ".", hexa(64)),
    ("Alibaba", "LT" + "AI", word(20)),
    ("Anthropic", "sk-" + "ant-api03-", word(93) + "AA"),
    ("OpenAI", "sk-" + "proj-", word(74) + "T3Blbk" + "FJ" + word(74)),
    ("OpenAI, older", "sk" + "-", word(20) + "T3Blbk" + "FJ" + word(20)),
    ("OpenRouter", "sk-" + "or-v1-", hexa(64)),
    ("Artifactory", "AK" + "Cp", word(69)),
    ("Artifactory reference", "cm" + "Vmd", word(59)),
    ("Asana", "1/" + number(16) + ":", hexa(32)),
    ("Atlassian", "ATA" + "TT3", word(180)),
    ("Bitbucket", "AT" + "BB", word(32)),
    ("AWS access key", "AK" + "IA", up(16)),
    ("AWS temporary key", "AS" + "IA", up(16)),
    ("AWS Bedrock", "AB" + "SK", word(110)),
    ("Azure AD", "Ab" + "c8Q" + "~", word(34)),
    ("Buildkite", "bk" + "ua_", hexa(40)),
    ("CircleCI", "CCI" + "PAT_", f"{word(22)}_{hexa(40)}"),
    ("ClickHouse", "4b" + "1d", word(38)),
    ("Clojars", "CLO" + "JARS_", low(60)),
    ("Cloudflare", "v1" + ".0-", f"{hexa(24)}-{hexa(146)}"),
    ("Contentful", "CF" + "PAT-", word(43)),
    ("Figma", "fi" + "gd_", word(40)),
    ("crates.io", "ci" + "o", word(32)),
    ("Databricks", "da" + "pi", hexa(32)),
    ("DigitalOcean", "dop" + "_v1_", hexa(64)),
    ("DigitalOcean OAuth", "doo" + "_v1_", hexa(64)),
    ("DigitalOcean refresh", "dor" + "_v1_", hexa(64)),
    ("Discord bot", "MT" + number(1), word(22) + "." + word(6) + "." + word(38)),
    ("Docker Hub", "dckr" + "_pat_", word(27)),
    ("Doppler", "dp" + ".pt.", word(43)),
    ("Doppler service", "dp" + ".st.prd.", word(40)),
    ("Dropbox", "sl" + ".", word(135)),
    ("Duffel", "duffel" + "_live_", word(43)),
    ("Dynatrace", "dt0" + "c01.", f"{up(24)}.{up(64)}"),
    ("EasyPost", "EZ" + "AK", word(54)),
    ("Facebook", "EA" + "AC", word(120)),
    ("Flutterwave", "FLWSECK" + "_TEST-", hexa(32) + "-X"),
    ("Fly.io", "fo" + "1_", word(43)),
    ("Fly.io macaroon", "fm" + "2_", word(120)),
    ("Frame.io", "fio" + "-u-", word(64)),
    ("GitHub", "gh" + "p_", word(36)),
    ("GitHub OAuth", "gh" + "o_", word(36)),
    ("GitHub user", "gh" + "u_", word(36)),
    ("GitHub server", "gh" + "s_", word(36)),
    ("GitHub refresh", "gh" + "r_", word(76)),
    ("GitHub fine-grained", "github" + "_pat_", f"{word(22)}_{word(59)}"),
    ("GitLab", "gl" + "pat-", word(20)),
    ("GitLab routable", "gl" + "pat-", f"{word(27)}.{low(9)}"),
    ("GitLab deploy", "gl" + "dt-", word(20)),
    ("GitLab runner", "gl" + "rt-", word(20)),
    ("GitLab trigger", "gl" + "ptt-", hexa(40)),
    ("GitLab job", "gl" + "cbt-", f"64_{word(20)}"),
    ("GitLab agent", "gl" + "agent-", word(50)),
    ("GitLab runner, older", "GR13" + "48941", word(20)),
    ("Google API key", "AI" + "za", word(35)),
    ("Google OAuth", "ya" + "29.", word(80)),
    ("Google client secret", "GOC" + "SPX-", word(28)),
    ("Google refresh token", "1/" + "/0", word(60)),
    ("Grafana", "gl" + "sa_", f"{word(32)}_{hexa(8)}"),
    ("Grafana Cloud", "gl" + "c_eyJ", word(100)),
    ("Grafana, older", "eyJr" + "Ijoi", word(80)),
    ("Groq", "gs" + "k_", word(52)),
    ("xAI", "xa" + "i-", word(80)),
    ("Perplexity", "pp" + "lx-", word(48)),
    ("Harness", "pat" + "." + word(22) + ".", f"{word(24)}.{word(20)}"),
    ("Heroku", "HRKU" + "-AA", word(58)),
    ("Hugging Face", "h" + "f_", word(34)),
    ("Infracost", "ic" + "o-", word(32)),
    ("JWT", "ey" + "JhbGciOiJIUzI1NiJ9.", f"{'ey' + 'J'}{word(60)}.{word(43)}"),
    ("LangSmith", "ls" + "v2_pt_", f"{hexa(32)}_{hexa(10)}"),
    ("LaunchDarkly", "sd" + "k-", uuid()),
    ("Linear", "lin" + "_api_", word(40)),
    ("Mailchimp", "", hexa(32) + "-us" + "12"),
    ("Mailgun", "ke" + "y-", hexa(32)),
    ("Mapbox", "sk" + ".eyJ", f"{word(60)}.{word(22)}"),
    ("MaxMind", word(6) + "_", word(29) + "_m" + "mk"),
    ("MongoDB Atlas", "mdb" + "_sa_sk_", word(40)),
    ("Neon", "na" + "pi_", low(64)),
    ("Netlify", "nf" + "p_", word(40)),
    ("New Relic", "NR" + "AK-", up(27)),
    ("New Relic licence", "", hexa(36) + "NR" + "AL"),
    ("Notion", "nt" + "n_", number(11) + word(35)),
    ("npm", "np" + "m_", word(36)),
    ("NuGet", "oy" + "2", low(43)),
    ("Octopus Deploy", "AP" + "I-", up(26)),
    ("OpenShift", "sha256" + "~", word(43)),
    ("PayPal", "access" + "_token$production$" + low(16) + "$", hexa(32)),
    ("Pinecone", "pc" + "sk_", word(60)),
    ("Plaid", "access" + "-sandbox-", uuid()),
    ("PlanetScale", "pscale" + "_tkn_", word(43)),
    ("PlanetScale password", "pscale" + "_pw_", word(43)),
    ("Postman", "PM" + "AK-", f"{hexa(24)}-{hexa(34)}"),
    ("Prefect", "pn" + "u_", word(36)),
    ("Pulumi", "pu" + "l-", hexa(40)),
    ("PyPI", "pypi" + "-AgEIcHlwaS5vcmc", word(150)),
    ("Razorpay", "rzp" + "_live_", word(14)),
    ("ReadMe", "rd" + "me_", low(70)),
    ("Replicate", "r8" + "_", word(37)),
    ("RubyGems", "ruby" + "gems_", hexa(48)),
    ("Scalingo", "tk" + "-us-", word(48)),
    ("SendGrid", "S" + "G.", f"{word(22)}.{word(43)}"),
    ("Brevo", "xkey" + "sib-", f"{hexa(64)}-{word(16)}"),
    ("Sentry organisation", "sntr" + "ys_eyJpYXQiO", word(120)),
    ("Sentry user", "sntr" + "yu_", hexa(64)),
    ("Shippo", "shippo" + "_live_", hexa(40)),
    ("Shopify", "shp" + "at_", hexa(32)),
    ("Shopify shared secret", "shp" + "ss_", hexa(32)),
    ("Slack bot", "xox" + "b-", f"{number(12)}-{number(12)}-{word(24)}"),
    ("Slack user", "xox" + "p-", f"{number(11)}-{number(11)}-{number(12)}-{hexa(32)}"),
    ("Slack app", "xap" + "p-1-", f"A0{up(9)}-{number(13)}-{hexa(64)}"),
    ("SonarQube", "sq" + "u_", hexa(40)),
    ("Snyk", "snyk" + "_uat.", f"{word(8)}.{word(60)}"),
    ("Sourcegraph", "sg" + "p_" + hexa(16) + "_", hexa(40)),
    ("Square", "sq0" + "atp-", word(22)),
    ("Square, longer", "EA" + "AA", word(60)),
    ("Stripe", "sk" + "_live_", word(99)),
    ("Stripe restricted", "rk" + "_test_", word(24)),
    ("Stripe webhook", "wh" + "sec_", word(32)),
    ("Supabase", "sb" + "p_", hexa(40)),
    ("Tailscale", "ts" + "key-auth-", f"{word(12)}CNTRL-{word(32)}"),
    ("Telegram", number(10) + ":" + "AA", word(33)),
    ("Tencent", "AK" + "ID", word(32)),
    ("Terraform Cloud", "", f"{word(14)}.atlas" + "v1." + word(67)),
    ("Trello", "AT" + "TA", hexa(64)),
    ("Twilio", "S" + "K", hexa(32)),
    ("Typeform", "tf" + "p_", word(59)),
    ("Vault", "hv" + "s.", word(95)),
    ("Vault batch", "hv" + "b.", word(140)),
    ("Vault, older", "s" + ".", "A1b" + word(21)),
    ("Yandex", "AQ" + "VN", word(36)),
    ("BIP 32", "xp" + "rv", word(107)),
    ("bcrypt", "$2" + "b$12$", word(53)),
    ("shadow", "$" + "6$", f"{word(16)}${word(86)}"),
    ("Django hash", "pbkdf2" + "_sha256$600000$", f"{word(22)}${word(43)}="),
    ("age plugin", "AGE-" + "PLUGIN-YUBIKEY-1", up(50)),
    ("Azure DevOps", "", word(76) + "AZ" + "DO" + word(4)),
    ("Ably", "", f"{word(6)}.{word(6)}:{word(43)}"),
    ("AppVeyor", "v" + "2.", _mixed(20)),
    ("Cerebras", "cs" + "k-", low(48)),
    ("ClickUp", "pk" + f"_{number(8)}_", up(32)),
    ("Cloudflare, newer", "cf" + "ut_", word(48)),
    ("Deno", "dd" + "p_", word(36)),
    ("DER in hex", "30" + "8204a4020100", hexa(200)),
    ("Discord user", "mf" + "a.", word(84)),
    ("Docker Swarm", "SWM" + "TKN-1-", f"{low(50)}-{low(25)}"),
    ("ElevenLabs", "sk" + "_", hexa(48)),
    ("Fauna", "fn" + "AE", word(40)),
    ("Fernet", "gA" + "AAAABl", word(92) + "=="),
    ("Firebase messaging", "AA" + "AA" + word(7) + ":APA" + "91b", word(134)),
    ("Fireworks", "fw" + "_", _mixed(22)),
    ("Google HMAC", "GO" + "OG1E", up(56)),
    ("Honeycomb", "hc" + "aik_", low(58)),
    ("HubSpot", "pat" + "-na1-", uuid()),
    ("Intercom", "dG" + "9rO", word(55)),
    ("Jina", "ji" + "na_", word(60)),
    ("JWT with lines", "ew" + "ogICJ0eXAiOiJKV1QiLAogICJhbGciOiJIUzI1NiJ9.", f"ewog{word(80)}.{word(43)}"),
    ("JWE", "ey" + "JhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..", f"{word(16)}.{word(64)}.{word(22)}"),
    ("LangFuse", "sk" + "-lf-", uuid()),
    ("macaroon", "MD" + "Ax", word(100)),
    ("Mandrill", "md" + "-", _mixed(22)),
    ("Mapbox temporary", "tk" + ".eyJ", f"{word(60)}.{word(22)}"),
    ("Matrix", "sy" + "t_", f"{word(20)}_{word(20)}_{word(6)}"),
    ("minisign", "RWR" + "TY0Iy", word(200)),
    ("Modal", "as" + "-", _mixed(22)),
    ("Mollie", "li" + "ve_", _mixed(30)),
    ("MySQL hash", "*", hexa(40).upper()),
    ("NATS", "S" + "U", up(56)),
    ("ntfy", "tk" + "_", low(29)),
    ("Okta", "0" + "0", _mixed(40)),
    ("PagerDuty", "u" + "+", _mixed(18)),
    ("PASETO", "v4" + ".local.", word(120)),
    ("PostgreSQL hash", "md" + "5", hexa(32)),
    ("Resend", "re" + "_", f"{word(8)}_{word(24)}"),
    ("Salesforce", "00" + f"D{word(12)}!", "AQ" + word(90)),
    ("Sanity", "s" + "k", _mixed(120)),
    ("SCRAM hash", "SCRAM" + "-SHA-256$4096:", f"{word(22)}==${word(43)}=:{word(43)}="),
    ("SSHA hash", "{SS" + "HA}", word(32)),
    ("Stripe intent", "pi" + "_", f"{word(24)}_secret_{word(40)}"),
    ("Tavily", "tv" + "ly-", word(32)),
    ("Together", "tgp" + "_v1_", word(43)),
    ("Twitch", "oau" + "th:", low(30)),
    ("Twitter", "A" * 21, _mixed(80)),
    ("Vercel", "vc" + "p_", word(56)),
    ("Voyage", "pa" + "-", _mixed(43)),
    ("Xata", "xa" + "u_", word(36)),
]


def _leaks() -> list[Leak]:
    found = [Leak(name, f"using {prefix}{secret} now", secret) for name, prefix, secret in _TOKENS]

    def add(name: str, form: str, secret: str) -> None:
        found.append(Leak(name, form.replace("@@", secret), secret))

    add("Telegram URL", f"GET https://api.telegram.org/bot{number(10)}:AA@@/sendMessage", word(33))
    add("Slack webhook", "POST https://hooks." + "slack.com/services/@@", f"T{up(8)}/B{up(8)}/{word(24)}")
    add("Discord webhook", f"https://discord.com/api/webhooks/{number(18)}/@@", word(68))
    add("Teams webhook", "https://x.webhook.office.com/webhookb2/@@", f"{uuid()}@{uuid()}/IncomingWebhook/{hexa(32)}")
    add("Zapier webhook", "https://hooks.zapier.com/hooks/catch/@@/", f"{number(7)}/{low(7)}")
    add("Redis URL", "cannot reach redis://:@@@cache:6379/0", word(16))
    add("URL", "postgres://app:@@@db:5432/x", word(12))
    add("URL, slash and at", "postgresql://app:@@@db:5432/x", f"{word(8)}/{word(8)}@{word(8)}")
    add("URL, comma", "mysql://app:@@@db/x failed", f"{word(8)},{word(8)}")
    add("URL, blanks", "amqp://app:@@@mq:5672/", f"{word(8)} {word(8)} x")
    add("URL, percent", "mongodb+srv://app:@@@c.example.net/x", f"{word(8)}%2F{word(8)}%40")
    add("URL of a proxy", "HTTPS_PROXY=http://ci:@@@proxy:3128", word(14))
    add("URL with a token", "git clone https://@@@github.com/o/r", word(30))
    add("Sentry DSN", "SENTRY_DSN=https://@@@o1.ingest.sentry.io/42", hexa(32))
    add("DSN of libpq", "host=db user=app password=@@ dbname=x", f"{word(6)}/{word(6)}@,{word(4)}")
    add("DSN of ADO", "Server=db;Uid=app;Pwd=@@;Database=x", word(14))
    add("DSN of PHP", "mysql:host=db;dbname=x;user=a;password=@@", word(14))
    add("Azure storage", "AccountName=a;AccountKey=@@;EndpointSuffix=core.windows.net", word(86) + "==")
    add("Azure service bus", "Endpoint=sb://x/;SharedAccessKey=@@", word(43) + "=")
    add("Azure SAS", "https://a.blob.core.windows.net/c?sv=2024&se=2027&sig=@@&sp=r", word(40) + "%3D")
    add("AWS signature", "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=@@", hexa(64))
    add("AWS secret", "aws_secret_access_key = @@", f"{word(20)}/{word(19)}")
    add("AWS session", "AWS_SESSION_TOKEN=@@", f"{word(100)}/{word(60)}==")
    add("Authorization Bearer", "> Authorization: Bearer @@", word(40))
    add("Authorization Token", "Authorization: Token @@", hexa(40))
    add("Authorization Basic", "authorization: Basic @@", base64.b64encode(f"a:{word(12)}".encode()).decode())
    add("Authorization, bare", "'Authorization': '@@'", word(24))
    add("Authorization SSWS", "Authorization: SSWS @@", "00" + word(40))
    add("Set-Cookie", "< Set-Cookie: sid=@@; Path=/; HttpOnly", word(32))
    add("Cookie", "Cookie: theme=dark; session=@@", word(32))
    add("cookie in JSON", '{"cookie": "session=@@"}', word(32))
    add("header with a key", '-H "X-Api-Key: @@"', word(24))
    add("header in a dict", "{'X-Auth-Token': '@@'}", word(24))
    add("curl -u", "curl -u admin:@@ https://x.example.com/", word(14))
    add("curl --user", "curl --user 'admin:@@' https://x.example.com/", f"{word(8)} {word(8)}")
    add("option", "deploy --password @@ --env prod", word(14))
    add("option with =", "deploy --password=@@ --env prod", word(14))
    add("option in quotes", 'deploy --client-secret "@@" x', f"{word(8)} {word(8)}")
    add("option in a list", '["deploy", "--token", "@@"]', word(24))
    add("mysql -p", "mysqldump -u root -p@@ app", word(14))
    add("redis-cli -a", "redis-cli -h cache -a @@ ping", word(14))
    add("sshpass", "sshpass -p @@ ssh app@host", word(14))
    add("docker login", "docker login -u ci -p @@ registry.example.com", word(20))
    add("htpasswd", "htpasswd -b -c users app @@", word(14))
    add("smbclient -U", "smbclient //h/share -U app%@@ -c ls", word(14))
    add("ldapsearch -w", "ldapsearch -x -D cn=app -w @@ -b dc=x", word(14))
    add("configure set", "npm config set //r.example.com/:_auth @@", word(24))
    add("configure set of AWS", "aws configure set aws_secret_access_key @@", word(40))
    add("npmrc, older", "_auth = @@", word(24) + "==")
    add("openssl pass:", "openssl rsa -in k.pem -passin pass:@@", word(14))
    add("netrc", "machine h.example.com login ci password @@", word(14))
    add("npmrc", "//registry.npmjs.org/:_authToken=@@", word(36))
    add("pgpass", "db.example.com:5432:app:app:@@", word(14))
    add("SQL", "ALTER ROLE app WITH PASSWORD '@@'", word(14))
    add("SQL of MySQL", "CREATE USER a IDENTIFIED BY '@@'", f"{word(8)} {word(6)}")
    add("environment", "DJANGO_SECRET_KEY=@@", word(40) + "$%(")
    add("environment, export", "export DB_PASS='@@'", f"{word(8)} {word(8)}")
    add("environment of Docker", "docker run -e MYSQL_ROOT_PASSWORD=@@ mysql", word(14))
    add("YAML", "  db_password: @@", word(14))
    add("YAML of Kubernetes", "- name: DB_PASSWORD\n  value: @@", word(14))
    add("YAML block", "password: |\n  @@", word(20))
    add("JSON", '{"client_secret": "@@", "x": 1}', word(24))
    add("JSON with blanks", '{"password": "@@"}', f"{word(8)} {word(8)} {word(4)}")
    add("JSON in JSON", '{"line": "{\\"apiKey\\": \\"@@\\"}"}', word(24))
    add("TOML", 'access_token = "@@"', word(24))
    add("Ruby", ":password => '@@'", word(14))
    add("Python", "Settings(api_key='@@', debug=False)", word(24))
    add("tuple", "('password', '@@')", word(14))
    add("XML", "<password>@@</password>", word(14))
    add("XML attribute", '<add key="DbPassword" value="@@" />', word(14))
    add("docker config", '{"auths": {"r.example.com": {"auth": "@@"}}}', word(40))
    add("JWK", '{"kty": "EC", "crv": "P-256", "d": "@@"}', word(43))
    add("query", "GET /cb?access_token=@@&state=1", word(30))
    add("OAuth code", "GET /cb?state=1&code=@@", word(30))
    add("session id", "GET /x;JSESSIONID=@@", up(32))
    add("PHP session", "PHPSESSID=@@", low(26))
    add("percent-encoded", "GET /cb?next=%2Fx%3Fpassword%3D@@", word(14))
    add("JSON with escapes", '{"url": "redis:\\/\\/:@@@cache:6379"}', word(14))
    add("HTML", "redis://:@@&#64;cache:6379".replace("&#64;", "@") + " &amp; more", word(14))
    add("Mattermost webhook", "https://mm.example.com/hooks/@@", low(26))
    add("Rocket.Chat webhook", "https://rc.example.com/hooks/@@", f"{word(17)}/{word(43)}")
    add("Loggly", "http://logs-01.loggly.com/inputs/@@/tag/http/", uuid())
    add("Sumo Logic", "https://collectors.sumologic.com/receiver/v1/http/@@", word(80))
    add("VictorOps", "https://alert.example.com/integrations/generic/20131114/alert/@@/key", uuid())
    add(
        "Authorization Digest",
        "Authorization: Digest @@",
        f'username="{word(8)}", nonce="{word(8)}", response="{hexa(32)}"',
    )
    add(
        "Authorization OAuth",
        "Authorization: OAuth @@",
        f'oauth_consumer_key="{word(12)}", oauth_signature="{word(27)}="',
    )
    add("header of Fastly", "Fastly-Key: @@", word(32))
    add("header of GitHub", "X-Hub-Signature-256: sha256=@@", hexa(64))
    add("vault login", "vault login @@", uuid())
    add("vault unseal", "vault operator unseal @@", word(44))
    add("cargo login", "cargo login @@", word(32))
    add("ngrok", "ngrok config add-authtoken @@", f"{word(27)}_{word(21)}")
    add("rabbitmqctl", "rabbitmqctl add_user app @@", word(14))
    add("mc alias set", "mc alias set m http://minio:9000 admin @@", word(20))
    add("lftp", "lftp -u user,@@ sftp://h", word(12))
    add("net use", "net use \\\\h\\s /user:d\\u @@", word(14))
    add("nmcli", "nmcli dev wifi connect x password @@", word(12))
    add("sqlplus", "sqlplus system/@@@//db:1521/XE", word(12))
    add("expdp", "expdp userid=app/@@@db", word(12))
    add("jdbc:oracle", "jdbc:oracle:thin:scott/@@@//db:1521/XE", word(12))
    add("7z", "7z x -p@@ a.7z", word(14))
    add("docker login -p attached", "docker login -u x -p@@ r.io", word(16))
    add("crane auth login", "crane auth login r.io -u a -p @@", word(16))
    add("plink", "plink -pw @@ u@h", word(12))
    add("ssh-keygen -N", "ssh-keygen -N '@@' -f k", word(12))
    add("twine", "twine upload -u __token__ -p @@", word(60))
    add("codecov", "codecov -t @@", uuid())
    add("dotnet nuget", "dotnet nuget push x.nupkg -k @@", uuid())
    add("snmpwalk", "snmpwalk -v2c -c @@ h", word(12))
    add("xfreerdp", "xfreerdp /u:admin /p:@@ /v:h", word(14))
    add("erl", "erl -sname x -setcookie @@", word(20))
    add("bindpw", "bindpw @@", word(12))
    add("reset link", "https://x.example.com/reset-password/@@", word(40))
    add("keytool", "keytool -list -storepass @@", word(14))
    add("ConvertTo-SecureString", "ConvertTo-SecureString '@@' -AsPlainText -Force", word(14))
    add("chpasswd", "echo 'root:@@' | chpasswd", word(14))
    add("echo to a login", "echo @@ | docker login -u ci --password-stdin", word(20))
    add("here string", "kinit u <<< @@", word(12))
    add("config set --secret", "pulumi config set --secret NAME @@", word(16))
    add("setenv", "setenv DB_PASSWORD @@", word(14))
    add("fish", "set -x DB_PASSWORD '@@'", word(14))
    add("Dockerfile", "ENV API_TOKEN @@", word(24))
    add("assignment in quotes", "docker run -e 'POSTGRES_PASSWORD=@@' postgres", f"{word(8)} {word(8)}")
    add("--from-literal", "kubectl create secret generic app --from-literal=DB=@@", word(16))
    add("AUTH", "127.0.0.1:6379> AUTH @@", word(32))
    add("AUTH PLAIN", "AUTH PLAIN @@", word(32))
    add("AUTH of monitor", '1339518083.1 [0 127.0.0.1:60866] "AUTH" "@@"', word(32))
    add("requirepass", "requirepass @@", word(32))
    add("ACL SETUSER", "ACL SETUSER app on >@@ ~* +@all", word(20))
    add("PASS", "---> PASS @@", word(12))
    add("IMAP", "a1 LOGIN user@example.com @@", word(12))
    add("the password is", "Your new password is: @@", word(14))
    add("temporary password", "temporary password for root@localhost: @@", word(12))
    add("password of an installer", "Please use the following password to proceed:\n\n@@\n", hexa(32))
    add("unseal key", "Unseal Key 1: @@", word(44))
    add(
        "words of a wallet",
        "mnemonic: @@",
        "legal winner thank year wave sausage worth useful legal winner thank yellow",
    )
    add("groups of four", "TOTP secret: @@", " ".join(up(4) for _ in range(8)))
    add("SET PASSWORD", "SET PASSWORD FOR 'a'@'%' = '@@'", word(14))
    add("IDENTIFIED BY", "CREATE USER a IDENTIFIED BY @@", word(14))
    add("PASSWORD = N''", "CREATE LOGIN a WITH PASSWORD = N'@@'", word(14))
    add("INSERT", "INSERT INTO users (name, password) VALUES ('a', '@@')", word(14))
    add("CSV", "user,password\nadmin,@@", word(14))
    add("AWS key and secret", "Access key ID,Secret\nAKIAIOSFODNN7EXAMPLE,@@", word(40))
    add("DSN of Go", "app:@@@tcp(db:3306)/x?parseTime=true", word(12))
    add("URL without a scheme", "connecting to u:@@@db:5432/x", word(12))
    add("URL, quote", "postgres://u:@@@db/x", word(6) + '"' + word(6))
    add("pgpass, other port", "db.example.com:5433:app:app:@@", word(14))
    add("netrc without a login", "machine api.example.com password @@", uuid())
    add("pgbouncer", '"app" "@@"', word(14))
    add("postfix", "[smtp.example.com]:587 user:@@", word(12))
    add("table", "| password | @@ |", word(24))
    add("columns", "api_key      @@", word(24))
    add("tab", "password\t@@", word(24))
    add("arrow", "token -> @@", word(24))
    add("YAML, next line", "password:\n  @@", word(24))
    add("YAML, list", "tokens:\n  - @@", word(24))
    add("YAML, tag", "password: !vault @@", word(24))
    add("YAML, anchor", "password: &pw @@", word(24))
    add("YAML, indented block", "password: |2\n    @@", word(24))
    add("YAML, lines of a block", "password: |\n    line1A9xx\n    @@", word(24))
    add("TOML, lines", 'password = """\n@@\n"""', word(14))
    add("HCL", "db_password = <<EOT\n@@\nEOT", word(20))
    add("quoted lines", 'DB_PASSWORD="@@"', f"{word(10)}\n{word(10)}")
    add("JSON, object", '{"password": {"value": "@@"}}', word(24))
    add("JSON, next line", '{"password":\n  "@@"}', word(24))
    add("JSON, list", '{"api_keys": ["aaaa", "@@"]}', word(24))
    add("XML with attributes", '<wsse:Password Type="x">@@</wsse:Password>', word(14))
    add("XML, lines", "<password>\n  @@\n</password>", word(14))
    add("wide colon", "password\uff1a@@", word(14))
    add("PAT", "AZURE_DEVOPS_EXT_PAT=@@", low(52))
    add("consumer key", "OVH_CONSUMER_KEY=@@", word(32))
    add("German", "Kennwort=@@", word(14))
    add("Russian", "\u043f\u0430\u0440\u043e\u043b\u044c: @@", word(14))
    add("Chinese", "\u5bc6\u7801\uff1a@@", word(14))
    add("OpenSSL, text", "priv:\n    @@", ":".join(hexa(2) for _ in range(15)))
    add("NKEY", "-----BEGIN USER NKEY SEED-----\n@@\n------END USER NKEY SEED------", f"SU{up(56)}")
    add(
        "OpenVPN",
        "-----BEGIN OpenVPN Static key V1-----\n@@\n-----END OpenVPN Static key V1-----",
        "\n".join(hexa(32) for _ in range(16)),
    )
    add("lines of a key", "@@", "\n".join("aZ9" + word(61) for _ in range(4)))
    add("JWK, far from its kind", '{"k":"@@",\n"alg":"A",\n"use":"s",\n"kty":"oct"}', word(43))
    found.append(Leak("PEM", f"read key:\n{PEM}\nend of key", PEM))
    for kind in ("EC ", "OPENSSH ", "ENCRYPTED ", ""):
        pem = _pem(f"{kind}PRIVATE" + " KEY")
        found.append(Leak(f"PEM, {kind.strip() or 'PKCS 8'}", f"{pem}\n", pem))
    pem = _pem("PGP PRIVATE" + " KEY BLOCK")
    found.append(Leak("PGP", pem, pem))
    pem = _pem("PRIVATE" + " KEY")
    found.append(Leak("service account", '{"private_key": "' + pem.replace("\n", "\\n") + '\\n"}', pem))
    add("PuTTY", "Private-Lines: 2\n@@\n", f"{word(64)}\n{word(64)}")
    token = "gh" + "p_" + word(36)
    coded = base64.b64encode(f"token: {token}\n".encode()).decode()
    found.append(Leak("base64", f"data: {coded}", coded[10:]))
    found.append(Leak("split by colours", f"using \x1b[1m{token[:20]}\x1b[0m{token[20:]} now", token[4:]))
    token = "gl" + "pat-" + word(20)
    found.append(Leak("split by colours, in JSON", json.dumps(f"a {token[:14]}\x1b[0m{token[14:]} b"), token[6:]))
    token = "np" + "m_" + word(36)
    coded = json.dumps(json.dumps(f"a {token[:14]}\x1b[0m{token[14:]} b"))
    found.append(Leak("split by colours, in JSON in JSON", coded, token[4:]))
    return found


LEAKS = _leaks()

_SHA1, _SHA256, _UUID = hexa(40), hexa(64), uuid()
HARMLESS = f"""\
commit {_SHA1}
Merge pull request #12 from feature/token-refresh
{_SHA256}  dist/app-1.2.3.tar.gz
sha256:{_SHA256}
Digest: sha256:{_SHA256}
docker.io/library/postgres:16@sha256:{_SHA256}
md5 {hexa(32)} ok
request {_UUID} done in 12 ms
trace_id={hexa(32)} span_id={hexa(16)}
etag: W/"{hexa(32)}"
integrity sha512-{base64.b64encode(bytes(range(64))).decode()}
data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==
/srv/app/releases/20261129T101500Z/bin/server
/usr/lib/python3.11/site-packages/keyring/backends/__init__.py
state/identity/keys/private.pem
version 1.22.333-rc.4+build.5
Python 3.11.7 (main, Nov 12 2026, 10:00:00) [GCC 12.2.0] on linux
password: required
password: This field is required.
"password": "required"
{{"errors": {{"password": ["This field may not be blank."]}}}}
password must have at least 12 characters
the password was changed
passwords do not match
Enter password:
token count 1234
tokens: 4096
max_tokens=4096
prompt_tokens: 812, completion_tokens: 94
total tokens used: 12,345
token_type: bearer
tokenizer: loaded 32000 entries
invalid token at line 3
unexpected token '}}' in JSON at position 17
SyntaxError: Unexpected token < in JSON at position 0
secret santa starts at 9
no secrets found in 214 files
secretName: app-tls
secret_name = "app/prod/db"
SELECT id, name, password FROM users WHERE id = 1
ALTER TABLE users ADD COLUMN password VARCHAR(255) NOT NULL
CREATE INDEX idx_users_token ON users (token)
INSERT INTO keys (key, value) VALUES (?, ?)
http://127.0.0.1:3100/health answered 200
http://registry.example.com:5000/v2/_catalog
https://registry.npmjs.org:443/@scope/pkg/-/pkg-1.0.0.tgz
npm ERR! 404 'https://registry.npmjs.org/@acme%2fwidget' is not in the registry
https://medium.com/@someone/an-article-about-keys
see https://example.com/docs#authentication and mail ops@example.com
git@github.com:owner/repo.git
ssh://git@github.com/owner/repo.git
ops@example.com, dev@example.com
postgres://db.example.com:5432/app
redis://127.0.0.1:6379/0
key=value
key: name
cache_key=user:42:profile
primary key (id)
sort_key=created_at&page=2
foreign_key: users.id
keyboard: us
monkey=patched
author: Jane Doe
authors = ["Jane Doe <jane@example.com>"]
author=jane level=info
authentication failed for user app
authorization is not configured
basic authentication is required
bearer token is missing
Basic checks passed
cookie policy accepted
cookies: enabled
session started
compass=north bypass=true
passed=12 failed=0 skipped=3
pass: 12, fail: 0
PASS tests/app.test.js (5.1 s)
PASSED tests/test_auth.py::test_password_is_hashed[bcrypt-12]
tests/test_tokens.py::TestToken::test_refresh_token_expires PASSED [ 42%]
FAILED tests/test_login.py::test_wrong_password - AssertionError: assert 401 == 200
E       assert response.json()["token"] == expected
  File "/srv/app/auth/tokens.py", line 42, in verify_token
KeyError: 'secret'
3 tests passed in 0.12s
======= 214 passed, 3 skipped in 12.34s =======
collected 12 items / 2 deselected
   Compiling tokio v1.38.0
   Compiling secrecy v0.8.0 (/build/vendor/secrecy)
    Finished `release` profile [optimized] target(s) in 41.02s
added 214 packages, and audited 215 packages in 3s
npm WARN deprecated request@2.88.2: request has been deprecated
Step 4/9 : RUN pip install --no-cache-dir -r requirements.txt
 ---> Running in {hexa(12)}
Successfully built {hexa(12)}
#12 sha256:{_SHA256} 3.42MB / 3.42MB 0.3s done
Removing intermediate container {hexa(12)}
2026-11-29T10:15:00.123Z INFO worker-3 handled 214 messages in 51 ms
Nov 29 10:15:00 host systemd[1]: Started app.service - The App.
[2026-11-29 10:15:00 +0000] [4242] [INFO] Listening at: http://0.0.0.0:8000 (4242)
127.0.0.1 - - [29/Nov/2026:10:15:00 +0000] "GET /health?verbose=1 HTTP/1.1" 200 17
level=info msg="server started" addr=:8080 version=1.2.3
{{"status": "ok", "checks": {{"db": "ok", "queue": "ok"}}, "uptime": 1234}}
10:15:00 up 12 days, load average: 0.42, 0.37, 0.30
50% [=====>     ] 512.0 kB/1.0 MB
error[E0308]: mismatched types: expected `String`, found `&str`
warning: unused variable: `token`
const token = await getToken();
password = os.environ["APP_PASSWORD"]
api_key = config.get("api_key")
curl -H "X-Api-Key: ${{APP_KEY}}" http://127.0.0.1:3100/health
DB_PASSWORD=${{DB_PASSWORD}}
docker compose -p app -f compose.yml up -d
ls -la -w 80 /srv/app
pip install --user --upgrade setuptools
systemctl --user restart app
tar -C /srv -xzf app.tar.gz
rsync -az --password-file=/etc/rsync.pwd src/ host::dst
ssh -p 2222 app@host uptime
grep -rn password src/
sk-learn 1.5.0 imported
price: $6$ to $12
temperature 21:45:10, humidity 40
a/b/c.d:10:5: note: declared here
    token = auth.login(user, password=form.password)
WARNING  app.auth:tokens.py:42 token for user 42 expired 3 minutes ago
API_KEY_HEADER=X-Api-Key
X-Cache-Key: /assets/app.css
Access-Control-Allow-Headers: Authorization, Content-Type, X-Api-Key
curl -u "$USER:$PASS" https://example.com
curl -u "$user:$password" https://example.com
curl -H "Authorization: Bearer $TOKEN" https://example.com
kubectl create secret generic app --from-file=token=/tmp/token
helm upgrade app ./chart --set image.tag=1.2.3 --set auth.existingSecret=app-auth
arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf
Nov 29 10:15:00 host sudo: app : TTY=pts/0 ; PWD=/srv/app ; USER=root ; COMMAND=/bin/systemctl restart app
PWD=/srv/build/work/app-2026/app-2026
OLDPWD=/srv/releases/20261129
SSH_AUTH_SOCK=/tmp/ssh-abc123/agent.4242
"forgotPassword": "Forgot your password?"
<label for="password">Password:</label>
ast: token=Plus left=1 right=2
code=ERR_SOCKET_CONNECTION_TIMEOUT_42
code=VALIDATION_ERROR_2026_TOO_LONG
key=users/2026/11/29/part-00001.parquet
object key=releases/20261129T101500Z-3f2a/app.tar.gz
session_id=worker-3-20261129
session=20261129T101500Z-worker-3
sid=worker-20261129-00042
unzip -p app-1.2.3.jar version9.txt
curl -k release2026.example.com
docker run --user 1000:1000 app
docker exec -u app:staff web id
podman run --user node:node app
ps -u postgres:5432
-u www:users
rsync -u host1:backup/x .
gunicorn -u app:create_app
python -u run:server9
--auth basic:ldap
--login shell:bash
APP_PASSWORD=%APP_PASSWORD%
"password": "<password>"
restored sk-gateway_snapshot_20261130 from disk
""".splitlines()
