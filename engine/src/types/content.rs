//! A message's content, seen through types; the object itself stays verbatim.
//!
//! Content is a JSON object in the vocabulary of Telegram Desktop's export.
//! [`ContentView`] borrows it and answers questions about what it knows.
//! It never rewrites: unknown fields, newer actions and odd shapes stay in the
//! object, and a question about them is answered with what is there or `None`.

use serde_json::{Map, Value};

/// What kind of record a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Somebody wrote it.
    Message,
    /// Something happened in the chat.
    Service,
    /// The exporter did not understand it.
    Unsupported,
    /// A kind this build does not know, or none.
    Other(Option<&'a str>),
}

/// A run of text with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entity<'a> {
    /// `plain`, `bold`, `text_link`, …; kept open.
    pub kind: &'a str,
    /// Its text.
    pub text: &'a str,
    /// The raw object, for `href`, `language`, `user_id`, `document_id`, `collapsed` and newer ones.
    pub raw: Option<&'a Map<String, Value>>,
}

/// What a message carries besides text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind<'a> {
    /// A photo.
    Photo,
    /// A plain file.
    File,
    /// `sticker`, `video_message`, `voice_message`, `animation`, `video_file`, `audio_file`, or newer.
    Typed(&'a str),
    /// A contact.
    Contact,
    /// A place, with or without a name.
    Location,
    /// A poll.
    Poll,
    /// A game.
    Game,
    /// An invoice.
    Invoice,
    /// A to-do list.
    TodoList,
    /// A giveaway, or its results.
    Giveaway,
}

/// A media file's metadata. The file itself is not part of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaFile<'a> {
    /// Path in the export, or the exporter's notice in brackets.
    pub path: &'a str,
    /// False when `path` is a notice that the file was not exported.
    pub exported: bool,
    /// Its name.
    pub name: Option<&'a str>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its media type.
    pub mime: Option<&'a str>,
    /// Pixels.
    pub width: Option<u64>,
    /// Pixels.
    pub height: Option<u64>,
    /// Seconds.
    pub duration_seconds: Option<u64>,
    /// Path of its thumbnail.
    pub thumbnail: Option<&'a str>,
}

/// One kind of reaction and how often it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaction<'a> {
    /// `emoji`, `custom_emoji`, `paid`, or newer.
    pub kind: &'a str,
    /// How often.
    pub count: u64,
    /// The emoji, or the custom emoji's document id.
    pub what: Option<&'a str>,
}

/// A poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll<'a> {
    /// The question.
    pub question: &'a str,
    /// No more votes are taken.
    pub closed: bool,
    /// Who voted, in number.
    pub total_voters: u64,
    /// Text and votes of each answer.
    pub answers: Vec<(&'a str, u64)>,
}

/// A content, seen through types.
#[derive(Clone, Copy, Debug)]
pub struct ContentView<'a> {
    raw: &'a Map<String, Value>,
}

