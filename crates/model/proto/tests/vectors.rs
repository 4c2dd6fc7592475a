//! Golden data made by the reference's encoder.

use prost::{Message, Name};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

fn vectors(name: &str) -> Vec<Json> {
    let path = format!(
        "{}/../../../testing/vectors/wire/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).expect("the vectors are checked in");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
        .collect()
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key].as_str().expect("a string")
}

/// Both JSON forms and the bytes of one vector agree; `marshal` makes the bytes.
fn check<M>(vector: &Json, marshal: impl Fn(&M) -> Vec<u8>)
where
    M: Message + Name + Default + PartialEq + std::fmt::Debug,
{
    let name = text(vector, "name");
    let bytes = unhex(text(vector, "hex"));
    let message = M::decode(bytes.as_slice()).expect(name);
    assert_eq!(marshal(&message), bytes, "{name}: bytes");
    let digest: String = Sha256::digest(marshal(&message))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(format!("sha256:{digest}"), text(vector, "sha256"), "{name}");

    let go = proto::gojson::to_string(&message);
    let expected = &vector["go_json"];
    if !LONGER_IN_GO_JSON.contains(&name) {
        let parsed: Json = serde_json::from_str(&go).expect(name);
        assert_eq!(&parsed, expected, "{name}: Go JSON");
        // The vectors keep the order in which Go wrote the keys.
        assert_eq!(unescaped(&go), expected.to_string(), "{name}: Go JSON text");
    }
    let back: M = proto::gojson::from_slice(go.as_bytes()).expect(name);
    assert_eq!(back, message, "{name}: Go JSON read back");

    let back: M = proto::protojson::from_slice(vector["proto_json"].to_string().as_bytes())
        .unwrap_or_else(|err| panic!("{name}: {err}"));
    assert_eq!(back, message, "{name}: protojson read");
    let canonical = proto::protojson::to_string(&message);
    let back: M = proto::protojson::from_slice(canonical.as_bytes()).expect(name);
    assert_eq!(back, message, "{name}: protojson read back");
}

/// Upstream loses symlink actions in this form; we write them, so that `dump-llb` shows them.
const LONGER_IN_GO_JSON: &[&str] = &["file-symlink"];

fn unescaped(text: &str) -> String {
    let json: Json = serde_json::from_str(text).expect("JSON");
    json.to_string()
}

#[test]
fn ops_have_the_bytes_digests_and_json_of_the_reference() {
    for vector in vectors("ops.json") {
        match text(&vector, "message") {
            "pb.Op" => check::<proto::pb::Op>(&vector, proto::encode::marshal_op),
            "pb.OpMetadata" => check::<proto::pb::OpMetadata>(&vector, proto::encode::marshal),
            "pb.Definition" => check(&vector, proto::encode::marshal_definition),
            other => panic!("no case for {other}"),
        }
    }
}

macro_rules! round_trips {
    ($name:expr, $bytes:expr, $($message:ty),* $(,)?) => {
        match $name {
            $(name if name == <$message>::full_name() => {
                Some(proto::encode::marshal(&<$message>::decode($bytes).expect(name)))
            })*
            _ => None,
        }
    };
}

