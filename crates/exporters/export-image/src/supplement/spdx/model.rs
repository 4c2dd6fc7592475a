//! What SPDX documents are made of, in the order in which it is written.

use Kind::{Agent, Category, Flag, List, Maybe, Number, Party, Record, Reference, Text};

/// What a value is.
pub(super) enum Kind {
    Text,
    /// A text with `-` where others write `_`.
    Category,
    Number,
    /// True unless it says otherwise.
    Flag,
    /// `SPDXRef-a`
    Element,
    /// `DocumentRef-d`
    Document,
    /// `SPDXRef-a`, `DocumentRef-d:SPDXRef-a` or a word that says that there is none.
    Reference,
    /// `Tool: name`
    Agent(&'static str),
    /// The same, or a word that says that nobody knows.
    Party(&'static str),
    List(&'static Kind),
    Record(&'static [Field]),
    /// May be missing altogether.
    Maybe(&'static Kind),
}

pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: &'static Kind,
    /// Left out when it is empty.
    pub(super) optional: bool,
}

const fn must(name: &'static str, kind: &'static Kind) -> Field {
    let optional = false;
    Field {
        name,
        kind,
        optional,
    }
}

const fn may(name: &'static str, kind: &'static Kind) -> Field {
    let optional = true;
    Field {
        name,
        kind,
        optional,
    }
}

const TEXTS: &Kind = &List(&Text);

const CHECKSUM: &Kind = &Record(&[must("algorithm", &Text), must("checksumValue", &Text)]);

const ANNOTATION: &Kind = &Record(&[
    must("annotator", &Agent("Annotator")),
    must("annotationDate", &Text),
    must("annotationType", &Text),
    must("comment", &Text),
]);

const POINTER: &Kind = &Record(&[
    may("offset", &Number),
    may("lineNumber", &Number),
    must("reference", &Kind::Element),
]);

const SNIPPET: &Kind = &Record(&[
    must("SPDXID", &Kind::Element),
    must("snippetFromFile", &Kind::Element),
    must(
        "ranges",
        &List(&Record(&[
            must("startPointer", POINTER),
            must("endPointer", POINTER),
        ])),
    ),
    may("licenseConcluded", &Text),
    may("licenseInfoInSnippets", TEXTS),
    may("licenseComments", &Text),
    must("copyrightText", &Text),
    may("comment", &Text),
    may("name", &Text),
]);

const FILE: &Kind = &Record(&[
    must("fileName", &Text),
    must("SPDXID", &Kind::Element),
    may("fileTypes", TEXTS),
    must("checksums", &List(CHECKSUM)),
    may("licenseConcluded", &Text),
    may("licenseInfoInFiles", TEXTS),
    may("licenseComments", &Text),
    must("copyrightText", &Text),
    may(
        "artifactOfs",
        &List(&Maybe(&Record(&[
            must("name", &Text),
            must("homePage", &Text),
            must("URI", &Text),
        ]))),
    ),
    // Files that have none may get one.
    must("comment", &Text),
    may("noticeText", &Text),
    may("fileContributors", TEXTS),
    may("attributionTexts", TEXTS),
    may("fileDependencies", TEXTS),
    may("annotations", &List(ANNOTATION)),
]);

const FILES: &Kind = &List(&Maybe(FILE));

const PACKAGE: &Kind = &Record(&[
    must("name", &Text),
    must("SPDXID", &Kind::Element),
    may("versionInfo", &Text),
    may("packageFileName", &Text),
    may("supplier", &Maybe(&Party("Supplier"))),
    may("originator", &Maybe(&Party("Originator"))),
    must("downloadLocation", &Text),
    must("filesAnalyzed", &Flag),
    may(
        "packageVerificationCode",
        &Maybe(&Record(&[
            must("packageVerificationCodeValue", &Text),
            may("packageVerificationCodeExcludedFiles", TEXTS),
        ])),
    ),
    may("checksums", &List(CHECKSUM)),
    may("homepage", &Text),
    may("sourceInfo", &Text),
    may("licenseConcluded", &Text),
    may("licenseInfoFromFiles", TEXTS),
    may("licenseDeclared", &Text),
    may("licenseComments", &Text),
    may("copyrightText", &Text),
    may("summary", &Text),
    may("description", &Text),
    may("comment", &Text),
    may(
        "externalRefs",
        &List(&Maybe(&Record(&[
            must("referenceCategory", &Category),
            must("referenceType", &Text),
            must("referenceLocator", &Text),
            may("comment", &Text),
        ]))),
    ),
    may("attributionTexts", TEXTS),
    may("primaryPackagePurpose", &Text),
    may("releaseDate", &Text),
    may("builtDate", &Text),
    may("validUntilDate", &Text),
    may("files", FILES),
    may("annotations", &List(ANNOTATION)),
]);

pub(super) const DOCUMENT: &[Field] = &[
    must("spdxVersion", &Text),
    must("dataLicense", &Text),
    must("SPDXID", &Kind::Element),
    must("name", &Text),
    must("documentNamespace", &Text),
    may(
        "externalDocumentRefs",
        &List(&Record(&[
            must("externalDocumentId", &Kind::Document),
            must("spdxDocument", &Text),
            must("checksum", CHECKSUM),
        ])),
    ),
    may("comment", &Text),
    must(
        "creationInfo",
        &Record(&[
            may("licenseListVersion", &Text),
            must("creators", &List(&Agent("Creator"))),
            must("created", &Text),
            may("comment", &Text),
        ]),
    ),
    may("packages", &List(&Maybe(PACKAGE))),
    may("files", FILES),
    may(
        "hasExtractedLicensingInfos",
        &List(&Maybe(&Record(&[
            must("licenseId", &Text),
            must("extractedText", &Text),
            may("name", &Text),
            may("seeAlsos", TEXTS),
            may("comment", &Text),
        ]))),
    ),
    // More of them may be made.
    must(
        "relationships",
        &List(&Maybe(&Record(&[
            must("spdxElementId", &Reference),
            must("relatedSpdxElement", &Reference),
            must("relationshipType", &Text),
            may("comment", &Text),
        ]))),
    ),
    may("annotations", &List(&Maybe(ANNOTATION))),
    may("snippets", &List(SNIPPET)),
];