impl<'a> ContentView<'a> {
    /// Of `raw`.
    pub fn new(raw: &'a Map<String, Value>) -> Self {
        Self { raw }
    }
    /// The object itself.
    pub fn raw(&self) -> &'a Map<String, Value> {
        self.raw
    }
    fn str(&self, key: &str) -> Option<&'a str> {
        self.raw.get(key).and_then(Value::as_str)
    }
    fn num(&self, key: &str) -> Option<u64> {
        self.raw.get(key).and_then(Value::as_u64)
    }

    /// What kind of record it is.
    pub fn kind(&self) -> Kind<'a> {
        match self.str("type") {
            Some("message") => Kind::Message,
            Some("service") => Kind::Service,
            Some("unsupported") => Kind::Unsupported,
            other => Kind::Other(other),
        }
    }
    /// When it was sent, Unix seconds, as the content says. Old exports lack it.
    pub fn sent_unix(&self) -> Option<i64> {
        self.str("date_unixtime")?.parse().ok()
    }
    /// When it was edited, Unix seconds, as the content says.
    pub fn edited_unix(&self) -> Option<i64> {
        self.str("edited_unixtime")?.parse().ok()
    }
    /// Name of who wrote or did it.
    pub fn sender(&self) -> Option<&'a str> {
        self.str("from").or_else(|| self.str("actor"))
    }
    /// Id of who wrote or did it; a bare number in old exports becomes `user…`.
    pub fn sender_id(&self) -> Option<String> {
        match self
            .raw
            .get("from_id")
            .or_else(|| self.raw.get("actor_id"))?
        {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(format!("user{id}")),
            _ => None,
        }
    }
    /// The message it answers.
    pub fn reply_to(&self) -> Option<i64> {
        self.raw.get("reply_to_message_id").and_then(Value::as_i64)
    }
    /// The chat that the answered message is in, when it is another one.
    pub fn reply_to_peer(&self) -> Option<&'a str> {
        self.str("reply_to_peer_id")
    }
    /// Who wrote it first, when it was forwarded; `Some(None)` when that is not known.
    pub fn forwarded_from(&self) -> Option<Option<&'a str>> {
        self.raw.get("forwarded_from").map(Value::as_str)
    }
    /// The bot it was sent by way of.
    pub fn via_bot(&self) -> Option<&'a str> {
        self.str("via_bot")
    }

    /// The whole text without its formatting.
    pub fn text(&self) -> String {
        match self.raw.get("text") {
            Some(Value::String(text)) => text.clone(),
            _ => self.entities().iter().map(|e| e.text).collect(),
        }
    }
    /// The text in runs: from `text_entities`, else from `text` in either of its shapes.
    pub fn entities(&self) -> Vec<Entity<'a>> {
        let runs = |list: &'a Vec<Value>| list.iter().filter_map(entity).collect::<Vec<_>>();
        let plain = |text: &'a str| Entity {
            kind: "plain",
            text,
            raw: None,
        };
        match (self.raw.get("text_entities"), self.raw.get("text")) {
            (Some(Value::Array(list)), _) if !list.is_empty() => runs(list),
            (_, Some(Value::Array(list))) => runs(list),
            (_, Some(Value::String(text))) if !text.is_empty() => vec![plain(text)],
            _ => Vec::new(),
        }
    }

    /// A service message's action. A custom one has `information_text` and no action.
    pub fn action(&self) -> Option<&'a str> {
        self.str("action")
    }
    /// What it carries besides text.
    pub fn media_kind(&self) -> Option<MediaKind<'a>> {
        let has = |key: &str| self.raw.contains_key(key);
        Some(match () {
            () if has("media_type") => MediaKind::Typed(self.str("media_type")?),
            () if has("photo") && self.kind() != Kind::Service => MediaKind::Photo,
            () if has("file") => MediaKind::File,
            () if has("contact_information") => MediaKind::Contact,
            () if has("location_information") || has("place_name") => MediaKind::Location,
            () if has("poll") => MediaKind::Poll,
            () if has("game_title") => MediaKind::Game,
            () if has("invoice_information") => MediaKind::Invoice,
            () if has("todo_list") => MediaKind::TodoList,
            () if has("giveaway_information") || has("giveaway_results") => MediaKind::Giveaway,
            () => return None,
        })
    }
    /// Metadata of its media file.
    pub fn media_file(&self) -> Option<MediaFile<'a>> {
        let photo = self.str("photo");
        let path = photo.or_else(|| self.str("file"))?;
        Some(MediaFile {
            path,
            exported: !path.is_empty() && !path.starts_with('('),
            name: self.str("file_name"),
            size: self.num(if photo.is_some() {
                "photo_file_size"
            } else {
                "file_size"
            }),
            mime: self.str("mime_type"),
            width: self.num("width"),
            height: self.num("height"),
            duration_seconds: self.num("duration_seconds"),
            thumbnail: self.str("thumbnail"),
        })
    }
    /// Its reactions.
    pub fn reactions(&self) -> Vec<Reaction<'a>> {
        let list = self.raw.get("reactions").and_then(Value::as_array);
        let one = |r: &'a Value| {
            Some(Reaction {
                kind: r.get("type")?.as_str()?,
                count: r.get("count").and_then(Value::as_u64).unwrap_or(0),
                what: r
                    .get("emoji")
                    .or_else(|| r.get("document_id"))
                    .and_then(Value::as_str),
            })
        };
        list.into_iter().flatten().filter_map(one).collect()
    }
    /// Its poll.
    pub fn poll(&self) -> Option<Poll<'a>> {
        let poll = self.raw.get("poll")?.as_object()?;
        let number = |v: Option<&Value>| v.and_then(Value::as_u64).unwrap_or(0);
        let answers = poll.get("answers").and_then(Value::as_array);
        let answer = |a: &'a Value| Some((a.get("text")?.as_str()?, number(a.get("voters"))));
        Some(Poll {
            question: poll.get("question").and_then(Value::as_str).unwrap_or(""),
            closed: poll.get("closed").and_then(Value::as_bool).unwrap_or(false),
            total_voters: number(poll.get("total_voters")),
            answers: answers.into_iter().flatten().filter_map(answer).collect(),
        })
    }
    /// Latitude and longitude.
    pub fn location(&self) -> Option<(f64, f64)> {
        let place = self.raw.get("location_information")?;
        Some((
            place.get("latitude")?.as_f64()?,
            place.get("longitude")?.as_f64()?,
        ))
    }

    /// One line for a list of messages.
    pub fn summary(&self) -> String {
        let text = self.text().replace('\n', " ");
        let about = match (self.kind(), self.media_kind()) {
            (Kind::Service, _) => self.action().or_else(|| self.str("information_text")),
            (Kind::Unsupported, _) => Some("unsupported"),
            (_, Some(MediaKind::Typed(kind))) => Some(kind),
            (_, Some(MediaKind::Photo)) => Some("photo"),
            (_, Some(MediaKind::File)) => Some("file"),
            (_, Some(MediaKind::Contact)) => Some("contact"),
            (_, Some(MediaKind::Location)) => Some("location"),
            (_, Some(MediaKind::Poll)) => Some("poll"),
            (_, Some(MediaKind::Game)) => Some("game"),
            (_, Some(MediaKind::Invoice)) => Some("invoice"),
            (_, Some(MediaKind::TodoList)) => Some("to-do list"),
            (_, Some(MediaKind::Giveaway)) => Some("giveaway"),
            (_, None) => None,
        };
        match (about, text.is_empty()) {
            (Some(about), true) => format!("[{about}]"),
            (Some(about), false) => format!("[{about}] {text}"),
            (None, _) => text,
        }
    }
}

