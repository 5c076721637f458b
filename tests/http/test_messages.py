"""Messages: appended, read back value for value, paged through, removed, sent again."""

import json
import uuid
from typing import Any

import httpx
import pytest

from support.api import (
    TIME,
    Json,
    append,
    create,
    events,
    exact,
    messages,
    problem,
    read,
    talk,
)

JSON = {"content-type": "application/json"}
PATH = "/v1/sessions/s/messages"
OWNED = {"id", "session_id", "seq", "created_at"}

TOOL_CALL = (
    '{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1.10, \\"b\\": null}"}}'
)
FORMS = {
    "a user's text": '{"role": "user", "content": "Hello"}',
    "a user's text with a name": '{"role": "user", "content": "Hello", "name": "ada"}',
    "an empty text": '{"role": "user", "content": ""}',
    "a system message": '{"role": "system", "content": "Be brief."}',
    "a developer message": '{"role": "developer", "content": "Be brief."}',
    "no content": '{"role": "assistant", "content": null}',
    "tool calls with content null": f'{{"role": "assistant", "content": null, "tool_calls": [{TOOL_CALL}]}}',
    "tool calls without content": f'{{"role": "assistant", "tool_calls": [{TOOL_CALL}]}}',
    "several tool calls": f'{{"role": "assistant", "tool_calls": [{TOOL_CALL}, {TOOL_CALL}]}}',
    "a custom tool's call": (
        '{"role": "assistant", "content": null, '
        '"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "x", "input": ""}}]}'
    ),
    "a tool's result": '{"role": "tool", "tool_call_id": "call_1", "content": "{\\"ok\\": true}"}',
    "a tool's result in parts": (
        '{"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "ok"}]}'
    ),
    "content parts": (
        '{"role": "user", "content": [{"type": "text", "text": "What is this?"}, '
        '{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0=", "detail": "low"}}, '
        '{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, '
        '{"type": "file", "file": {"file_id": "file-1", "filename": null}}]}'
    ),
    "no content part": '{"role": "user", "content": []}',
    "a refusal part": '{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}',
    "a refusal": '{"role": "assistant", "content": null, "refusal": "I cannot."}',
    "an answer as the API gives it": (
        '{"role": "assistant", "content": "Hi", "refusal": null, "annotations": [], "audio": null}'
    ),
    "an answer as the Python library dumps it": (
        '{"role": "assistant", "content": "Hi", "refusal": null, "annotations": null, "audio": null, '
        '"function_call": null, "tool_calls": null}'
    ),
    "an annotation": (
        '{"role": "assistant", "content": "See x.", "annotations": [{"type": "url_citation", '
        '"url_citation": {"start_index": 4, "end_index": 5, "title": "x", "url": "https://x.example"}}]}'
    ),
    "an audio answer": (
        '{"role": "assistant", "content": null, '
        '"audio": {"id": "audio_1", "expires_at": 1729018505, "data": "AA==", "transcript": "Yes."}}'
    ),
    "the id of an earlier audio answer": '{"role": "assistant", "content": null, "audio": {"id": "audio_1"}}',
    "a function call of the old form": (
        '{"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}}'
    ),
}

VALUES = {
    "a number beyond 64 bits": "12345678901234567890123456789",
    "a negative number beyond 64 bits": "-12345678901234567890123456789",
    "a number beyond 2^53": "9007199254740993",
    "the greatest unsigned 64-bit number": "18446744073709551615",
    "a number beyond a double": "1e400",
    "a number too small for a double": "1E-400",
    "a trailing zero": "1.10",
    "a whole number with a point": "1.0",
    "minus zero": "-0",
    "minus zero with a point": "-0.0",
    "more digits than a double has": "3.14159265358979323846264338327950288",
    "an exponent with a plus": "1E+2",
    "a null": "null",
    "nulls within": '{"a": null, "b": [null, {"c": null}], "": null}',
    "empty values": '[{}, [], "", 0, false]',
    "many levels": "[" * 40 + '{"a": 1}' + "]" * 40,
    "keys that mean something elsewhere": '{"__proto__": 1, "$ref": "#", "id": "x", "seq": 0, "a.b": 2}',
}

