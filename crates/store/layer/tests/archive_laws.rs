//! What is written to an archive is read from it, by us and by others.

use layer::archive::{Header, Kind, MemberKind, Reader, Writer};
use proptest::prelude::*;

fn text(len: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        6 => prop::sample::select(b"ab/.-_ =\n0".to_vec()),
        1 => 1_u8..=255,
    ];
    prop::collection::vec(byte, 1..len)
}

fn header() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let kind = prop::sample::select(vec![
        Kind::File,
        Kind::HardLink,
        Kind::Symlink,
        Kind::CharDevice,
        Kind::Dir,
        Kind::Fifo,
    ]);
    let ids = (any::<u32>(), any::<u32>());
    let numbers = (0_u32..0o10000, ids, any::<i32>(), 0_u32..4096);
    let content = prop::collection::vec(any::<u8>(), 0..1500);
    let xattrs = prop::collection::btree_map("[a-z.]{1,20}", content.clone(), 0..3);
    (text(300), text(150), kind, numbers, content, xattrs).prop_map(
        |(mut name, link, kind, (mode, (uid, gid), mtime, minor), content, xattrs)| {
            while name.last() == Some(&b'/') && name.len() > 1 {
                name.pop();
            }
            let mut header = Header::new(name, kind, mode);
            (header.uid, header.gid) = (uid, gid);
            header.mtime = i64::from(mtime) * 20;
            let content = if kind == Kind::File {
                content
            } else {
                Vec::new()
            };
            header.size = content.len() as u64;
            match kind {
                Kind::Dir => header.name.push(b'/'),
                Kind::HardLink | Kind::Symlink => header.link = link,
                Kind::CharDevice => header.device.minor = minor,
                _ => {}
            }
            header.xattrs = xattrs
                .into_iter()
                .map(|(name, value)| (name.into_bytes(), value))
                .filter(|(_, value)| !value.is_empty())
                .collect();
            (header, content)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn members_come_back_as_they_were(members in prop::collection::vec(header(), 0..4)) {
        let mut writer = Writer::new(Vec::new());
        for (header, content) in &members {
            writer.member(header).expect("written");
            writer.copy(&**content).expect("written");
        }
        let bytes = writer.finish().expect("written");
        prop_assert_eq!(bytes.len() % 512, 0);
        let mut reader = Reader::new(&*bytes);
        for (header, content) in &members {
            let member = reader.next_member().expect("readable").expect("one more");
            prop_assert_eq!(&member.name, &header.name);
            prop_assert_eq!(&member.link, &header.link);
            prop_assert_eq!(member.kind, MemberKind::Known(header.kind));
            prop_assert_eq!((member.uid, member.gid), (header.uid, header.gid));
            prop_assert_eq!(member.mode, header.mode);
            prop_assert_eq!(member.mtime.sec, header.mtime);
            prop_assert_eq!(member.device, header.device);
            prop_assert_eq!(&member.xattrs, &header.xattrs);
            let mut read = Vec::new();
            reader
                .content(&member, |_, piece| {
                    read.extend_from_slice(piece);
                    Ok(())
                })
                .expect("readable");
            prop_assert_eq!(&read, content);
        }
        prop_assert!(reader.next_member().expect("readable").is_none());
    }

    #[test]
    fn garbage_is_an_error_and_no_crash(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut reader = Reader::new(&*bytes);
        while let Ok(Some(_)) = reader.next_member() {}
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(
        (header, content) in header(),
        at in 0_usize..2048,
        byte in any::<u8>(),
    ) {
        let mut writer = Writer::new(Vec::new());
        writer.member(&header).expect("written");
        writer.copy(&*content).expect("written");
        let mut bytes = writer.finish().expect("written");
        let at = at % bytes.len();
        bytes[at] = byte;
        let mut reader = Reader::new(&*bytes);
        while let Ok(Some(member)) = reader.next_member() {
            if reader.content(&member, |_, _| Ok(())).is_err() {
                break;
            }
        }
    }
}
