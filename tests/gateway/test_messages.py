"""All kinds of updates of the Bot API (10.3) and of notifications of the WhatsApp Cloud API: what is kept of each."""

from __future__ import annotations

import json
import logging
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from release_tasks.gateway import channels
from release_tasks.gateway.channels import DirectMessage
from release_tasks.gateway.telegram import read_update
from release_tasks.gateway.whatsapp import read_notification

PERSON = {"id": 4711, "is_bot": False, "first_name": "Ada"}
CHAT = {"id": 4711, "type": "private", "first_name": "Ada"}
FILE = {"file_id": "f", "file_unique_id": "u", "file_size": 1}
FRIEND = {"id": 9, "type": "private", "first_name": "Bo", "last_name": "Li", "username": "boli"}
ALBUM = [{**FILE, "width": 1, "height": 1}]


def telegram(content: dict[str, Any], **envelope: Any) -> DirectMessage | None:
    message = {"message_id": 7, "from": PERSON, "chat": CHAT, "date": 1793000000, **envelope, **content}
    return read_update({"update_id": 900_001, "message": message})


# Every content field of ``Message``, with the text that is queued.
TELEGRAM_CONTENTS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"text": "hello"}, "hello"),
    "text with a quote": ({"text": "yes", "quote": {"text": "lunch?"}, "reply_to_message": {"text": "lunch?"}}, "yes"),
    "forwarded text": ({"text": "news", "forward_origin": {"type": "user", "sender_user": {"id": 1}}}, "news"),
    "rich_message": (
        {
            "rich_message": {
                "blocks": [
                    {"type": "heading", "text": ["A ", {"type": "bold", "text": "title"}]},
                    {"type": "paragraph", "text": {"type": "url", "text": "a link", "url": "https://x.example"}},
                    {"type": "list", "items": [{"label": "1.", "blocks": [{"type": "paragraph", "text": "one"}]}]},
                    {"type": "table", "cells": [[{"text": "left"}, {"text": {"type": "code", "text": "right"}}]]},
                    {"type": "photo", "photo": ALBUM, "caption": {"text": "a cat", "credit": "Bo"}},
                    {"type": "details", "summary": "more", "blocks": [{"type": "paragraph", "text": "inside"}]},
                    {"type": "mathematical_expression", "expression": "a+b"},
                ]
            }
        },
        "A title\na link\n1.\none\nleft\nright\na cat\nBo\nmore\ninside\na+b",
    ),
    "animation": ({"animation": {**FILE, "file_name": "wave.gif"}, "document": FILE}, "[animation] wave.gif"),
    "audio": (
        {"audio": {**FILE, "performer": "Bach", "title": "Fugue", "file_name": "f.mp3"}},
        "[audio] Bach; Fugue; f.mp3",
    ),
    "document": ({"document": {**FILE, "file_name": "report.pdf"}}, "[document] report.pdf"),
    "document with a caption": ({"document": {**FILE, "file_name": "r.pdf"}, "caption": "the report"}, "the report"),
    "live_photo": ({"live_photo": FILE, "photo": ALBUM}, "[live_photo]"),
    "paid_media": (
        {"paid_media": {"star_count": 25, "paid_media": [{"type": "photo", "photo": ALBUM}, {"type": "preview"}]}},
        "[paid_media] star_count 25; photo; preview",
    ),
    "paid_media with a caption": (
        {"paid_media": {"star_count": 25, "paid_media": []}, "caption": "for you"},
        "for you",
    ),
    "photo": ({"photo": ALBUM}, "[photo]"),
    "photo with a caption": ({"photo": ALBUM, "caption": "look"}, "look"),
    "sticker": ({"sticker": {**FILE, "emoji": "🎉", "set_name": "Party"}}, "[sticker] 🎉; Party"),
    "story": ({"story": {"chat": FRIEND, "id": 12}}, "[story] Bo, Li, boli; id 12"),
    "story of a channel": (
        {"story": {"chat": {"id": -1001, "type": "channel", "title": "News"}, "id": 3}},
        "[story] News; id 3",
    ),
    "video": ({"video": {**FILE, "file_name": "trip.mp4"}}, "[video] trip.mp4"),
    "video_note": ({"video_note": FILE}, "[video_note]"),
    "voice": ({"voice": FILE}, "[voice]"),
    "checklist": (
        {
            "checklist": {
                "title": "Shopping",
                "tasks": [{"id": 1, "text": "milk"}, {"id": 2, "text": "bread", "completion_date": 1793000000}],
            }
        },
        "[checklist] Shopping; milk; bread, completion_date 1793000000",
    ),
    "contact": (
        {"contact": {"phone_number": "+4915112345678", "first_name": "Bo", "last_name": "Li", "user_id": 9}},
        "[contact] Bo; Li; +4915112345678",
    ),
    "dice": ({"dice": {"emoji": "🎲", "value": 6}}, "[dice] 🎲; value 6"),
    "game": (
        {"game": {"title": "Chess", "description": "Two players", "photo": ALBUM, "text": "Your move"}},
        "[game] Chess; Two players; Your move",
    ),
    "poll": (
        {"poll": {"id": "1", "question": "Lunch?", "options": [{"text": "pizza"}, {"text": "pizza"}]}},
        "[poll] Lunch?; pizza; pizza",
    ),
    "venue": (
        {
            "venue": {"title": "Museum", "address": "1 Main St", "location": {"latitude": 52.5, "longitude": 13.25}},
            "location": {"latitude": 52.5, "longitude": 13.25},
        },
        "[venue] Museum; 1 Main St; latitude 52.5, longitude 13.25",
    ),
    "location": ({"location": {"latitude": 0.0, "longitude": -13.25}}, "[location] latitude 0.0; longitude -13.25"),
    "giveaway": (
        {"giveaway": {"chats": [FRIEND], "winner_count": 3, "prize_description": "a book"}},
        "[giveaway] a book; winner_count 3",
    ),
    "giveaway_winners": ({"giveaway_winners": {"winner_count": 3}}, "[giveaway_winners] winner_count 3"),
    "invoice": (
        {"invoice": {"title": "Book", "description": "A book", "currency": "EUR", "total_amount": 999}},
        "[invoice] Book; A book; EUR; total_amount 999",
    ),
    "web_app_data": (
        {"web_app_data": {"data": '{"size": "L"}', "button_text": "Order"}},
        '[web_app_data] Order; {"size": "L"}',
    ),
    "users_shared": (
        {"users_shared": {"request_id": 5, "users": [{"user_id": 9, "first_name": "Bo"}, {"user_id": 10}]}},
        "[users_shared] request_id 5; user_id 9, Bo; user_id 10",
    ),
    "user_shared": ({"user_shared": {"request_id": 5, "user_id": 9}}, "[user_shared] request_id 5; user_id 9"),
    "chat_shared": (
        {"chat_shared": {"request_id": 5, "chat_id": -100, "title": "Team"}},
        "[chat_shared] request_id 5; chat_id -100; Team",
    ),
    "successful_payment": (
        {
            "successful_payment": {
                "currency": "EUR",
                "total_amount": 999,
                "invoice_payload": "order-7",
                "telegram_payment_charge_id": "tg1",
            }
        },
        "[successful_payment] EUR; total_amount 999; order-7; tg1",
    ),
    "refunded_payment": (
        {"refunded_payment": {"currency": "XTR", "total_amount": 9, "invoice_payload": "order-7"}},
        "[refunded_payment] XTR; total_amount 9; order-7",
    ),
    "gift": ({"gift": {"gift": {"id": "1", "star_count": 15}, "text": "thanks"}}, "[gift] thanks; star_count 15"),
    "gift_upgrade_sent": ({"gift_upgrade_sent": {"gift": {"star_count": 15}}}, "[gift_upgrade_sent] star_count 15"),
    "unique_gift": (
        {"unique_gift": {"gift": {"base_name": "Cake", "name": "Cake-7", "number": 7}, "origin": "transfer"}},
        "[unique_gift] Cake, Cake-7, number 7",
    ),
    "passport_data": (
        {"passport_data": {"data": [{"type": "passport", "data": "secret"}], "credentials": {"secret": "s"}}},
        "[passport_data] passport",
    ),
    "checklist_tasks_done": (
        {
            "checklist_tasks_done": {
                "checklist_message": {"checklist": {"title": "Shopping", "tasks": []}},
                "marked_as_done_task_ids": [1, 3],
            }
        },
        "[checklist_tasks_done] Shopping; marked_as_done_task_ids 1; marked_as_done_task_ids 3",
    ),
    "checklist_tasks_added": (
        {"checklist_tasks_added": {"tasks": [{"id": 4, "text": "eggs"}]}},
        "[checklist_tasks_added] eggs",
    ),
    "poll_option_added": ({"poll_option_added": {"option_text": "salad"}}, "[poll_option_added] salad"),
    "poll_option_deleted": ({"poll_option_deleted": {"option_text": "salad"}}, "[poll_option_deleted] salad"),
    # Kinds that this version of the API does not have.
    "an unknown kind": (
        {"hologram": {"title": "My cat", "frames": [{"label": "one"}, {"label": "two"}]}},
        "[hologram] My cat; one; two",
    ),
    "an unknown kind with a caption": ({"hologram": {"x": 1}, "caption": "look"}, "look"),
    "an unknown kind that is text": ({"whisper": "psst"}, "[whisper] psst"),
    "an unknown kind that is true": ({"wave": True}, "[wave]"),
    "no content": ({}, "[unknown]"),
    "empty text": ({"text": ""}, "[unknown]"),
    "text that is no text": ({"text": ["x"]}, "[unknown]"),
}
TELEGRAM_EVENTS = (
    "new_chat_members left_chat_member chat_owner_left chat_owner_changed new_chat_title new_chat_photo"
    " delete_chat_photo group_chat_created supergroup_chat_created channel_chat_created"
    " message_auto_delete_timer_changed migrate_to_chat_id migrate_from_chat_id pinned_message connected_website"
    " write_access_allowed proximity_alert_triggered boost_added chat_background_set direct_message_price_changed"
    " forum_topic_created forum_topic_edited forum_topic_closed forum_topic_reopened general_forum_topic_hidden"
    " general_forum_topic_unhidden giveaway_created giveaway_completed managed_bot_created"
    " paid_message_price_changed suggested_post_approved suggested_post_approval_failed suggested_post_declined"
    " suggested_post_paid suggested_post_refunded video_chat_scheduled video_chat_started video_chat_ended"
    " video_chat_participants_invited community_chat_added community_chat_removed community_chat_joined"
).split()