TEXTS = {
    "an emoji of several code points": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "a combining accent": "e\u0301 is not é",
    "right to left": "\u202eשלום\u202c مرحبا",  # noqa: RUF001  # Hebrew on purpose
    "line and paragraph separators": "a\u2028b\u2029c",
    "line breaks and tabs": "a\r\nb\rc\td\x0b\x0c",
    "control characters": "\x01\x08\x1f\x7f\x80\x9f",
    "zero width and byte order marks": "\ufeffa\u200b\u200d\u00ad",
    "noncharacters and the last code point": "\ufffe\uffff\ufdd0\U0010ffff\ue000\ufffd",
    "quotes, slashes and markup": "\"'\\/</script>&amp;<!--%00%s{}$1",
    "white space at both ends": "  a  \n",
    "text that looks like JSON": '{"role": "user"}\\u0041',
    "Chinese, Georgian, Linear B": "汉字 𠮷 ქართული 𐀀",
}


def send(client: httpx.Client, text: str) -> httpx.Response:
    """Append the message, or the messages, of this JSON text."""
    return client.post(PATH, content=text.encode(), headers=JSON)


def batch(client: httpx.Client, *sent: Json) -> httpx.Response:
    """Append these messages at once."""
    return client.post(PATH, json={"messages": list(sent)})


def seqs(client: httpx.Client, **params: Any) -> list[int]:
    """The seq numbers of a page of messages."""
    return [message["seq"] for message in messages(client, **params)]


def given(message: Json) -> Json:
    """What the client gave of a message without an id."""
    return {name: value for name, value in message.items() if name not in OWNED}


def test_an_appended_message_comes_back_with_what_the_service_owns(api: httpx.Client) -> None:
    """The answer is the message, its id, session, seq and time, and nothing that was not given."""
    create(api)
    response = api.post(PATH, json={"role": "user", "content": "Hello"})
    message = response.json()
    assert (response.status_code, response.headers["etag"]) == (201, '"2"')
    assert message.keys() == {"id", "session_id", "seq", "role", "content", "created_at"}
    assert (message["session_id"], message["seq"], message["content"]) == ("s", 1, "Hello")
    assert uuid.UUID(message["id"]).version == 7
    assert TIME.fullmatch(message["created_at"])
    assert messages(api) == [message]
    assert read(api, f"{PATH}/{message['id']}") == message


def test_an_appended_message_shows_on_its_session(api: httpx.Client) -> None:
    """A message is one version of its session, counts, and is its last activity."""
    made = create(api)
    message = append(api)
    session = read(api, "/v1/sessions/s")
    assert session == {
        **made,
        "version": 2,
        "message_count": 1,
        "updated_at": message["created_at"],
        "last_message_at": message["created_at"],
    }


def test_several_messages_are_appended_at_once(api: httpx.Client) -> None:
    """A batch is answered in its order, with seq numbers that follow on, one version for each message."""
    create(api, messages=talk(1))
    response = batch(api, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "id": "x"})
    answer = response.json()
    assert (response.status_code, response.headers["etag"]) == (201, '"4"')
    assert answer.keys() == {"data"}
    assert [(m["seq"], m["content"]) for m in answer["data"]] == [(2, "a"), (3, "b")]
    assert answer["data"][1]["id"] == "x"
    assert messages(api, after=1) == answer["data"]


def test_a_batch_of_one_is_answered_as_a_batch(api: httpx.Client) -> None:
    """One message in a list comes back in a list."""
    create(api)
    assert batch(api, *talk(1)).json() == {"data": messages(api)}


def test_a_batch_of_a_thousand_is_appended(api: httpx.Client) -> None:
    """The most messages that one batch takes is 1,000."""
    create(api)
    response = batch(api, *talk(1000))
    assert (response.status_code, response.headers["etag"]) == (201, '"1001"')
    assert [m["seq"] for m in response.json()["data"]] == list(range(1, 1001))
    assert messages(api, limit=1000) == response.json()["data"]