fn round_trip(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    use proto::{
        caps, content, contenthash, control, errdefs, exporter, filesync, fsutil, gateway, pb,
        policysession, rpc, secrets, sourcepolicy, sshforward, stack, types, upload,
    };
    round_trips!(
        name,
        bytes,
        pb::Op,
        pb::FileAction,
        errdefs::Solve,
        gateway::Result,
        content::AbortRequest,
        content::DeleteContentRequest,
        content::Info,
        content::InfoRequest,
        content::InfoResponse,
        content::ListContentRequest,
        content::ListContentResponse,
        content::ListStatusesRequest,
        content::ListStatusesResponse,
        content::ReadContentRequest,
        content::ReadContentResponse,
        content::Status,
        content::StatusRequest,
        content::StatusResponse,
        content::UpdateRequest,
        content::UpdateResponse,
        content::WriteContentRequest,
        content::WriteContentResponse,
        contenthash::CacheRecord,
        contenthash::CacheRecordWithPath,
        contenthash::CacheRecords,
        errdefs::CompatibilityFeature,
        errdefs::ContentCache,
        errdefs::FileAction,
        errdefs::Frontend,
        errdefs::FrontendCap,
        errdefs::ProvenanceMaterialIncomplete,
        errdefs::ProvenanceMaterialsIncomplete,
        errdefs::Source,
        errdefs::Subrequest,
        errdefs::Vertex,
        fsutil::Packet,
        fsutil::Stat,
        rpc::Status,
        secrets::GetSecretRequest,
        secrets::GetSecretResponse,
        control::BuildHistoryEvent,
        control::BuildHistoryRecord,
        control::BuildHistoryRequest,
        control::BuildResultInfo,
        control::BytesMessage,
        control::CacheOptions,
        control::CacheOptionsEntry,
        control::Descriptor,
        control::DiskUsageRequest,
        control::DiskUsageResponse,
        control::Exporter,
        control::InfoResponse,
        control::ListWorkersRequest,
        control::ListWorkersResponse,
        control::PruneRequest,
        control::SolveRequest,
        control::SolveResponse,
        control::StatusRequest,
        control::StatusResponse,
        control::UpdateBuildHistoryRequest,
        control::UsageRecord,
        control::Vertex,
        control::VertexLog,
        control::VertexStatus,
        control::VertexWarning,
        caps::ApiCap,
        gateway::Attestation,
        gateway::AttestationChain,
        gateway::Attestations,
        gateway::Blob,
        gateway::CacheOptionsEntry,
        gateway::ChecksumRequest,
        gateway::ChecksumResponse,
        gateway::Descriptor,
        gateway::EvaluateRequest,
        gateway::ExecMessage,
        gateway::ExitMessage,
        gateway::FdMessage,
        gateway::FileRange,
        gateway::InTotoSubject,
        gateway::InitMessage,
        gateway::InputsResponse,
        gateway::NewContainerRequest,
        gateway::PongResponse,
        gateway::ReadDirRequest,
        gateway::ReadDirResponse,
        gateway::ReadFileRequest,
        gateway::ReadFileResponse,
        gateway::Ref,
        gateway::RefMap,
        gateway::RefMapDeprecated,
        gateway::ReleaseContainerRequest,
        gateway::ResizeMessage,
        gateway::ResolveImageConfigRequest,
        gateway::ResolveImageConfigResponse,
        gateway::ResolveSourceGitRequest,
        gateway::ResolveSourceGitResponse,
        gateway::ResolveSourceHttpRequest,
        gateway::ResolveSourceHttpResponse,
        gateway::ResolveSourceImageRequest,
        gateway::ResolveSourceImageResponse,
        gateway::ResolveSourceMetaRequest,
        gateway::ResolveSourceMetaResponse,
        gateway::ReturnRequest,
        gateway::SignalMessage,
        gateway::SolveRequest,
        gateway::SolveResponse,
        gateway::StatFileRequest,
        gateway::StatFileResponse,
        gateway::WarnRequest,
        sourcepolicy::AttrConstraint,
        sourcepolicy::Policy,
        sourcepolicy::Rule,
        sourcepolicy::Selector,
        sourcepolicy::Update,
        policysession::CheckPolicyRequest,
        policysession::CheckPolicyResponse,
        policysession::DecisionResponse,
        policysession::DenyMessage,
        types::BuildkitVersion,
        types::CdiDevice,
        types::GcPolicy,
        types::WorkerRecord,
        exporter::ExporterRequest,
        exporter::FinalizeExportRequest,
        exporter::FindExportersRequest,
        exporter::FindExportersResponse,
        filesync::BytesMessage,
        filesync::CredentialsRequest,
        filesync::CredentialsResponse,
        filesync::FetchTokenRequest,
        filesync::FetchTokenResponse,
        filesync::GetTokenAuthorityRequest,
        filesync::GetTokenAuthorityResponse,
        filesync::VerifyTokenAuthorityRequest,
        filesync::VerifyTokenAuthorityResponse,
        sshforward::BytesMessage,
        sshforward::CheckAgentRequest,
        upload::BytesMessage,
        pb::BuildInput,
        pb::BuildOp,
        pb::CdiDevice,
        pb::CacheOpt,
        pb::ChownOpt,
        pb::Definition,
        pb::DiffOp,
        pb::ExecOp,
        pb::ExportCache,
        pb::FileActionCopy,
        pb::FileActionMkDir,
        pb::FileActionMkFile,
        pb::FileActionRm,
        pb::FileActionSymlink,
        pb::FileOp,
        pb::HostIp,
        pb::Input,
        pb::LinuxResources,
        pb::Location,
        pb::Locations,
        pb::LowerDiffInput,
        pb::MergeInput,
        pb::MergeOp,
        pb::Meta,
        pb::Mount,
        pb::NamedUserOpt,
        pb::OpMetadata,
        pb::PassthroughOp,
        pb::Platform,
        pb::Position,
        pb::ProgressGroup,
        pb::ProxyEnv,
        pb::Range,
        pb::SshOpt,
        pb::SecretEnv,
        pb::SecretOpt,
        pb::Source,
        pb::SourceInfo,
        pb::SourceOp,
        pb::TmpfsOpt,
        pb::Ulimit,
        pb::UpperDiffInput,
        pb::UserOpt,
        pb::WorkerConstraints,
        stack::Frame,
        stack::Stack
    )
}

#[test]
fn every_message_survives_a_round_trip_bit_for_bit() {
    for vector in vectors("messages.json") {
        let name = text(&vector, "message");
        let bytes = unhex(text(&vector, "hex"));
        let again = round_trip(name, &bytes).unwrap_or_else(|| panic!("no case for {name}"));
        assert_eq!(again, bytes, "{name}");
    }
}
