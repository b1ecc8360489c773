"""The updates of the Telegram Bot API (version 10.3): which are messages of a person, and what they say."""

from __future__ import annotations

from typing import Any

from release_tasks.gateway.channels import DirectMessage, direct_message, is_number, note_event
from release_tasks.gateway.words import Words, labelled, rich_text
from release_tasks.pairing.channels import Channel

__all__ = ["read_update"]

# The contents of a message without text and caption. When a content is also in an older field, as an animation is in
# ``document``, the newer field comes first.
_CONTENTS: dict[str, Words] = {
    "animation": ("file_name",),
    "live_photo": (),
    "paid_media": ("star_count", ("paid_media", ("type",))),
    "photo": (),
    "voice": (),
    "video_note": (),
    "video": ("file_name",),
    "audio": ("performer", "title", "file_name"),
    "document": ("file_name",),
    "sticker": ("emoji", "set_name"),
    "story": (("chat", ("title", "first_name", "last_name", "username")), "id"),
    "checklist": ("title", ("tasks", ("text", "completion_date"))),
    "contact": ("first_name", "last_name", "phone_number"),
    "dice": ("emoji", "value"),
    "game": ("title", "description", "text"),
    "poll": ("question", "description", ("options", ("text",))),
    "venue": ("title", "address", ("location", ("latitude", "longitude"))),
    "location": ("latitude", "longitude"),
    "giveaway": ("prize_description", "winner_count", "prize_star_count"),
    "giveaway_winners": ("prize_description", "winner_count", "prize_star_count"),
    "invoice": ("title", "description", "currency", "total_amount"),
    # Actions of the person that the service needs to know: Telegram calls these service messages.
    "web_app_data": ("button_text", "data"),
    "users_shared": ("request_id", ("users", ("user_id", "first_name", "last_name", "username")), "user_ids"),
    "user_shared": ("request_id", "user_id"),
    "chat_shared": ("request_id", "chat_id", "title", "username"),
    "successful_payment": ("currency", "total_amount", "invoice_payload", "telegram_payment_charge_id"),
    "refunded_payment": ("currency", "total_amount", "invoice_payload", "telegram_payment_charge_id"),
    "gift": ("text", ("gift", (("sticker", ("emoji",)), "star_count"))),
    "gift_upgrade_sent": ("text", ("gift", (("sticker", ("emoji",)), "star_count"))),
    "unique_gift": ("text", ("gift", ("base_name", "name", "number"))),
    "passport_data": (("data", ("type",)),),
    "checklist_tasks_done": (
        ("checklist_message", (("checklist", ("title",)),)),
        "marked_as_done_task_ids",
        "marked_as_not_done_task_ids",
    ),
    "checklist_tasks_added": (("checklist_message", (("checklist", ("title",)),)), ("tasks", ("text",))),
    "poll_option_added": ("option_text",),
    "poll_option_deleted": ("option_text",),
}
# Service messages about a chat, and actions without words for the service.
_EVENTS = frozenset(
    {
        "new_chat_members", "left_chat_member", "chat_owner_left", "chat_owner_changed", "new_chat_title",
        "new_chat_photo", "delete_chat_photo", "group_chat_created", "supergroup_chat_created",
        "channel_chat_created", "message_auto_delete_timer_changed", "migrate_to_chat_id", "migrate_from_chat_id",
        "pinned_message", "connected_website", "write_access_allowed", "proximity_alert_triggered", "boost_added",
        "chat_background_set", "direct_message_price_changed", "forum_topic_created", "forum_topic_edited",
        "forum_topic_closed", "forum_topic_reopened", "general_forum_topic_hidden", "general_forum_topic_unhidden",
        "giveaway_created", "giveaway_completed", "managed_bot_created", "paid_message_price_changed",
        "suggested_post_approved", "suggested_post_approval_failed", "suggested_post_declined",
        "suggested_post_paid", "suggested_post_refunded", "video_chat_scheduled", "video_chat_started",
        "video_chat_ended", "video_chat_participants_invited", "community_chat_added", "community_chat_removed",
        "community_chat_joined",
    }
)  # fmt: skip
# Fields next to the content. A field that is in none of these three tables is the content of a newer Bot API.
_ENVELOPE = frozenset(
    {
        "message_id", "message_thread_id", "direct_messages_topic", "from", "sender_chat", "sender_boost_count",
        "sender_business_bot", "sender_tag", "date", "guest_query_id", "business_connection_id", "chat",
        "forward_origin", "is_topic_message", "is_automatic_forward", "reply_to_message", "external_reply", "quote",
        "reply_to_story", "reply_to_checklist_task_id", "reply_to_poll_option_id", "via_bot",
        "guest_bot_caller_user", "guest_bot_caller_chat", "edit_date", "has_protected_content", "is_from_offline",
        "is_paid_post", "media_group_id", "author_signature", "paid_star_count", "text", "entities",
        "link_preview_options", "suggested_post_info", "effect_id", "caption", "caption_entities",
        "show_caption_above_media", "has_media_spoiler", "reply_markup", "receiver_user", "ephemeral_message_id",
        "forward_date", "forward_from", "forward_from_chat", "forward_from_message_id", "forward_sender_name",
        "forward_signature",
    }
)  # fmt: skip
# A message with one of these belongs to a chat without this bot, which may have the id of a chat with this bot.
_OTHER_CHATS = ("business_connection_id", "guest_query_id", "sender_chat", "sender_business_bot")