def test_a_batch_is_appended_whole_or_not_at_all(api: httpx.Client) -> None:
    """One message that is refused keeps out the whole batch."""
    create(api, messages=talk(1))
    different = {**talk(1)[0], "content": "other"}
    problem(batch(api, {"role": "user", "content": "good"}, different), 409, "message-exists")
    problem(batch(api, {"role": "user", "content": "good"}, {"role": "robot"}), 400, "invalid-request")
    assert len(events(api)) == 2
    assert seqs(api) == [1]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_chat_completions_message_comes_back_as_it_is(api: httpx.Client, form: str) -> None:
    """Any message of the OpenAI form comes back from every read with the same JSON values, and no others."""
    create(api)
    response = send(api, form)
    assert response.status_code == 201, response.text
    answer = exact(response.text)
    assert given(answer) == exact(form)
    assert exact(api.get(f"{PATH}/{answer['id']}").text) == answer
    assert exact(api.get(PATH).text)["data"] == [answer]
    assert exact(api.get("/v1/sessions/s?messages=1").text)["messages"] == [answer]
    assert exact(api.get("/v1/sessions/s?messages=1&as_of_version=2").text)["messages"] == [answer]


def test_chat_completions_messages_come_back_from_a_batch_and_a_creation(api: httpx.Client) -> None:
    """Messages given many at a time are kept as those given alone."""
    many = f"[{', '.join(FORMS.values())}]"
    create(api)
    assert [given(m) for m in exact(send(api, f'{{"messages": {many}}}').text)["data"]] == exact(many)
    assert api.post("/v1/sessions", content=f'{{"id": "c", "messages": {many}}}', headers=JSON).is_success
    assert [given(m) for m in exact(api.get("/v1/sessions/c/messages").text)["data"]] == exact(many)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_comes_back_digit_for_digit(api: httpx.Client, value: str) -> None:
    """A JSON value in metadata, a content part or a tool call comes back as written."""
    create(api)
    sent = (
        f'{{"role": "assistant", "metadata": {{"v": {value}}}, '
        f'"content": [{{"type": "text", "text": "t", "v": {value}}}], "tool_calls": [{{"v": {value}}}]}}'
    )
    answer = send(api, sent)
    assert answer.status_code == 201, answer.text
    assert given(exact(answer.text)) == exact(sent)
    assert exact(api.get(PATH).text)["data"] == [exact(answer.text)]
    assert given(exact(api.get("/v1/events?type=message.appended").text)["data"][0]["data"]["message"]) == exact(sent)


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "in UTF-8"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_comes_back_to_the_code_point(api: httpx.Client, text: str, *, escaped: bool) -> None:
    """Text is not normalised, trimmed, or changed in any way, as content, name, key or value."""
    create(api)
    message = {"role": "user", "content": text, "name": text, "metadata": {text: [text]}}
    answer = send(api, json.dumps(message, ensure_ascii=escaped))
    assert answer.status_code == 201, answer.text
    assert given(answer.json()) == message
    assert messages(api) == [answer.json()]


def test_a_long_text_comes_back_whole(api: httpx.Client) -> None:
    """A message of 200,000 characters is kept to the last one."""
    create(api)
    text = "".join(chr(0x4E00 + n % 20000) for n in range(200_000))
    append(api, content=text)
    assert messages(api)[0]["content"] == text


