//! Byte fields as base64 text in serialised records.

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) fn serialize<S: Serializer, B: AsRef<[u8]>>(bytes: &B, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes.as_ref()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>, B: TryFrom<Vec<u8>>>(
    deserializer: D,
) -> Result<B, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| D::Error::custom("not base64"))?;
    B::try_from(bytes).map_err(|_| D::Error::custom("wrong number of bytes"))
}