# Every kind of ``Update`` besides ``message``.
TELEGRAM_UPDATES = (
    "edited_message channel_post edited_channel_post business_connection business_message edited_business_message"
    " deleted_business_messages guest_message message_reaction message_reaction_count inline_query"
    " chosen_inline_result shipping_query pre_checkout_query purchased_paid_media poll poll_answer my_chat_member"
    " chat_member chat_join_request chat_boost removed_chat_boost managed_bot subscription"
    " stopped_message_generation something_newer"
).split()


@pytest.mark.parametrize("case", TELEGRAM_CONTENTS)
def test_the_words_of_each_telegram_content_are_kept(case: str) -> None:
    """Text and captions as they are, every other content with its name and its words."""
    content, text = TELEGRAM_CONTENTS[case]
    message = telegram(content)
    assert message is not None
    assert (message.senders, message.key, message.text) == (("4711",), "900001", text)


@pytest.mark.parametrize("kind", TELEGRAM_EVENTS)
def test_service_messages_about_a_chat_are_no_messages(kind: str) -> None:
    """Their words would not be words of the person."""
    assert telegram({kind: {"text": "x"}}) is None


@pytest.mark.parametrize("kind", TELEGRAM_UPDATES)
def test_other_updates_are_no_messages(kind: str) -> None:
    """Also when they contain a message of a person in a private chat."""
    content = {"message_id": 7, "from": PERSON, "chat": CHAT, "date": 1793000000, "text": "x", "user": PERSON}
    assert read_update({"update_id": 1, kind: content}) is None