@pytest.mark.parametrize(
    ("params", "expected", "has_more"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8], False),
        ({"limit": 3}, [1, 2, 3], True),
        ({"limit": 8}, [1, 2, 3, 4, 5, 6, 7, 8], False),
        ({"after": 6}, [7, 8], False),
        ({"after": 8}, [], False),
        ({"after": 9007199254740991}, [], False),
        ({"after": 0, "limit": 1}, [1], True),
        ({"before": 3}, [1, 2], False),
        ({"before": 1}, [], False),
        ({"after": 2, "before": 6}, [3, 4, 5], False),
        ({"after": 2, "before": 6, "limit": 2}, [3, 4], True),
        ({"after": 5, "before": 3}, [], False),
        ({"order": "asc", "limit": 2}, [1, 2], True),
        ({"order": "desc"}, [8, 7, 6, 5, 4, 3, 2, 1], False),
        ({"order": "desc", "limit": 2}, [8, 7], True),
        ({"order": "desc", "before": 3}, [2, 1], False),
        ({"order": "desc", "before": 7, "limit": 2}, [6, 5], True),
        ({"order": "desc", "after": 5}, [8, 7, 6], False),
        ({"order": "desc", "after": 5, "limit": 2}, [8, 7], True),
        ({"order": "desc", "after": 2, "before": 5, "limit": 2}, [4, 3], False),
    ],
    ids=str,
)
def test_a_page_of_messages_lies_between_two_seqs(
    api: httpx.Client, params: dict[str, Any], expected: list[int], *, has_more: bool
) -> None:
    """A page lies behind `after` and ahead of `before`, in the order asked for, and says if there is more."""
    create(api, messages=talk(8))
    answer = read(api, PATH, **params)
    assert answer.keys() == {"data", "has_more"}
    assert [m["seq"] for m in answer["data"]] == expected
    assert answer["has_more"] is has_more


def test_a_page_has_a_hundred_messages_by_default(api: httpx.Client) -> None:
    """A page without a limit has 100 messages."""
    create(api, messages=talk(101))
    answer = read(api, PATH)
    assert ([m["seq"] for m in answer["data"]], answer["has_more"]) == (list(range(1, 101)), True)


def test_a_session_without_messages_has_an_empty_page(api: httpx.Client) -> None:
    """Where there is no message the page is empty."""
    create(api)
    assert read(api, PATH) == {"data": [], "has_more": False}


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_messages_are_followed_to_their_end(api: httpx.Client, limit: int) -> None:
    """The last seq of a page, as `after` of the next, leads through all messages, removed ones left out."""
    create(api, messages=talk(9))
    for gone in ("m1", "m4", "m5"):
        assert api.delete(f"{PATH}/{gone}").status_code == 204
    found: list[int] = []
    has_more = True
    while has_more:
        page = read(api, PATH, after=found[-1] if found else 0, limit=limit)
        found += [m["seq"] for m in page["data"]]
        has_more = page["has_more"]
    assert found == [2, 3, 6, 7, 8, 9]


def test_a_page_knows_that_only_removed_messages_follow(api: httpx.Client) -> None:
    """There is no more where all that follows was removed."""
    create(api, messages=talk(3))
    assert api.delete(f"{PATH}/m3").status_code == 204
    assert read(api, PATH, limit=2)["has_more"] is False


def test_a_removed_message_is_gone_to_readers(api: httpx.Client) -> None:
    """A removed message is not found, and the others keep their seq numbers."""
    create(api, messages=talk(3))
    kept = messages(api)
    response = api.delete(f"{PATH}/m2")
    assert (response.status_code, response.content) == (204, b"")
    problem(api.get(f"{PATH}/m2"), 404, "not-found")
    problem(api.delete(f"{PATH}/m2"), 404, "not-found")
    assert messages(api) == [kept[0], kept[2]]
    session = read(api, "/v1/sessions/s", messages=10)
    assert session["messages"] == [kept[0], kept[2]]
    assert (session["version"], session["message_count"]) == (5, 2)


def test_a_removed_seq_is_not_given_out_again(api: httpx.Client) -> None:
    """The seq of the last message stays its own even when it was removed."""
    create(api, messages=talk(2))
    assert api.delete(f"{PATH}/m2").status_code == 204
    assert append(api)["seq"] == 3
    assert seqs(api) == [1, 3]


def test_an_absent_message_is_not_found(api: httpx.Client) -> None:
    """A message is found in its own session only."""
    create(api)
    create(api, "other", messages=talk(1))
    for method in ("GET", "DELETE"):
        problem(api.request(method, f"{PATH}/m1"), 404, "not-found")
    assert [m["id"] for m in messages(api, "other")] == ["m1"]


