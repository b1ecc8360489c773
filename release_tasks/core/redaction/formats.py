"""Secrets that are known by their format: one row for each kind of token.

The formats are those that the providers document or that their tokens have had for years. The lists of gitleaks and
detect-secrets were compared. Neither is used as a library: gitleaks is a program, and detect-secrets has no release
since 2024, no rule for many of these providers, and reads 0.4 MB a second.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from attrs import frozen

from release_tasks.core.redaction.views import Span, View, joined
from release_tasks.core.redaction.vocabulary import DIGITS, Vocabulary, with_zeros

__all__ = ["FORMATS", "Format", "find_tokens"]

_LONG = 16  # bytes; every token is part of a word that is longer, or of one that the end of the line splits
_LONG_RUN = re.compile(rb"[\w+/-]{16}")  # every token has one; most words of a log have a dot or a colon before
_START = 3  # bytes of a hint
_NEAR_END = 40  # bytes; what is before them is a long word itself
_LAST = frozenset(bytes([each]) for each in b"abcdefghijklmnopqrstuvwxyz0123456789_+/=.~:$-")
_NARROW = 8  # bytes of a line; no program wraps its output earlier
_SHORT = 512  # bytes
_FRAME = b" \t\r|\\\xe2\x94\x82"  # what a table or a shell writes at the end of a line
_WORD = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyz")
_REACH = 160  # bytes behind a hint in which a token ends that begins before the hint
_PART = re.compile(rb"[\w+/=.~:|$-]{1,512}")  # a part of a token, in one line
_LINE_END = re.compile(rb"[ \t]{0,256}(?:(?:\xe2\x94\x82|\\)[ \t]{0,256})?\r?\n")
_WIDE = 40  # no program wraps its output earlier
_RANDOM = re.compile(rb"[0-9]|[a-z][A-Z]|[A-Za-z0-9]{16}")


@frozen
class Format:
    """A kind of token. ``hints`` are lower-case texts, one of which every token contains; ``rest`` is its pattern.

    The token begins at most ``back`` bytes before the hint. A hint of one character is everywhere: ``located`` is then
    the pattern of what follows. Letters match in both cases. Every repetition has a limit:
    many hints in a row cost no more than that many short searches.
    """

    name: str
    hints: tuple[bytes, ...]
    rest: bytes
    back: int = 0
    located: bytes | None = None


FORMATS = (
    Format("1Password", (b"a3-", b"ops_eyj"), rb"A3-[A-Z0-9]{6}(?:-[A-Z0-9]{5,11}){4,5}|ops_eyJ[\w+/-]{40,2048}"),
    Format("Adobe", (b"p8e-",), rb"p8e-[a-z0-9]{32}"),
    Format("age", (b"age-secret-key-",), rb"AGE-SECRET-KEY-(?:PQ-)?1[A-Z0-9]{40,2048}"),
    Format("Airtable", (b"pat",), rb"pat[a-z0-9]{14}\.[a-f0-9]{64}", 0, rb"pat[a-z0-9]{14}\."),
    Format("Alibaba", (b"ltai",), rb"(?-i:LTAI)[a-z0-9]{12,24}"),
    Format(
        "Anthropic, OpenAI",
        (b"sk-",),
        rb"sk-(?=[\w-]{0,64}?(?:(?=[a-z]{0,15}\d)[a-z0-9]{16}|[0-9a-f]{8}-[0-9a-f]{4}-))[\w-]{16,512}",
    ),
    Format("Artifactory", (b"akcp", b"cmvmd"), rb"(?-i:AKCp)[a-z0-9]{60,80}|(?-i:cmVmd)[a-z0-9]{50,64}"),
    Format("Asana", (b"1/", b"2/"), rb"[12]/\d{10,20}(?:/\d{10,20})?:[0-9a-f]{32}"),
    Format("Atlassian", (b"atatt3", b"atctt3", b"atbb"), rb"AT[AC]TT3[\w=-]{20,512}|(?-i:ATBB)[a-z0-9]{20,64}"),
    Format("AWS", (b"akia", b"asia", b"abia", b"acca"), rb"(?-i:(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9]))"),
    Format("AWS Bedrock", (b"absk", b"bedrock-api-key-"), rb"(?:(?-i:ABSK)|bedrock-api-key-)[a-z0-9+/]{60,512}={0,2}"),
    Format("Azure AD", (b"q~",), rb"(?<![\w.~-])[\w~.-]{3}\dQ~[\w~.-]{31,40}", 4),
    Format(
        "Buildkite, CircleCI",
        (b"bkua_", b"bkaj_", b"bkat_", b"bkct_", b"ccipat_", b"ccipr"),
        rb"(?:bk\w\w|ccip\w{2,3})_[\w-]{20,200}",
    ),
    Format("ClickHouse", (b"4b1d",), rb"4b1d[a-z0-9]{38}"),
    Format("Clojars", (b"clojars_",), rb"CLOJARS_[a-z0-9]{60}"),
    Format("Cloudflare", (b"v1.0-",), rb"v1\.0-[a-f0-9]{24}-[a-f0-9]{100,146}"),
    Format("Contentful, Figma", (b"cfpat-", b"figd_", b"figdr_"), rb"(?:cfpat-|figdr?_)[\w-]{20,200}"),
    Format("crates.io", (b"cio",), rb"cio(?=[a-z]{0,31}\d)[a-z0-9]{32}(?![a-z0-9])"),
    Format("Databricks", (b"dapi", b"dose"), rb"(?:dapi|dose)[a-f0-9]{32}(?:-\d)?"),
    Format("DigitalOcean", (b"dop_v1_", b"doo_v1_", b"dor_v1_"), rb"do[por]_v1_[a-f0-9]{40,64}"),
    Format("Docker Hub", (b"dckr_pat_", b"dckr_oat_"), rb"dckr_[po]at_[\w-]{20,64}"),
    Format("Doppler", (b"dp.",), rb"dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[\w-]{1,40}\.)?[a-z0-9]{32,64}"),
    Format("Dropbox", (b"sl.",), rb"sl\.(?:[bu]\.)?[\w=-]{100,1500}"),
    Format("Duffel", (b"duffel_",), rb"duffel_(?:test|live)_[\w=-]{30,60}"),
    Format("Dynatrace", (b"dt0c01.", b"dt0s0"), rb"dt0[cs]\d\d\.[a-z0-9]{24}\.[a-z0-9]{64}"),
    Format("EasyPost", (b"ezak", b"eztk"), rb"EZ[AT]K[a-z0-9]{54}"),
    Format("Facebook, Meta", (b"eaa",), rb"(?-i:EAA)[a-z0-9]{60,512}"),
    Format("Flutterwave", (b"flwseck",), rb"FLWSECK(?:_TEST)?-[a-z0-9]{12,40}(?:-X)?"),
    Format(
        "Fly.io", (b"fo1_", b"fm1a_", b"fm1r_", b"fm2_"), rb"(?:fo1_[\w-]{40,60}|fm(?:1[ar]|2)_[a-z0-9+/=]{60,2048})"
    ),
    Format("Frame.io", (b"fio-u-",), rb"fio-u-[\w=-]{40,80}"),
    Format("GitHub", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"), rb"gh[pousr]_[a-z0-9]{20,255}"),
    Format("GitHub, fine-grained", (b"github_pat_",), rb"github_pat_\w{20,255}"),
    Format(
        "GitLab",
        (
            b"glpat-",
            b"gldt-",
            b"glrt-",
            b"glptt-",
            b"glft-",
            b"glcbt-",
            b"glsoat-",
            b"gloas-",
            b"glagent-",
            b"glimt-",
            b"glffct-",
        ),
        rb"gl[a-z]{2,6}-[\w-]{18,300}(?:\.[0-9a-z]{9})?",
    ),
    Format("GitLab runner", (b"gr1348941",), rb"GR1348941[\w-]{20}"),
    Format("Google API key", (b"aiza",), rb"AIza[\w-]{35}"),
    Format("Google OAuth", (b"ya29.", b"gocspx-"), rb"ya29\.[\w-]{20,1024}|GOCSPX-[\w-]{20,40}"),
    Format("Google refresh token", (b"1//0",), rb"1//0[\w-]{30,256}"),
    Format(
        "Grafana", (b"glsa_", b"glc_", b"eyjrijoi"), rb"glsa_[a-z0-9]{32}_[a-f0-9]{8}|(?:glc_|eyJrIjoi)[\w+/=]{32,512}"
    ),
    Format("Groq, xAI, Perplexity", (b"gsk_", b"xai-", b"pplx-"), rb"(?:gsk_|xai-|pplx-)[a-z0-9]{40,100}"),
    Format("Harness", (b"pat.", b"sat."), rb"[ps]at\.[\w-]{22}\.[a-z0-9]{24}\.[a-z0-9]{20}"),
    Format("Heroku", (b"hrku-",), rb"HRKU-[\w-]{36,80}"),
    Format("Hugging Face", (b"hf_", b"api_org_"), rb"(?:hf|api_org)_[a-z0-9]{30,60}"),
    Format("Infracost", (b"ico-",), rb"ico-[a-z0-9]{32}"),
    # The header may have blanks and lines; the second part of an encrypted token may be empty.
    Format(
        "JWT",
        (b"eyj", b"ewog", b"eyai"),
        rb"(?-i:eyJ|ewog|eyAi)[\w-]{8,4096}(?:\.[\w-]{4,4096}(?:\.[\w-]{0,4096}){1,3}|\.\.[\w-]{10,64}\.[\w-]{1,4096}"
        rb"\.[\w-]{10,64})",
    ),
    Format("LangSmith", (b"lsv2_",), rb"lsv2_(?:pt|sk)_[a-z0-9]{32}_[a-z0-9]{10}"),
    Format("LaunchDarkly", (b"sdk-", b"api-"), rb"(?:sdk|api)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    Format("Linear", (b"lin_api_", b"lin_oauth_"), rb"lin_(?:api|oauth)_[a-z0-9]{32,64}"),
    Format("Mailchimp", (b"-us",), rb"(?<![0-9a-f])[0-9a-f]{32}-us\d{1,2}", 32),
    Format("Mailgun", (b"key-",), rb"(?:pub)?key-[0-9a-f]{32}"),
    Format("Mapbox", (b"sk.eyj", b"tk.eyj"), rb"[st]k\.eyJ[\w-]{20,200}\.[\w-]{16,64}"),
    Format("MaxMind", (b"_mmk",), rb"[a-z0-9]{6}_[a-z0-9]{29}_mmk", 36),
    Format("MongoDB Atlas", (b"mdb_sa_sk_",), rb"mdb_sa_sk_[\w-]{30,64}"),
    Format("Neon, Netlify, Render", (b"napi_", b"nfp_", b"rnd_"), rb"(?:napi|nfp|rnd)_[a-z0-9]{28,80}"),
    Format("New Relic", (b"nrak-", b"nrjs-", b"nrii-", b"nrra-"), rb"NR(?:AK|JS|II|RA)-[a-z0-9-]{19,40}"),
    Format("New Relic licence", (b"nral",), rb"(?<![0-9a-z])[0-9a-z]{36}NRAL", 36),
    Format("Notion", (b"ntn_", b"secret_"), rb"(?:ntn|secret)_[a-z0-9]{40,60}"),
    Format("npm", (b"npm_",), rb"npm_[a-z0-9]{36}"),
    Format("NuGet", (b"oy2",), rb"oy2[a-z0-9]{43}"),
    Format("Octopus Deploy", (b"api-",), rb"(?-i:API-[A-Z0-9]{25,32})(?![A-Z0-9-])"),
    Format("OpenShift", (b"sha256~",), rb"sha256~[\w-]{43}"),
    Format("PayPal", (b"access_token$",), rb"access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}"),
    Format("Pinecone", (b"pcsk_",), rb"pcsk_\w{40,80}"),
    Format(
        "Plaid",
        (b"access-",),
        rb"access-(?:sandbox|development|production)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    ),
    Format("PlanetScale", (b"pscale_",), rb"pscale_(?:tkn|pw|oauth)_[\w=.-]{30,64}"),
    Format("Postman", (b"pmak-",), rb"PMAK-[a-f0-9]{24}-[a-f0-9]{34}"),
    Format("Prefect", (b"pnu_", b"pnb_"), rb"pn[ub]_[a-z0-9]{36}"),
    Format("Pulumi", (b"pul-",), rb"pul-[a-f0-9]{40}"),
    Format("PyPI", (b"pypi-age",), rb"pypi-AgE[\w-]{30,1024}"),
    Format("Razorpay", (b"rzp_live_", b"rzp_test_"), rb"rzp_(?:live|test)_[a-z0-9]{14,24}"),
    Format("ReadMe", (b"rdme_",), rb"rdme_[a-z0-9]{60,80}"),
    Format("Replicate", (b"r8_",), rb"r8_[a-z0-9]{30,44}"),
    Format("RubyGems", (b"rubygems_",), rb"rubygems_[a-f0-9]{48}"),
    Format("Scalingo", (b"tk-us-",), rb"tk-us-[\w-]{40,60}"),
    Format("SendGrid", (b"sg.",), rb"SG\.[\w-]{16,32}\.[\w-]{16,64}"),
    Format("Sendinblue, Brevo", (b"xkeysib-", b"xsmtpsib-"), rb"x(?:key|smtp)sib-[a-f0-9]{64}-[a-z0-9]{16}"),
    Format("Sentry", (b"sntrys_", b"sntryu_"), rb"sntry[su]_[\w+/=-]{40,512}"),
    Format("Shippo", (b"shippo_",), rb"shippo_(?:live|test)_[a-f0-9]{40}"),
    Format("Shopify", (b"shpat_", b"shpca_", b"shppa_", b"shpss_"), rb"shp(?:at|ca|pa|ss)_[a-f0-9]{32}"),
    Format(
        "Slack",
        (b"xoxa-", b"xoxb-", b"xoxc-", b"xoxd-", b"xoxe-", b"xoxe.", b"xoxo-", b"xoxp-", b"xoxr-", b"xoxs-"),
        rb"xox[a-es-z.op-r][.-][\w%/+.-]{10,512}",
    ),
    Format("Slack app", (b"xapp-",), rb"xapp-\d-[a-z0-9]{6,20}-\d{6,20}-[a-z0-9]{20,100}"),
    Format(
        "Snyk, SonarQube",
        (b"snyk_", b"squ_", b"sqp_", b"sqa_"),
        rb"(?:snyk_(?:u|s)at\.[\w.-]{20,200}|sq[upa]_[a-f0-9]{40})",
    ),
    Format("Sourcegraph", (b"sgp_",), rb"sgp_(?:(?:[a-f0-9]{16}|local)_)?[a-f0-9]{40}"),
    Format("Square", (b"sq0atp-", b"sq0csp-", b"eaaa"), rb"(?:sq0(?:at|cs)p-[\w-]{22,60}|(?-i:EAAA)[\w-]{40,64})"),
    Format(
        "Stripe",
        (b"sk_live_", b"sk_test_", b"sk_prod_", b"rk_live_", b"rk_test_", b"rk_prod_"),
        rb"[sr]k_(?:test|live|prod)_[a-z0-9]{10,247}",
    ),
    Format("Stripe webhook", (b"whsec_",), rb"whsec_[\w+/=]{20,100}"),
    Format("Supabase", (b"sbp_", b"sb_secret_"), rb"(?:sbp_[a-f0-9]{40}|sb_secret_[\w-]{20,64})"),
    Format("Tailscale", (b"tskey-",), rb"tskey-(?:auth|api|client|scim|webhook)-[\w-]{16,80}"),
    Format("Tencent", (b"akid",), rb"(?-i:AKID)[a-z0-9]{32}"),
    Format("Terraform Cloud", (b".atlasv1.",), rb"[a-z0-9]{14}\.atlasv1\.[\w=-]{50,80}", 14),
    Format("Trello", (b"atta",), rb"(?-i:ATTA)[a-f0-9]{64}"),
    Format("Twilio", (b"sk",), rb"SK[0-9a-f]{32}(?![0-9a-f])"),
    Format("Typeform", (b"tfp_",), rb"tfp_[\w.=-]{40,64}"),
    Format("Vault", (b"hvs.", b"hvb.", b"hvr."), rb"hv[sbr]\.[\w-]{20,300}"),
    Format("Vault, older", (b"s.",), rb"s\.(?=[a-z]{0,23}[0-9])(?=[a-z0-9]{0,23}(?-i:[A-Z]))[a-z0-9]{24}(?![\w.-])"),
    Format("Yandex", (b"aqvn", b"y0_"), rb"(?:(?-i:AQVN)[\w-]{35,38}|y0_[\w-]{39,80})"),
    # Tokens with a prefix of two to four letters: the length, and digits and capitals, tell them from names.
    Format("age plugin", (b"age-plugin-",), rb"AGE-PLUGIN-[A-Z0-9-]{1,40}1[A-Z0-9]{20,2048}"),
    Format("Azure DevOps", (b"azdo",), rb"(?<![a-z0-9])[a-z0-9]{76}(?-i:AZDO)[a-z0-9]{4}(?![a-z0-9])", 76),
    Format("Ably", (b":",), rb"(?<![\w.-])[\w-]{6}\.[\w-]{6}:[\w-]{43}(?![\w-])", 13, rb":[\w-]{43}(?![\w-])"),
    Format("AppVeyor", (b"v2.",), rb"v2\.(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[a-z0-9]{20}(?![\w.-])"),
    Format("Cerebras", (b"csk-",), rb"csk-[a-z0-9]{40,60}"),
    Format("ClickUp", (b"pk_",), rb"pk_\d{6,9}_[A-Z0-9]{32}"),
    Format("Cloudflare, newer", (b"cfut_", b"cfat_", b"cfk_"), rb"cf(?:[ua]t|k)_[a-z0-9]{40,60}"),
    Format("Deno", (b"ddp_", b"ddo_"), rb"dd[po]_[a-z0-9]{36,40}"),
    Format("DER in hex", (b"3082",), rb"3082[0-9a-f]{4}02010[01][0-9a-f]{60,4096}"),
    Format("Discord user", (b"mfa.",), rb"mfa\.[\w-]{80,90}"),
    Format("Docker Swarm", (b"swmtkn-1-",), rb"SWMTKN-1-[a-z0-9]{40,60}-[a-z0-9]{20,30}"),
    Format("ElevenLabs", (b"sk_",), rb"sk_[0-9a-f]{48}(?![0-9a-z])"),
    Format("Fauna", (b"fnac", b"fnad", b"fnae", b"fnaf"), rb"(?-i:fnA[C-F])[\w-]{36,44}"),
    Format("Fernet", (b"gaaaa",), rb"(?-i:gAAAA)[\w-]{80,4096}={0,2}"),
    Format("Firebase messaging", (b":apa91b",), rb"(?-i:AAAA)[\w-]{7}:APA91b[\w-]{100,140}", 11),
    Format("Fireworks", (b"fw_",), rb"fw_(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[a-z0-9]{22,24}(?!\w)"),
    Format("Google HMAC", (b"goog1e",), rb"(?-i:GOOG1E[A-Z0-9]{50,60})"),
    Format("Honeycomb", (b"hcaik_", b"hcxik_", b"hcamk_", b"hcxmk_"), rb"hc[ax][im]k_[a-z0-9]{50,64}"),
    Format(
        "HubSpot", (b"pat-na", b"pat-eu", b"pat-ap"), rb"pat-[a-z]{2}\d-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    ),
    Format("Intercom", (b"dg9ro",), rb"(?-i:dG9rO)[\w+/=-]{50,64}"),
    Format("Jina", (b"jina_",), rb"jina_[\w-]{50,80}"),
    Format("macaroon", (b"mdax",), rb"(?-i:MDAx)[\w+/-]{60,4096}={0,2}"),
    Format("Mandrill", (b"md-",), rb"md-(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[\w-]{22}(?![\w-])"),
    Format(
        "Matrix",
        (b"syt_", b"mat_", b"mct_"),
        rb"syt_[\w=-]{4,100}_[a-z0-9]{20}_[a-z0-9]{6}|m[ac]t_(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[a-z0-9_]{30,64}",
    ),
    Format("minisign, signify", (b"rwrty0iy", b"rwrcsw"), rb"(?-i:RWRTY0Iy|RWRCSw)[\w+/]{100,300}={0,2}"),
    Format("Modal", (b"as-", b"ak-"), rb"a[sk]-(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[a-z0-9]{22}(?![\w-])"),
    Format(
        "Mollie, GoCardless", (b"live_",), rb"live_(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[a-z0-9]{30,42}(?!\w)"
    ),
    Format("MySQL hash", (b"*",), rb"\*(?-i:[0-9A-F]{40})(?![0-9a-z])", 0, rb"\*[0-9A-F]{40}(?![0-9a-z])"),
    Format(
        "NATS",
        (b"sa", b"sc", b"sn", b"so", b"su"),
        rb"(?-i:S[ACNOU][A-Z2-7]{56})(?![A-Z0-9])",
        0,
        rb"S[ACNOU][A-Z0-7]{56}",
    ),
    Format("ntfy", (b"tk_",), rb"(?-i:tk_(?=[a-z]{0,28}\d)[a-z0-9]{29})(?!\w)"),
    Format(
        "Okta",
        (b"00",),
        rb"00(?=[\w-]{0,39}(?-i:[a-z]))(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[\w-]{40}(?![\w-])",
        0,
        rb"00[\w-]{40}(?![\w-])",
    ),
    Format("PagerDuty", (b"u+",), rb"u\+(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[\w-]{18}(?![\w-])"),
    Format(
        "PASETO",
        tuple(b"v%d.%s." % (version, use) for version in range(1, 5) for use in (b"local", b"public")),
        rb"v[1-4]\.(?:local|public)\.[\w-]{40,4096}(?:\.[\w-]{1,256})?",
    ),
    Format("PostgreSQL hash", (b"md5",), rb"md5[0-9a-f]{32}(?![0-9a-z])"),
    Format("Resend", (b"re_",), rb"re_[a-z0-9]{8}_[a-z0-9]{24}(?!\w)"),
    Format("Salesforce", (b"00d",), rb"(?-i:00D)[a-z0-9]{12,15}![\w.]{80,120}"),
    Format("Sanity", (b"sk",), rb"(?-i:sk)(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[a-z0-9]{80,200}(?![a-z0-9])"),
    Format(
        "SCRAM hash",
        (b"scram-sha-",),
        rb"SCRAM-SHA-\d{1,3}\$\d{1,9}:[\w+/=]{10,64}\$[\w+/=]{20,100}:[\w+/=]{20,100}",
    ),
    Format("SSHA hash", (b"{sha", b"{ssha", b"{crypt}"), rb"\{(?:S?SHA\d{0,3}|CRYPT)\}[\w+/=.$-]{20,200}"),
    Format("Stripe intent", (b"_secret_",), rb"(?:pi|seti|cs_live|cs_test)_[a-z0-9]{14,60}_secret_[a-z0-9]{20,60}", 70),
    Format("Tavily", (b"tvly-",), rb"tvly-[a-z0-9-]{30,60}"),
    Format("Together", (b"tgp_v1_",), rb"tgp_v1_[\w-]{40,64}"),
    Format("Twitch", (b"oauth:",), rb"oauth:[a-z0-9]{30}(?![a-z0-9])"),
    Format(
        "Twitter", (b"a" * 20,), rb"(?-i:A{20,24})(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[\w%]{60,110}(?![\w%+/=])"
    ),
    Format("Vercel", (b"vcp_", b"vci_", b"vca_", b"vcr_", b"vck_"), rb"vc[piark]_[a-z0-9]{20,80}"),
    Format("Voyage", (b"pa-",), rb"pa-(?=[\w-]{0,20}\d)(?=[\w-]{0,20}(?-i:[A-Z]))[\w-]{43}(?![\w-])"),
    Format("Xata", (b"xau_",), rb"xau_[a-z0-9]{30,60}"),
    # Keys of wallets, and hashes of passwords that can be guessed offline.
    Format("BIP 32 key", (b"xprv",), rb"[xyztuv]prv[a-z0-9]{100,112}"),
    Format(
        "password hash",
        (b"$2a$", b"$2b$", b"$2y$", b"$1$", b"$5$", b"$6$", b"$y$", b"$apr1$", b"$argon2"),
        rb"\$(?:2[aby]|1|5|6|y|apr1|argon2(?:id|i|d))\$[\w./=,$+-]{22,200}",
    ),
    Format(
        "password hash, Django", (b"pbkdf2_sha",), rb"pbkdf2_sha\d{1,3}\$\d{1,9}\$[\w./=+-]{1,64}\$[\w./=+-]{20,100}"
    ),
    # URLs whose path is the secret.
    Format(
        "Slack webhook", (b"hooks.slack.com/",), rb"hooks\.slack\.com/(?:services|workflows|triggers)/[\w+/-]{20,200}"
    ),
    Format("Discord webhook", (b"/webhooks/",), rb"/webhooks/\d{6,22}/[\w-]{20,100}"),
    Format(
        "Mattermost, Rocket.Chat",
        (b"/hooks/",),
        rb"/hooks/(?:(?=[a-z]{0,25}\d)[a-z0-9]{26}(?![\w/-])|[a-z0-9]{17,24}/(?=[a-z]{0,40}\d)[a-z0-9]{30,64})",
    ),
    Format(
        "Sumo Logic, Loggly, VictorOps",
        (b"/receiver/v1/http/", b"loggly.com/", b"/integrations/generic/"),
        rb"/receiver/v1/http/[\w=+/-]{40,200}|loggly\.com/(?:inputs|bulk)/[0-9a-f-]{36}|"
        rb"/integrations/generic/\d{8}/alert/[0-9a-f-]{36}",
    ),
    Format(
        "Teams webhook",
        (b".office.com/webhookb2/", b".webhook.office.com/"),
        rb"\.[a-z.]{0,20}/webhookb2/[\w@/-]{20,300}",
    ),
    Format(
        "Zapier, IFTTT",
        (b"hooks.zapier.com/hooks/", b"maker.ifttt.com/trigger/"),
        rb"(?:hooks\.zapier\.com/hooks/|maker\.ifttt\.com/trigger/)[\w./-]{10,200}",
    ),
    # Telegram writes its token behind "bot" in the path of a URL.
    Format("Telegram", (b":aa",), rb"(?<!\d)\d{6,12}:AA[\w-]{28,40}", 12),
    Format(
        "Telegram, by length",
        (b":",),
        rb"(?<![\w:])(?:bot)?\d{8,10}:[\w-]{33,35}(?![\w-])",
        13,
        rb":[\w-]{33,35}(?![\w-])",
    ),
    # A token of three parts: base64 of the number of the account, the time, the signature.
    Format(
        "Discord bot",
        (b".",),
        rb"(?<![\w.-])(?-i:[MNO])[\w-]{22,27}\.[\w-]{6}\.[\w-]{27,45}(?![\w.-])",
        28,
        rb"\.[\w-]{6}\.[\w-]{27}",
    ),
)


def find_tokens(data: bytes, lower: bytes, vocabulary: Vocabulary) -> Iterator[Span]:
    """Yield the places of tokens in ``data``; ``lower`` is the same in lower case."""
    words = _words(lower, vocabulary)
    if not words:
        return
    text = _Text(data, lower)
    located: set[str] = set()
    for each, hint in _candidates(words):
        if each.located is not None:
            if each.name not in located and _compiled(each.located).search(words):
                spans = (text.token_at(each, m.start(), 1) for m in _compiled(each.located).finditer(data))
                yield from (span for span in spans if span is not None)
            located.add(each.name)
            continue
        at = lower.find(hint)
        while at >= 0:
            span = text.token_at(each, at, len(hint))
            if span is not None:
                yield span
            at = lower.find(hint, at + 1 if span is None else max(at + 1, span[1]))


def _candidates(words: bytes) -> list[tuple[Format, bytes]]:
    """Return the formats with a hint in ``words``, each with that hint."""
    by_start = _by_start()
    if len(words) > _SHORT:  # a search for each hint is faster in a long text, and a look-up in a short one
        return [(each, hint) for each in FORMATS for hint in each.hints if with_zeros(hint) in words]
    starts = {words[at : at + _START] for at in range(len(words))}
    starts |= {start[:size] for start in starts for size in (1, 2)}
    found = [candidate for start in starts & by_start.keys() for candidate in by_start[start]]
    return [(each, hint) for each, hint in found if with_zeros(hint) in words]


@functools.cache
def _by_start() -> dict[bytes, list[tuple[Format, bytes]]]:
    table: dict[bytes, list[tuple[Format, bytes]]] = {}
    for each in FORMATS:
        for hint in each.hints:
            table.setdefault(with_zeros(hint)[:_START], []).append((each, hint))
    return table


def _words(lower: bytes, vocabulary: Vocabulary) -> bytes:
    """Return the words that may be tokens. They are few, and searched much faster than the whole."""
    words = (word for word in vocabulary.words if len(word) >= _LONG)
    long = [word for word in words if _LONG_RUN.search(word) and not word.isalpha()]
    if b"\n" in lower:
        ends = {line.rstrip(_FRAME).rpartition(b" ")[2] for line in lower.split(b"\n")[:-1] if len(line) >= _NARROW}
        long += {end[-_NEAR_END:].translate(DIGITS) for end in ends if end[-1:] in _LAST}
    return b"\n".join(long)


@functools.cache
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.IGNORECASE)


class _Text:
    """A text in which tokens are searched, with its reading without the ends of lines."""

    def __init__(self, data: bytes, lower: bytes) -> None:
        self._data = data
        self._lower = lower

    @functools.cached_property
    def _joined(self) -> View | None:
        """The whole text with its lines joined, made once: a join for each hint would read a text many times."""
        return joined(self._data)

    def token_at(self, form: Format, at: int, length: int) -> Span | None:
        """Return the place of the token whose hint of this length is at ``at``."""
        data, lower = self._data, self._lower
        if not form.back and at and lower[at - 1] in _WORD and lower[at] in _WORD:
            return None
        span = _match(form, data, at, length)
        if span is None or data[span[1] : span[1] + 1].isspace():
            return self._wrapped(form, at, length, span) or span
        return span

    def _wrapped(self, form: Format, at: int, length: int, whole: Span | None) -> Span | None:
        """Return the place of a token that continues on the next lines, or None for a token in one line."""
        data = self._data
        part = _PART.match(data, at)
        if part is None or _LINE_END.match(data, part.end()) is None or self._joined is None:
            return None
        found = _match(form, self._joined.data, self._joined.place(at), length)
        if found is None:
            return None
        start, end = self._joined.origin(found)
        if end <= part.end():
            return None
        if whole is not None:  # a whole token, and perhaps a word of the next line
            line = part.end() - (data.rfind(b"\n", 0, at) + 1)
            rest = self._joined.data[self._joined.place(part.end()) : found[1]]
            if line < _WIDE or not _RANDOM.search(rest):
                return None
        return start, end


def _match(form: Format, data: bytes, at: int, length: int) -> Span | None:
    pattern = _compiled(form.rest)
    if not form.back:
        match = pattern.match(data, at)
    else:
        match = pattern.search(data, max(at - form.back, 0), at + length + _REACH)
    return match.span() if match is not None and match.start() <= at < match.end() else None