@pytest.mark.parametrize(
    "envelope",
    [
        {"business_connection_id": "b1"},
        {"guest_query_id": "g1"},
        {"sender_chat": {"id": -100, "type": "channel"}},
        {"sender_business_bot": {"id": 5, "is_bot": True}},
        {"chat": {"id": -100, "type": "supergroup"}, "direct_messages_topic": {"topic_id": 1}},
        {"from": {"id": 136817688, "is_bot": True}},
    ],
    ids=["business chat", "guest chat", "channel", "business bot", "direct messages of a channel", "channel bot"],
)
def test_a_message_of_another_chat_is_no_direct_message(envelope: dict[str, Any]) -> None:
    """A chat of a business account can have the id of a chat with the bot."""
    assert telegram({"text": "x"}, **envelope) is None


KEYBOARD = {"inline_keyboard": [[{"text": "No", "callback_data": "n"}, {"text": "Yes", "callback_data": "y:1"}]]}
BUTTONS: list[tuple[dict[str, Any], str | None]] = [
    ({"data": "y:1"}, "[callback_query] Yes; y:1"),
    ({"data": "gone"}, "[callback_query] gone"),
    ({"game_short_name": "chess"}, "[callback_query] chess"),
    ({"data": "y:1", "message": {"chat": CHAT, "message_id": 1, "date": 0}}, "[callback_query] y:1"),  # inaccessible
    ({"data": "y:1", "message": {"chat": {"id": -100, "type": "group"}, "reply_markup": KEYBOARD}}, None),
    ({"data": "y:1", "message": {"chat": CHAT, "business_connection_id": "b1"}}, None),
    ({"data": "y:1", "message": None, "inline_message_id": "1"}, None),
]