def test_a_message_sent_again_is_answered_with_the_stored_one(api: httpx.Client) -> None:
    """The same id with the same values, in any order, answers 201 with what is stored; nothing is written."""
    create(api)
    text = '{"id": "m", "role": "user", "content": "a", "metadata": {"a": 1.10, "b": [null]}}'
    first = send(api, text)
    append(api, content="in between")
    session = read(api, "/v1/sessions/s")
    for again in (
        text,
        ' {"metadata": {"b": [null], "a": 1.10}, "content": "\\u0061", "role": "user", "id": "m"}',
    ):
        answer = send(api, again)
        assert (answer.status_code, exact(answer.text)) == (201, exact(first.text))
    assert read(api, "/v1/sessions/s") == session
    assert len(events(api)) == 3


def test_a_message_with_a_time_and_a_parent_is_sent_again(api: httpx.Client) -> None:
    """A message that names its time and its parent is the same one when it is sent in the same words."""
    create(api, messages=talk(1))
    message = {"id": "m", "parent_id": "m1", "created_at": "2024-05-15T15:00:00+02:00"}
    assert append(api, **message) == append(api, **message)
    assert len(events(api)) == 3


def test_a_batch_sent_again_is_answered_with_the_stored_one(api: httpx.Client) -> None:
    """A batch whose ids are all there already answers 201 with what is stored, and writes nothing."""
    create(api)
    first = batch(api, *talk(3))
    answer = batch(api, *talk(3))
    assert (answer.status_code, answer.json()) == (201, first.json())
    assert len(events(api)) == 4


def test_a_batch_sent_again_in_part_appends_the_rest(api: httpx.Client) -> None:
    """Of a batch, what is there already is answered as stored, and the rest is appended behind it."""
    create(api, messages=talk(2))
    answer = batch(api, *talk(3))
    assert answer.status_code == 201
    assert answer.json()["data"] == messages(api)
    assert [(m["id"], m["seq"]) for m in messages(api)] == [("m1", 1), ("m2", 2), ("m3", 3)]


@pytest.mark.parametrize(
    "different",
    [
        '{"id": "m", "role": "user", "content": "b", "metadata": {"a": 1}}',
        '{"id": "m", "role": "assistant", "content": "a", "metadata": {"a": 1}}',
        '{"id": "m", "role": "user", "content": "a", "metadata": {"a": true}}',
        '{"id": "m", "role": "user", "content": "a", "metadata": {"a": 1, "b": null}}',
        '{"id": "m", "role": "user", "content": "a", "metadata": {}}',
        '{"id": "m", "role": "user", "content": "a"}',
        '{"id": "m", "role": "user", "content": "a", "metadata": {"a": 1}, "name": null}',
        '{"id": "m", "role": "user", "content": "a", "metadata": {"a": 1}, "name": "n"}',
    ],
)
def test_another_message_with_a_used_id_is_refused(api: httpx.Client, different: str) -> None:
    """The same id with another value anywhere is a conflict and leaves the stored message as it is."""
    create(api)
    stored = send(api, '{"id": "m", "role": "user", "content": "a", "metadata": {"a": 1}}').json()
    problem(send(api, different), 409, "message-exists")
    assert messages(api) == [stored]
    assert len(events(api)) == 2


def test_numbers_that_a_double_cannot_tell_apart_are_different_messages(api: httpx.Client) -> None:
    """Two numbers that differ in their last digit differ, however long they are."""
    create(api)
    text = '{"id": "m", "role": "user", "content": "a", "metadata": {"a": 1234567890123456789012345678%d}}'
    assert send(api, text % 1).status_code == 201
    problem(send(api, text % 2), 409, "message-exists")


def test_the_id_of_a_removed_message_stays_taken(api: httpx.Client) -> None:
    """After its removal a message's id is a conflict, for the same message and for another."""
    create(api, messages=talk(1))
    assert api.delete(f"{PATH}/m1").status_code == 204
    problem(api.post(PATH, json=talk(1)[0]), 409, "message-exists")
    problem(batch(api, talk(1)[0]), 409, "message-exists")
    problem(api.post(PATH, json={**talk(1)[0], "content": "other"}), 409, "message-exists")
    assert messages(api) == []


