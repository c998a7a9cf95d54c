"""LicenseValidatorTest of the seed's section 10: which tokens are licenses, and why the others are not."""

from __future__ import annotations

import base64
import json
import random
import string
from typing import Any

import pytest
from clavitor_licensing.domain.canonical import MAX_TOKEN_SIZE, canonical_json, encode_token, split_token
from clavitor_licensing.domain.info import LicenseInfo, LicenseRejected
from clavitor_licensing.domain.keys import load_public_keys
from clavitor_licensing.domain.limits import LicenseLimits
from clavitor_licensing.domain.schema import END_OF_TIME
from clavitor_licensing.domain.state import license_state
from clavitor_licensing.domain.validator import LicenseValidator
from clavitor_licensing_testing.support import GOOD, NOW, TENANT, VECTORS, private_key, public_keys, signed, validator
from hypothesis import given, settings
from hypothesis import strategies as st

DROP = object()
OUTSIDE: dict[str, list[Any]] = {
    "licenseId": [
        "{550e8400-e29b-41d4-a716-446655440000}",
        "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
        "550e8400e29b41d4a716446655440000",
        "550e8400-e29b-41d4-a716-446655440000\n",
        "\u066550e8400-e29b-41d4-a716-44665544000",
        "",
        None,
        5,
    ],
    "tenantId": ["", "-a", ".a", "_a", "a" * 129, "a b", "a\n", "a/b", "\u0430", "a\0", None, 7, ["a"]],
    "iat": [-1, 1.0, True, "1", None, 10**30, [], 1e9],
    "exp": [-1, 1.9e9, True, "1777075200", None, 1777075200000, END_OF_TIME + 1],
    "gracePeriodDays": [-1, 366, 30.0, True, "30", None],
    "limits": [None, [], "x", 1],
    "label": [None, 5, "a" * 201, "a\nb", "a\0b", "\u202e", "\u2028", "\x7f", "\ue000", "\ud800"],
}
"""What no field may hold."""
NO_LIMITS: list[Any] = [-1, 2**31, True, False, None, 1.0, "1", [], {}]


def rejection(token: str, now: int = NOW, checker: LicenseValidator | None = None) -> LicenseRejected:
    with pytest.raises(LicenseRejected) as caught:
        (checker or validator()).validate(token, now)
    return caught.value


def changed(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD, **fields}.items() if value is not DROP}


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_every_shared_vector(vector: dict[str, Any]) -> None:
    checker = LicenseValidator(load_public_keys(VECTORS["public_key_pem"]), vector["tenant"])
    answer: dict[str, str]
    try:
        info = checker.validate(vector["token"], vector["now"])
        answer = {"state": str(license_state(info, vector["now"]))}
    except LicenseRejected as refused:
        answer = {"code": refused.code}
        assert not any(part in refused.message for part in vector["token"].split(".") if len(part) > 8)
    assert answer == vector["expect"]


def test_there_are_as_many_vectors_as_were_given() -> None:
    assert len(VECTORS["vectors"]) == 56


def test_a_license_says_what_its_payload_says() -> None:
    info = validator().validate(signed(GOOD), NOW)
    assert info == LicenseInfo(
        GOOD["licenseId"], TENANT, GOOD["label"], GOOD["iat"], GOOD["exp"], 30, LicenseLimits(GOOD["limits"])
    )
    assert info.payload() == GOOD
    assert info.grace_ends == GOOD["exp"] + 30 * 86_400


def test_label_grace_and_limits_may_be_left_out() -> None:
    info = validator().validate(signed(changed(label=DROP, gracePeriodDays=DROP, limits=DROP)), NOW)
    assert (info.label, info.grace_period_days, dict(info.limits.explicit)) == (None, 0, {})


@pytest.mark.parametrize("field", ["licenseId", "tenantId", "iat", "exp"])
def test_a_required_field_that_is_missing(field: str) -> None:
    refused = rejection(signed(changed(**{field: DROP})))
    assert refused.code == "schema"
    assert field in refused.message