@pytest.mark.parametrize(("changes", "text"), BUTTONS)
def test_a_pressed_button_is_a_message(changes: dict[str, Any], text: str | None) -> None:
    """Only in the chat of the person with the bot; the text of the button is kept."""
    query = {"id": "1", "from": PERSON, "message": {"chat": CHAT, "reply_markup": KEYBOARD}, **changes}
    message = read_update({"update_id": 1, "callback_query": query})
    assert (message.text if message is not None else None) == text


def whatsapp(message: dict[str, Any], *, number_id: str | None = None, **value: Any) -> list[DirectMessage]:
    whole = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550001111", "phone_number_id": "106"},
        "contacts": [{"profile": {"name": "Ada"}, "wa_id": "15557000001"}],
        "messages": [{"from": "15557000001", "id": "wamid.1", "timestamp": "1793000000", **message}],
        **value,
    }
    change = {"field": "messages", "value": whole}
    notification = {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
    return read_notification(notification, number_id)


def interactive(kind: str, reply: Any) -> dict[str, Any]:
    return {"type": "interactive", "interactive": {"type": kind, kind: reply}, "context": {"id": "wamid.0"}}


MEDIA = {"id": "m", "mime_type": "x/y", "sha256": "s"}
# Every kind of message of the Cloud API, with the text that is queued; None for an event.
WHATSAPP_KINDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "text": ({"type": "text", "text": {"body": "hello"}}, "hello"),
    "image": ({"type": "image", "image": MEDIA}, "[image]"),
    "image with a caption": ({"type": "image", "image": {**MEDIA, "caption": "look"}}, "look"),
    "video": ({"type": "video", "video": MEDIA}, "[video]"),
    "audio": ({"type": "audio", "audio": {**MEDIA, "voice": False}}, "[audio]"),
    "voice message": ({"type": "audio", "audio": {**MEDIA, "voice": True}}, "[voice]"),
    "sticker": ({"type": "sticker", "sticker": {**MEDIA, "animated": False}}, "[sticker]"),
    "document": ({"type": "document", "document": {**MEDIA, "filename": "report.pdf"}}, "[document] report.pdf"),
    "location": (
        {"type": "location", "location": {"latitude": 52.5, "longitude": 13.25, "name": "Museum", "address": "1 Main"}},
        "[location] Museum; 1 Main; latitude 52.5; longitude 13.25",
    ),
    "contacts": (
        {
            "type": "contacts",
            "contacts": [
                {
                    "name": {"formatted_name": "Bo Li", "first_name": "Bo"},
                    "phones": [{"phone": "+49 151", "wa_id": "49151", "type": "CELL"}, {"phone": "+49 152"}],
                    "emails": [{"email": "bo@x.example"}],
                },
                {"name": {"formatted_name": "Cy"}, "org": {"company": "ACME", "title": "CEO"}},
            ],
        },
        "[contacts] Bo Li; +49 151; +49 152; bo@x.example; Cy; ACME, CEO",
    ),
    "button of a template": (
        {"type": "button", "button": {"text": "Yes, please", "payload": "YES-1"}},
        "[button] Yes, please; YES-1",
    ),
    "button_reply": (interactive("button_reply", {"id": "c1", "title": "Change"}), "[button_reply] Change; c1"),
    "list_reply": (
        interactive("list_reply", {"id": "express", "title": "Express", "description": "1 day"}),
        "[list_reply] Express; 1 day; express",
    ),
    "nfm_reply": (
        interactive("nfm_reply", {"name": "flow", "body": "Sent", "response_json": '{"size": "L"}'}),
        '[nfm_reply] flow; Sent; {"size": "L"}',
    ),
    "call_permission_reply": (
        interactive("call_permission_reply", {"response": "accept", "response_source": "user_action"}),
        "[call_permission_reply] accept; user_action",
    ),
    "an unknown reply": (interactive("vote_reply", {"id": "1", "title": "Pizza"}), "[vote_reply] Pizza; 1"),
    "a reply without content": ({"type": "interactive", "interactive": None}, "[interactive]"),
    "order": (
        {
            "type": "order",
            "order": {
                "catalog_id": "cat1",
                "text": "soon please",
                "product_items": [
                    {"product_retailer_id": "sku1", "quantity": 2, "item_price": 5.5, "currency": "EUR"},
                    {"product_retailer_id": "sku1", "quantity": 2, "item_price": 5.5, "currency": "EUR"},
                ],
            },
        },
        "[order] soon please; cat1; sku1, quantity 2, item_price 5.5, EUR; sku1, quantity 2, item_price 5.5, EUR",
    ),
    "a question about a product": (
        {
            "type": "text",
            "text": {"body": "In red?"},
            "context": {
                "from": "1",
                "id": "wamid.0",
                "referred_product": {"catalog_id": "c", "product_retailer_id": "s"},
            },
        },
        "In red?\n[product] s; c",
    ),
    "a message from an ad": (
        {"type": "text", "text": {"body": "Hi"}, "referral": {"headline": "Sale", "source_url": "https://fb.me/1"}},
        "Hi\n[referral] Sale; https://fb.me/1",
    ),
    "a forwarded message": ({"type": "text", "text": {"body": "news"}, "context": {"forwarded": True}}, "news"),
    "unsupported": (
        {
            "type": "unsupported",
            "unsupported": {"type": "poll_creation"},
            "errors": [{"code": 131051, "title": "Message type unknown", "error_data": {"details": "not supported"}}],
        },
        "[unsupported] poll_creation; Message type unknown; not supported",
    ),
    "unknown": ({"type": "unknown", "errors": [{"code": 131051}]}, "[unknown]"),
    "a newer kind": ({"type": "hologram", "hologram": {"title": "My cat"}}, "[hologram] My cat"),
    "a newer kind with a caption": ({"type": "hologram", "hologram": {"caption": "look"}}, "look"),
    "reaction": ({"type": "reaction", "reaction": {"message_id": "wamid.0", "emoji": "x"}}, None),
    "edit": ({"type": "edit", "edit": {"original_message_id": "wamid.0", "message": {"type": "text"}}}, None),
    "revoke": ({"type": "revoke", "revoke": {"original_message_id": "wamid.0"}}, None),
    "request_welcome": ({"type": "request_welcome"}, None),
    "a changed number": ({"type": "system", "system": {"type": "user_changed_number", "wa_id": "1"}}, None),
    "a changed user id": ({"type": "system", "system": {"type": "user_changed_user_id", "user_id": "US.2"}}, None),
    "a group message": ({"type": "text", "text": {"body": "x"}, "group_id": "G1"}, None),
}


