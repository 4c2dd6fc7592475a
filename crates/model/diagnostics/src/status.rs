//! Failures as gRPC status, both ways.

use bytes::Bytes;
use prost::Message;
use proto::rpc;
use tonic::{Code, Status};

use crate::{Detail, Failure, detail};

impl Failure {
    /// The status as a message, with all details: what frontends return and what history keeps.
    pub fn to_rpc(&self) -> rpc::Status {
        let (stacks, others): (Vec<&Detail>, Vec<&Detail>) =
            self.details().iter().partition(|detail| detail.is_stack());
        rpc::Status {
            code: self.code() as i32,
            message: self.text().to_owned(),
            details: stacks.iter().chain(&others).map(|d| d.to_any()).collect(),
        }
    }

    /// The status a gRPC call ends with.
    pub fn to_status(&self) -> Status {
        let rpc = self.to_rpc();
        if rpc.details.is_empty() {
            return Status::new(self.code(), rpc.message);
        }
        let details = Bytes::from(rpc.encode_to_vec());
        Status::with_details(self.code(), rpc.message, details)
    }

    /// What a frontend says in a message.
    pub fn from_rpc(status: &rpc::Status) -> Self {
        let code = Code::from_i32(status.code);
        Self::with_code(code, said(code, &status.message), detail::from_rpc(status))
    }

    /// What the other side said.
    pub fn from_status(status: &Status) -> Self {
        let details = match rpc::Status::decode(status.details()) {
            Ok(rpc) => detail::from_rpc(&rpc),
            // A peer that puts something else there has told us the code and the text all the same.
            Err(_) => Vec::new(),
        };
        let code = status.code();
        Self::with_code(code, said(code, status.message()), details)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::from_status(&status)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.to_status()
    }
}

/// What there is to say: the code's name where the other side had no words. A failure without a text looks like success.
fn said(code: Code, message: &str) -> String {
    match plain(message) {
        text if text.is_empty() => format!("{code:?}"),
        text => text,
    }
}

/// The text without the prefixes that a status gets in Go each time it is printed.
fn plain(message: &str) -> String {
    let mut text = message;
    while let Some((_, rest)) = text
        .strip_prefix("rpc error: code = ")
        .and_then(|rest| rest.split_once(" desc = "))
    {
        text = rest;
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::{Class, Classify};

    #[test]
    fn a_status_without_details_has_no_details_header() {
        let status = Failure::new(Class::NotFound, "no such job x").to_status();
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.details().is_empty());
    }

    #[test]
    fn a_code_from_the_other_side_is_kept() {
        let failure = Failure::from(Status::invalid_argument("x")).context("y");
        assert_eq!(failure.class(), Class::User);
        assert_eq!(failure.to_status().code(), Code::InvalidArgument);
        assert_eq!(failure.text(), "y: x");
    }

    #[test]
    fn each_reading_turns_the_order_of_details_round() {
        let vertex = |digest: &str| Detail::Vertex {
            digest: digest.to_owned(),
        };
        let failure = Failure::user("x")
            .with(vertex("inner"))
            .with(vertex("outer"));
        let read = Failure::from_status(&failure.to_status());
        assert_eq!(read.details(), [vertex("inner"), vertex("outer")]);
        let again = Failure::from_rpc(&read.to_rpc());
        assert_eq!(again.details(), failure.details());
    }

    #[test]
    fn a_failure_without_words_says_its_code() {
        let nothing = Failure::from_status(&Status::unimplemented(""));
        assert_eq!(nothing.text(), "Unimplemented");
        let nothing = Failure::from_rpc(
            &Failure::with_code(Code::NotFound, String::new(), Vec::new()).to_rpc(),
        );
        assert_eq!(nothing.context("reading").text(), "reading: NotFound");
    }

    #[test]
    fn codes_inside_the_text_are_left_out() {
        assert_eq!(
            plain("rpc error: code = NotFound desc = rpc error: code = NotFound desc = no access"),
            "no access"
        );
    }
}