def test_unknown_fields_and_limits_are_ignored_and_named_once() -> None:
    token = signed(changed(features=["x"], tier="gold", limits={"max_users": 7, "max_unicorns": -1.5}))
    payload = validator().parse(token, NOW)
    assert payload.ignored == ("features", "tier", "limits.max_unicorns")
    assert dict(payload.info.limits.explicit) == {"max_users": 7}


def test_the_names_of_unknown_fields_cannot_forge_a_log_line() -> None:
    (name,) = validator().parse(signed(changed(**{"a\n\u202e" + "b" * 500: 1})), NOW).ignored
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= 80


def test_an_expired_license_is_still_a_license() -> None:
    assert validator().validate(signed(GOOD), GOOD["exp"] * 2).exp == GOOD["exp"]


def test_a_signature_that_does_not_match() -> None:
    payload, signature = split_token(signed(GOOD))
    other = canonical_json(changed(tenantId="acme-c0rp"))
    assert rejection(encode_token(other, signature)).message == "License signature verification failed"
    assert rejection(signed(GOOD, private_key(1))).code == "signature"
    assert rejection(encode_token(payload, bytes(64))).code == "signature"


def test_a_license_of_another_tenant_names_both() -> None:
    refused = rejection(signed(GOOD), checker=validator("beta-corp"))
    assert refused.code == "tenant"
    assert refused.message == "License tenantId 'acme-corp' does not match server tenant 'beta-corp'"


def test_tenants_are_compared_letter_by_letter() -> None:
    assert rejection(signed(changed(tenantId="ACME-corp"))).code == "tenant"


def test_no_public_key_rejects_every_license() -> None:
    refused = rejection(signed(GOOD), checker=LicenseValidator((), TENANT))
    assert refused.code == "no_public_key"
    assert "CLAVITOR_LICENSE_PUBLIC_KEY" in refused.message


@pytest.mark.parametrize(("ahead", "ok"), [(299, True), (300, True), (301, False)])
def test_iat_may_be_five_minutes_ahead(ahead: int, ok: bool) -> None:
    token = signed(changed(iat=NOW + ahead))
    if ok:
        assert validator().validate(token, NOW).iat == NOW + ahead
    else:
        assert rejection(token).code == "not_yet_valid"


def test_any_of_several_keys_may_have_signed() -> None:
    rotating = LicenseValidator(public_keys(0, 1), TENANT)
    for number in (0, 1):
        assert rotating.validate(signed(GOOD, private_key(number)), NOW).tenant_id == TENANT
    assert rejection(signed(GOOD, private_key(2)), checker=rotating).code == "signature"


def test_white_space_of_a_paste_is_dropped() -> None:
    token = signed(GOOD)
    wrapped = "\v\f ".join(token[start : start + 64] + "\r\n\t" for start in range(0, len(token), 64))
    assert validator().validate(wrapped, NOW) == validator().validate(token, NOW)


@pytest.mark.parametrize("other", ["\u00a0", "\u2003", "\x1c", "\x85", "\0", "\ufeff", "\u200b", "\ud800"])
def test_other_space_is_not_dropped(other: str) -> None:
    token = signed(GOOD)
    for place in (0, 20, len(token)):
        assert rejection(token[:place] + other + token[place:]).code == "malformed"


def test_the_size_limit_counts_white_space() -> None:
    token = signed(GOOD)
    assert validator().validate(token + " " * (MAX_TOKEN_SIZE - len(token)), NOW)
    assert rejection(token + " " * (MAX_TOKEN_SIZE - len(token) + 1)).code == "malformed"


