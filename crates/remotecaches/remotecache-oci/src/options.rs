//! Options that several kinds have.

use std::collections::BTreeMap;

use layer::Compression;
use remotecache::Error;
use remotecache::manifest::Form;

/// What a cache with a manifest is like.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) form: Form,
    pub(crate) layers: layer::Options,
}

impl Options {
    pub(crate) fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, Error> {
        let form = Form::parse(attrs)?;
        let compression = match attrs.get("compression") {
            None => Compression::default(),
            Some(text) => Compression::parse(text)
                .ok_or_else(|| Error::option(format!("unsupported compression type {text}")))?,
        };
        let force = match attrs.get("force-compression") {
            None => false,
            Some(value) if value.is_empty() => true,
            Some(value) => fault::truth(value).ok_or_else(|| {
                Error::option(format!(
                    "non-bool value {value} specified for force-compression: strconv.ParseBool: parsing {value:?}: \
                     invalid syntax"
                ))
            })?,
        };
        let level = match attrs.get("compression-level") {
            None => None,
            Some(text) => Some(layer::parse_level(text).map_err(Error::option)?),
        };
        Ok(Self {
            form,
            layers: layer::Options {
                compression,
                level,
                force,
                ..layer::Options::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attrs: &[(&str, &str)]) -> Result<Options, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Options::parse(&attrs.iter().map(owned).collect()).map_err(|err| err.to_string())
    }

    #[test]
    fn levels_have_64_bits() {
        for text in ["2147483648", "4294967296", "-9223372036854775808"] {
            let options = parse(&[("compression-level", text)]).expect("options");
            assert_eq!(
                options
                    .layers
                    .level
                    .map(|level| level.to_string())
                    .as_deref(),
                Some(text)
            );
        }
        assert_eq!(
            parse(&[("compression-level", "9223372036854775808")]).expect_err("refused"),
            "non-integer value 9223372036854775808 specified for compression-level: strconv.ParseInt: parsing \
             \"9223372036854775808\": value out of range"
        );
    }

    #[test]
    fn compression_is_read_as_exporters_read_it() {
        let options = parse(&[
            ("compression", "zstd"),
            ("compression-level", "3"),
            ("force-compression", "true"),
        ]);
        let layers = options.expect("options").layers;
        assert_eq!(layers.compression, Compression::Zstd);
        assert_eq!((layers.level, layers.force), (Some(3), true));
        assert_eq!(
            parse(&[("compression", "lz4")]).expect_err("refused"),
            "unsupported compression type lz4"
        );
        assert_eq!(
            parse(&[("compression-level", "x")]).expect_err("refused"),
            "non-integer value x specified for compression-level: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            parse(&[("force-compression", "x")]).expect_err("refused"),
            "non-bool value x specified for force-compression: strconv.ParseBool: parsing \"x\": invalid syntax"
        );
    }
}
