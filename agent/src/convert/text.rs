//! Bytes of the kernel as text: replaced where they are not UTF-8, and then kept exactly beside it.

use bytes::Bytes;

/// Text, and the exact bytes where the text is not them.
pub(super) struct Text {
    pub(super) text: String,
    pub(super) raw: Bytes,
}

pub(super) fn text(bytes: Vec<u8>) -> Text {
    match String::from_utf8(bytes) {
        Ok(text) => Text { text, raw: Bytes::new() },
        Err(e) => {
            let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
            Text { text, raw: e.into_bytes().into() }
        }
    }
}

/// The same for a list: where one of them is not UTF-8, the raw list has all, so that indexes agree.
pub(super) fn texts(list: Vec<Vec<u8>>) -> (Vec<String>, Vec<Bytes>) {
    let raw: Vec<Bytes> = if list.iter().all(|bytes| std::str::from_utf8(bytes).is_ok()) {
        Vec::new()
    } else {
        list.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect()
    };
    (list.into_iter().map(|bytes| text(bytes).text).collect(), raw)
}