class TestOrderOfTheChecks:
    """A token that is wrong in two ways is refused for the one that is checked first (spec section 2)."""

    def test_malformed_comes_before_the_missing_key(self) -> None:
        assert rejection("x", checker=LicenseValidator((), TENANT)).code == "malformed"

    def test_size_comes_before_white_space(self) -> None:
        assert rejection(" " * 20_000).message.endswith("16384 bytes")

    def test_the_form_comes_before_the_signature(self) -> None:
        assert rejection(signed(GOOD, private_key(1))[:-4]).code == "malformed"

    def test_the_missing_key_comes_before_schema_and_signature(self) -> None:
        assert rejection(signed(b"[", private_key(1)), checker=LicenseValidator((), TENANT)).code == "no_public_key"

    def test_the_signature_comes_before_the_schema(self) -> None:
        assert rejection(signed(b"\xff", private_key(1))).code == "signature"

    def test_strict_json_comes_before_the_fields(self) -> None:
        refused = rejection(signed(b'{"a":1,"a":2}'))
        assert refused.code == "schema"
        assert "twice" in refused.message

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"licenseId": DROP, "tenantId": ""}, "licenseId is missing"),
            ({"exp": DROP, "licenseId": "x"}, "exp is missing"),
            ({"licenseId": "x", "tenantId": ""}, "licenseId"),
            ({"tenantId": "", "iat": -1}, "tenantId"),
            ({"iat": -1, "exp": -2}, "iat"),
            ({"exp": "x", "gracePeriodDays": -1}, "exp"),
            ({"exp": 5, "gracePeriodDays": -1}, "exp is not after iat"),
            ({"gracePeriodDays": 366, "limits": []}, "gracePeriodDays"),
            ({"exp": END_OF_TIME, "limits": []}, "9999"),
            ({"limits": {"max_apps": -1}, "label": 5}, "max_apps"),
            ({"label": 5, "tenantId": "other"}, "label"),
        ],
    )
    def test_fields_are_checked_in_the_order_of_the_specification(self, wrong: dict[str, Any], said: str) -> None:
        refused = rejection(signed(changed(**wrong)))
        assert refused.code == "schema"
        assert said in refused.message

    def test_the_schema_comes_before_the_tenant(self) -> None:
        assert rejection(signed(changed(tenantId="other", limits={"max_apps": True}))).code == "schema"

    def test_the_tenant_comes_before_iat(self) -> None:
        assert rejection(signed(changed(tenantId="other", iat=NOW + 999))).code == "tenant"


@pytest.mark.parametrize(
    "fields",
    [
        {"licenseId": "550E8400-E29B-41D4-A716-446655440000"},
        {"tenantId": "a"},
        {"tenantId": "0" * 128},
        {"tenantId": "A.b_c-9"},
        {"iat": 0},
        {"iat": 0, "exp": 1},
        {"exp": END_OF_TIME, "gracePeriodDays": 0},
        {"exp": END_OF_TIME - 365 * 86_400, "gracePeriodDays": 365},
        {"gracePeriodDays": 0},
        {"label": ""},
        {"label": "é" * 200},
        {"limits": {}},
        {"limits": {"max_apps": 2**31 - 1, "max_users": 0}},
        {"unknown": {"deep": [[1.5, None, "\u202e"]]}},
    ],
)
def test_the_edges_inside(fields: dict[str, Any]) -> None:
    assert validator(fields.get("tenantId", TENANT)).validate(signed(changed(**fields)), NOW)


@pytest.mark.parametrize(
    "fields",
    [{name: value} for name, values in OUTSIDE.items() for value in values]
    + [{"limits": {"max_jar_retention_count": value}} for value in NO_LIMITS]
    + [{"exp": END_OF_TIME - 365 * 86_400 + 1, "gracePeriodDays": 365}, {"iat": GOOD["exp"]}],
)
def test_the_edges_outside(fields: dict[str, Any]) -> None:
    assert rejection(signed(changed(**fields))).code == "schema"


