//! The chats `quorate demo` makes for itself when it is given no file: the
//! layout of a Telegram export, so that they take the same way as real ones.
//!
//! Every message carries a random token. The demo looks for the tokens on the
//! disks of home and custodians, and must not find them there.

use rand::RngExt;
use serde_json::{Value, json};

/// Messages in [`sample_export`], over all its chats.
pub const SAMPLE_MESSAGES: usize = 600;

const TEXTS: [&str; 8] = [
    "who holds the key to this?",
    "nobody alone. three of five, in different countries",
    "ok – and if two of them are gone? 🙂",
    "then it still opens; with three gone it does not",
    "پیام آزمایشی برای بایت‌های غیرلاتین",
    "测试消息:字节必须一字不差",
    "line one\nline two\t\"quoted\" \\ and a backslash",
    "",
];

/// A full export of three chats with texts, entities, replies, forwards,
/// service actions, reactions and media metadata; fresh tokens at every call.
pub fn sample_export() -> Value {
    let mut rng = rand::rng();
    let chats: Vec<Value> = [
        ("Night shift", "private_group"),
        ("Ana", "personal_chat"),
        ("Notices", "public_channel"),
    ]
    .iter()
    .enumerate()
    .map(|(i, (name, kind))| {
        let messages: Vec<Value> = (1..=SAMPLE_MESSAGES / 3)
            .map(|n| message(i, n, rng.random()))
            .collect();
        json!({ "name": name, "type": kind, "id": 7_000_000 + i, "messages": messages })
    })
    .collect();
    json!({
        "about": "Chats that quorate demo made for itself.",
        "personal_information": { "user_id": 1, "first_name": "Demo", "last_name": "", "phone_number": "" },
        "chats": { "about": "", "list": chats },
    })
}

fn message(chat: usize, n: usize, token: u128) -> Value {
    let at = 1_760_000_000 + (chat * 1_000 + n) as u64 * 60;
    let (date, unix) = ("2025-10-09T08:53:20", at.to_string());
    if n == 1 {
        return json!({
            "id": n, "type": "service", "date": date, "date_unixtime": unix, "actor": "Ana", "actor_id": "user11",
            "action": "create_group", "title": "Night shift", "members": ["Ana", "Bao", "Chidi"],
        });
    }
    let text = format!("{} [{token:032x}]", TEXTS[n % TEXTS.len()]);
    let mut m = json!({
        "id": n, "type": "message", "date": date, "date_unixtime": unix,
        "from": (["Ana", "Bao", "Chidi"][n % 3]), "from_id": format!("user{}", 11 + n % 3),
        "text": text, "text_entities": [{ "type": "plain", "text": text }],
    });
    match n % 10 {
        3 => m["reply_to_message_id"] = json!(n - 1),
        5 => m["forwarded_from"] = json!("Notices"),
        7 => {
            m["photo"] = json!(format!("photos/photo_{n}@09-10-2025_08-53-20.jpg"));
            m["photo_file_size"] = json!(81_234 + n);
            m["width"] = json!(1280);
            m["height"] = json!(720);
        }
        9 => m["reactions"] = json!([{ "type": "emoji", "count": 2, "emoji": "👍" }]),
        _ => {}
    }
    m
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_tokens_are_as_said() {
        let export = sample_export();
        let list = export["chats"]["list"].as_array().unwrap();
        let all: Vec<&Value> = list
            .iter()
            .flat_map(|c| c["messages"].as_array().unwrap())
            .collect();
        assert_eq!(all.len(), SAMPLE_MESSAGES);
        let texts: std::collections::BTreeSet<_> =
            all.iter().filter_map(|m| m["text"].as_str()).collect();
        assert_eq!(texts.len(), SAMPLE_MESSAGES - 3, "every text is unique");
    }
}