fn entity(value: &Value) -> Option<Entity<'_>> {
    match value {
        Value::String(text) => Some(Entity {
            kind: "plain",
            text,
            raw: None,
        }),
        Value::Object(raw) => Some(Entity {
            kind: raw.get("type").and_then(Value::as_str).unwrap_or("unknown"),
            text: raw.get("text").and_then(Value::as_str).unwrap_or(""),
            raw: Some(raw),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn text_in_all_its_shapes() {
        let bold = json!({"type": "bold", "text": "b"});
        for (raw, text, runs) in [
            (json!({"text": "a"}), "a", 1),
            (json!({"text": ["a", bold]}), "ab", 2),
            (
                json!({"text": ["a", bold], "text_entities": [{"type": "plain", "text": "a"}, bold]}),
                "ab",
                2,
            ),
            (json!({"text": ""}), "", 0),
            (json!({"text": null}), "", 0),
            (json!({}), "", 0),
        ] {
            let raw = map(raw);
            let view = ContentView::new(&raw);
            assert_eq!(
                (view.text().as_str(), view.entities().len()),
                (text, runs),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn replies_forwards_media_reactions_polls() {
        let raw = map(json!({
            "type": "message", "from": "A", "from_id": 77, "date_unixtime": "1739349468",
            "reply_to_message_id": -5, "forwarded_from": null, "media_type": "voice_message",
            "file": "(File not included. Change data exporting settings to download.)", "file_size": 9,
            "duration_seconds": 3, "text": "t\nu",
            "reactions": [{"type": "emoji", "count": 2, "emoji": "x"}, {"count": 1}, {"type": "custom_emoji", "document_id": "12"}],
            "poll": {"question": "q", "answers": [{"text": "y", "voters": 1}, 7]},
            "location_information": {"latitude": 1.5, "longitude": -2}
        }));
        let v = ContentView::new(&raw);
        assert_eq!(
            (v.kind(), v.sender(), v.sender_id().as_deref()),
            (Kind::Message, Some("A"), Some("user77"))
        );
        assert_eq!(
            (v.sent_unix(), v.reply_to(), v.forwarded_from()),
            (Some(1_739_349_468), Some(-5), Some(None))
        );
        let file = v.media_file().unwrap();
        assert_eq!(
            (file.exported, file.size, file.duration_seconds),
            (false, Some(9), Some(3))
        );
        assert_eq!(v.media_kind(), Some(MediaKind::Typed("voice_message")));
        assert_eq!(
            v.reactions()
                .iter()
                .map(|r| (r.kind, r.count, r.what))
                .collect::<Vec<_>>(),
            [("emoji", 2, Some("x")), ("custom_emoji", 0, Some("12"))]
        );
        assert_eq!(v.poll().unwrap().answers, [("y", 1)]);
        assert_eq!(v.location(), Some((1.5, -2.0)));
        assert_eq!(v.summary(), "[voice_message] t u");
    }

    #[test]
    fn service_actions_known_or_not() {
        let raw = map(
            json!({"type": "service", "actor": "B", "actor_id": "user1", "action": "grew_wings", "photo": "p.jpg"}),
        );
        let v = ContentView::new(&raw);
        assert_eq!(
            (v.action(), v.sender(), v.summary().as_str()),
            (Some("grew_wings"), Some("B"), "[grew_wings]")
        );
        assert_eq!(v.media_kind(), None);
        let raw = map(json!({"type": 5, "file": 9}));
        assert_eq!(ContentView::new(&raw).kind(), Kind::Other(None));
        assert_eq!(ContentView::new(&raw).media_file(), None);
    }
}