def read_update(update: dict[str, Any]) -> DirectMessage | None:
    """Return the direct message of an update (``Update``, ``Message``, ``Chat`` and ``CallbackQuery`` of the Bot API).

    A pressed button below a message in the chat with a person is a message of that person. Returns None for every other
    update: groups, channels, bots, edits, joins and service messages.
    """
    number = update.get("update_id")
    if not is_number(number):
        return None
    kind = next((key for key in update if key != "update_id"), "update")
    if isinstance(message := update.get("message"), dict):
        return _message(str(number), message)
    if isinstance(query := update.get("callback_query"), dict):
        return _pressed_button(str(number), query)
    note_event(Channel.TELEGRAM, kind)
    return None


def _message(number: str, message: dict[str, Any]) -> DirectMessage | None:
    if not _is_private(message.get("from"), message.get("chat")) or _is_in_another_chat(message):
        note_event(Channel.TELEGRAM, "message outside the chat of a person with the bot")
        return None
    text = _text(message)
    return None if text is None else direct_message(Channel.TELEGRAM, [str(message["from"]["id"])], number, text)


def _pressed_button(number: str, query: dict[str, Any]) -> DirectMessage | None:
    message = query.get("message")
    is_private = isinstance(message, dict) and _is_private(query.get("from"), message.get("chat"))
    if not isinstance(message, dict) or not is_private or _is_in_another_chat(message):
        note_event(Channel.TELEGRAM, "callback_query outside the chat of a person with the bot")
        return None
    pressed = {"label": _button_label(message, query.get("data")), **query}
    text = labelled("callback_query", pressed, ("label", "data", "game_short_name"))
    return direct_message(Channel.TELEGRAM, [str(query["from"]["id"])], number, text)


def _is_private(sender: Any, chat: Any) -> bool:
    """Return whether the chat is the chat of this person with the bot."""
    if not isinstance(chat, dict) or not isinstance(sender, dict) or sender.get("is_bot") is not False:
        return False
    # In a private chat, the id of the chat is the id of the person; another sender id is not this person.
    return chat.get("type") == "private" and is_number(sender.get("id")) and sender["id"] == chat.get("id")


def _is_in_another_chat(message: dict[str, Any]) -> bool:
    return any(message.get(key) not in (None, "") for key in _OTHER_CHATS)


def _text(message: dict[str, Any]) -> str | None:
    """Return the text or caption, else the words of the content, or None for an event."""
    for key in ("text", "caption"):
        if isinstance(text := message.get(key), str) and text:
            return text
    if message.get("rich_message") is not None:
        return rich_text(message["rich_message"]) or "[rich_message]"
    fields = [key for key, value in message.items() if value is not None and key not in _ENVELOPE]
    for kind, words in _CONTENTS.items():
        if kind in fields:
            return labelled(kind, message[kind], words)
    if events := [kind for kind in fields if kind in _EVENTS]:
        note_event(Channel.TELEGRAM, events[0])
        return None
    return labelled(fields[0], message[fields[0]], None) if fields else "[unknown]"


def _button_label(message: dict[str, Any], data: Any) -> str | None:
    """Return the text of the button that sends ``data``."""
    markup = message.get("reply_markup")
    rows = markup.get("inline_keyboard") if isinstance(markup, dict) else None
    for row in rows if isinstance(rows, list) else []:
        for button in row if isinstance(row, list) else []:
            if isinstance(button, dict) and data is not None and button.get("callback_data") == data:
                return button.get("text") if isinstance(button.get("text"), str) else None
    return None