@pytest.mark.parametrize("case", WHATSAPP_KINDS)
def test_the_words_of_each_kind_of_whatsapp_message_are_kept(case: str) -> None:
    """Text and captions as they are, every other content with its name and its words."""
    content, text = WHATSAPP_KINDS[case]
    found = whatsapp(content)
    assert [message.text for message in found] == ([] if text is None else [text])
    assert {message.senders for message in found} <= {("15557000001",)}


TEXT = {"type": "text", "text": {"body": "hello"}}
PHONE, SCOPED, PARENT = "15557000001", "US.13491208655302741918", "US.ENT.11815799212886844830"
SENDERS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], tuple[str, ...] | None]] = {
    "a phone number": ({"from": PHONE}, [], (PHONE,)),
    "both": ({"from": PHONE, "from_user_id": SCOPED}, [], (PHONE, SCOPED)),
    "all three": (
        {"from": PHONE, "from_user_id": SCOPED, "from_parent_user_id": PARENT},
        [],
        (PHONE, SCOPED, PARENT),
    ),
    "a username": ({"from": None, "from_user_id": SCOPED}, [{"user_id": SCOPED, "profile": {}}], (SCOPED,)),
    "an empty number": ({"from": "", "from_user_id": SCOPED}, [], (SCOPED,)),
    "the id in the contact": ({"from": PHONE}, [{"wa_id": PHONE, "user_id": SCOPED}], (PHONE, SCOPED)),
    "the number in the contact": (
        {"from": None, "from_user_id": SCOPED},
        [{"wa_id": PHONE, "user_id": SCOPED}],
        (PHONE, SCOPED),
    ),
    "only in the contact": ({"from": None}, [{"user_id": SCOPED, "parent_user_id": PARENT}], (SCOPED, PARENT)),
    "another number in the contact": ({"from": PHONE}, [{"wa_id": "15557000002", "user_id": SCOPED}], (PHONE,)),
    "two numbers of one contact": (
        {"from": PHONE, "from_user_id": SCOPED},
        [{"wa_id": "15557000002", "user_id": SCOPED}],
        (PHONE, SCOPED),
    ),
    "several contacts": (
        {"from": PHONE},
        [{"wa_id": "15557000002", "user_id": "US.2"}, {"wa_id": PHONE, "user_id": SCOPED}],
        (PHONE, SCOPED),
    ),
    "no sender and two contacts": ({"from": None}, [{"user_id": SCOPED}, {"user_id": "US.2"}], None),
    "no sender": ({"from": None}, [], None),
    "an invalid number": ({"from": "me", "from_user_id": SCOPED}, [], (SCOPED,)),
    "an id that is a number": ({"from": PHONE, "from_user_id": 1349}, [], None),
    "a group as number": ({"from": "120363@g.us", "from_user_id": SCOPED}, [], None),
    "a contact that is not an object": ({"from": PHONE}, ["x", {"wa_id": PHONE, "user_id": 7}], (PHONE,)),  # type: ignore[list-item]
}