def text(more: str) -> str:
    return json.dumps(GOOD)[:-1] + more + "}"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b'"x"',
        b"[]",
        b"{}",
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
        json.dumps(GOOD).encode("utf-16"),
        json.dumps(GOOD).encode("utf-32-le"),
        json.dumps(GOOD).encode() + b"x",
        json.dumps(GOOD).encode() + b"{}",
        text(',"x":NaN').encode(),
        text(',"x":Infinity').encode(),
        text(',"x":-Infinity').encode(),
        text(',"x":1e999').encode(),
        text(',"x":' + "9" * 5000).encode(),
        text(',"x":' + "[" * 5000 + "]" * 5000).encode(),
        text(',"x":' + '{"a":' * 900 + "1" + "}" * 900).encode(),
        text(',"x":{"a":1,"a":1}').encode(),
        text(',"exp":1').encode(),
        text(',"\\u0065xp":1').encode(),
        text(',"x":"\\ud800"').encode(),
        text(',"\\udfff":1').encode(),
        text(',"x":"\n"').encode(),
        text(",'x':1").encode(),
        text(",").encode(),
        text(',"x":\xff').encode("latin-1"),
        b"{" * 6000,
    ],
    ids=lambda payload: payload[-30:].hex(),
)
def test_json_that_is_not_strict(payload: bytes) -> None:
    refused = rejection(signed(payload))
    assert refused.code == ("schema" if payload else "malformed")


def test_brackets_within_a_string_are_not_nesting() -> None:
    assert validator().validate(signed(changed(label="[{" * 50 + '\\"' * 10, x='"[{' * 40)), NOW)


def test_the_refusal_holds_on_to_no_other_exception() -> None:
    for payload in (b"{", b"[" * 6000, b"\xff", text(',"x":NaN').encode()):
        refused = rejection(signed(payload))
        assert refused.__cause__ is None
        assert refused.__context__ is None


def test_20000_mutations_of_a_good_token() -> None:
    chance = random.Random(20260425)
    token, checker = signed(GOOD), validator()
    alphabet = string.ascii_letters + string.digits + "+/=._- \n\r\t\v\f\0\"'\x1c\x85\u00a0\u2003é€😀\ud800"
    accepted = 0
    for _ in range(20_000):
        mutant = token
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            mutant = mutated(mutant, alphabet, chance)
        try:
            checker.validate(mutant, NOW)
        except LicenseRejected:
            continue
        accepted += 1
        assert "".join(char for char in mutant if char not in " \n\r\t\v\f") == token
    assert 0 < accepted < 6000  # white space alone, which the alphabet does have


def mutated(token: str, alphabet: str, chance: random.Random) -> str:
    place = chance.randrange(len(token) + 1)
    other = chance.randrange(len(token) + 1)
    match chance.randrange(8):
        case 0:
            return token[:place] + token[place + 1 :]
        case 1:
            return token[:place] + chance.choice(alphabet) + token[place:]
        case 2:
            return token[:place] + chance.choice(alphabet) + token[place + 1 :]
        case 3:
            return token[: min(place, other)] + token[max(place, other) :]
        case 4:
            return token[:place] + token[min(place, other) : max(place, other)] + token[place:]
        case 5:
            return token[:place] + token[place:].swapcase()
        case 6:
            return ".".join(reversed(token.split(".")))
        case _:
            data = bytearray(json.dumps(GOOD).encode())
            data[place % len(data)] ^= 1 << chance.randrange(8)
            return base64.b64encode(data).decode() + "." + token.rsplit(".", maxsplit=1)[-1]


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(alphabet="AZaz09+/=. \n\0") | st.text(st.characters(categories=["Cs", "Cc", "Zs"])))
def test_any_string_reaches_the_validator(token: str) -> None:
    for checker in (validator(), LicenseValidator((), TENANT)):
        assert rejection(token, checker=checker).code in {"malformed", "signature", "no_public_key"}


@pytest.mark.parametrize("token", ["", "\0", "\ud800", ".", "..", "A" * 1_000_000, "😀" * 1_000_000, "." * 1_000_000])
def test_strings_that_are_no_token_at_all(token: str) -> None:
    assert rejection(token).code == "malformed"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), json_values))
def test_any_signed_object_is_a_license_or_is_refused(fields: dict[str, Any]) -> None:
    try:
        info = validator().validate(signed({**GOOD, **fields}), NOW)
    except LicenseRejected:
        return
    assert validator().validate(signed(info.payload()), NOW) == info


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_signed_bytes_are_refused_by_the_schema(payload: bytes) -> None:
    assert rejection(signed(payload)).code == ("schema" if payload else "malformed")