def test_sessions_have_their_own_message_ids(api: httpx.Client) -> None:
    """The same message id in two sessions means two messages."""
    create(api, messages=talk(1))
    create(api, "other", messages=[{"id": "m1", "role": "system", "content": "other"}])
    assert messages(api)[0]["content"] == "message 1"
    assert messages(api, "other")[0]["content"] == "other"


@pytest.mark.parametrize("identifier", ["m", "chatcmpl-9:0", "A.b_c:d-9" * 14 + "xy"])
def test_a_message_id_is_any_of_the_allowed_characters(api: httpx.Client, identifier: str) -> None:
    """A client may choose a message id of 1 to 128 letters, digits, dots, underscores, colons, hyphens."""
    create(api)
    assert append(api, id=identifier)["id"] == identifier
    assert read(api, f"{PATH}/{identifier}")["id"] == identifier


def test_a_parent_is_an_earlier_message(api: httpx.Client) -> None:
    """A message may name an earlier one as its parent, of the session or of its own batch."""
    create(api, messages=talk(1))
    assert append(api, id="x", parent_id="m1")["parent_id"] == "m1"
    answer = batch(
        api,
        {"id": "y", "role": "user", "content": "", "parent_id": "x"},
        {"id": "z", "role": "user", "content": "", "parent_id": "y"},
    )
    assert [m["parent_id"] for m in answer.json()["data"]] == ["x", "y"]
    nested = [talk(1)[0], {"role": "user", "content": "", "parent_id": "m1"}]
    create(api, "created", messages=nested)
    assert messages(api, "created")[1]["parent_id"] == "m1"


@pytest.mark.parametrize(
    "refused",
    [
        [{"id": "x", "parent_id": "x"}],
        [{"id": "x", "parent_id": "y"}, {"id": "y"}],
        [{"id": "x", "parent_id": "nobody"}],
    ],
    ids=["itself", "a later one", "an absent one"],
)
def test_a_parent_that_is_no_earlier_message_is_refused(api: httpx.Client, refused: list[Json]) -> None:
    """A message's parent is neither itself, nor a later one, nor one that is not there."""
    create(api)
    sent = [{"role": "user", "content": "", **message} for message in refused]
    problem(batch(api, *sent), 400, "invalid-request")
    problem(api.post("/v1/sessions", json={"id": "created", "messages": sent}), 400, "invalid-request")
    assert len(events(api)) == 1


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("2024-05-15T15:00:00.123456Z", "2024-05-15T15:00:00.123456Z"),
        ("2024-05-15T15:00:00Z", "2024-05-15T15:00:00.000000Z"),
        ("2024-05-15T15:00:00.5Z", "2024-05-15T15:00:00.500000Z"),
        ("2024-05-15T15:00:00+02:00", "2024-05-15T13:00:00.000000Z"),
        ("2024-05-15T15:00:00.000001-05:30", "2024-05-15T20:30:00.000001Z"),
        ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:59:59.999999Z"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_message_keeps_the_time_that_the_client_gave(api: httpx.Client, sent: str, kept: str) -> None:
    """A given creation time comes back as the same instant in UTC; the event has its own time."""
    create(api)
    message = append(api, created_at=sent)
    assert message["created_at"] == kept
    assert messages(api) == [message]
    event = events(api, type="message.appended")[0]
    assert TIME.fullmatch(event["recorded_at"])
    assert event["recorded_at"] != kept


def test_messages_are_ordered_by_seq_and_not_by_time(api: httpx.Client) -> None:
    """A message with an old time that comes late stands where it came."""
    create(api)
    append(api, content="first", created_at="2024-05-15T15:00:00Z")
    append(api, content="second", created_at="2004-05-15T15:00:00Z")
    assert [m["content"] for m in messages(api)] == ["first", "second"]