@pytest.mark.parametrize("case", SENDERS)
def test_all_ids_of_the_sender_are_read(case: str) -> None:
    """A contact counts for a message that has one of its ids; an id of several people makes the message invalid."""
    message, contacts, senders = SENDERS[case]
    found = whatsapp({**message, **TEXT}, contacts=contacts)
    assert [each.senders for each in found] == ([] if senders is None else [senders])


def test_messages_to_another_number_are_ignored() -> None:
    """Without a configured number, the messages to all numbers of the account count."""
    assert len(whatsapp(TEXT)) == len(whatsapp(TEXT, number_id="106")) == 1
    assert len(whatsapp(TEXT, number_id="106", metadata={"phone_number_id": 106})) == 1
    for metadata in ({"phone_number_id": "107"}, {}, None, "106", {"phone_number_id": None}):
        assert whatsapp(TEXT, number_id="106", metadata=metadata) == []
        assert len(whatsapp(TEXT, metadata=metadata)) == 1


def test_each_ignored_kind_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is no message is never dropped in silence, and a flood of it does not fill the log."""
    monkeypatch.setattr(channels, "_noted", set())
    caplog.set_level(logging.INFO, "gateway.channels")
    for _ in range(3):
        read_update({"update_id": 1, "message_reaction": {}})
        whatsapp({"type": "reaction"})
    assert [record.getMessage() for record in caplog.records] == [
        "telegram: not a message, so not queued: 'message_reaction' (logged once)",
        "whatsapp: not a message, so not queued: 'reaction' (logged once)",
    ]
    for number in range(1000):
        read_update({"update_id": 1, f"kind_{number}": {}})
    assert len(caplog.records) == 200


KEYS = st.sampled_from(["text", "title", "type", "blocks", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(content=JSON, kind=st.sampled_from([*(k for k in TELEGRAM_CONTENTS if " " not in k), "new_kind"]))
def test_any_telegram_content_gives_text(content: Any, kind: str) -> None:
    """No form of a content raises, and a content of a person is never dropped."""
    message = telegram({kind: content})
    assert message is not None and message.text
    message.text.encode()


@given(content=JSON, kind=st.text(max_size=5) | st.sampled_from([*WHATSAPP_KINDS, "interactive", "contacts"]))
def test_any_whatsapp_content_gives_text_or_nothing(content: Any, kind: str) -> None:
    """No form of a content raises."""
    for message in whatsapp({kind or "x": content, "type": kind}):
        assert message.text
        json.dumps(message.text).encode()
