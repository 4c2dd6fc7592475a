//! Copies an archive with no time later than a given one. Headers keep their dialect, and everything else in them.

use std::io::{self, BufRead, Write};

use super::read::{bad_header, check_sum, number, padding, parse_records};
use super::{BLOCK, block};

const MTIME: std::ops::Range<usize> = 136..148;
/// Where GNU headers have two more times.
const GNU_TIMES: [std::ops::Range<usize>; 2] = [345..357, 357..369];
const GNU_MAGIC: &[u8] = b"ustar  \0";
const MAX_EXTENSION: u64 = 1 << 20;

/// Copies the archive; what lies behind its end is left out.
pub(crate) fn clamp(
    input: &mut impl BufRead,
    out: &mut (impl Write + ?Sized),
    epoch: i64,
) -> io::Result<()> {
    // Of a file that is too large for its header.
    let mut true_size = None;
    while let Some(mut header) = next_block(input)? {
        if header == [0; 512] {
            break;
        }
        check_sum(&header)?;
        let size = number::parse(&header[124..136]).ok_or_else(bad_header)?;
        let flag = header[156];
        match flag {
            b'x' => {
                let body = extension(input, size)?;
                true_size = parse_records(&body)?
                    .get(&b"size"[..])
                    .and_then(|size| std::str::from_utf8(size).ok()?.parse().ok());
                let records = records(&body, epoch)?;
                if !records.is_empty() {
                    block::set_number(&mut header, 124..136, records.len() as u64);
                    block::sign(&mut header);
                    out.write_all(&header)?;
                    out.write_all(&records)?;
                    out.write_all(&vec![0; pad(records.len() as u64)])?;
                }
                continue;
            }
            b'L' | b'K' | b'g' => {}
            _ => {
                times(&mut header, epoch);
                block::sign(&mut header);
            }
        }
        out.write_all(&header)?;
        let is_member = !matches!(flag, b'L' | b'K' | b'g');
        let size = true_size.take_if(|_| is_member).unwrap_or(size);
        let mut more_extents = flag == b'S' && header[482] != 0;
        while more_extents {
            let block = next_block(input)?.ok_or_else(bad_header)?;
            out.write_all(&block)?;
            more_extents = block[504] != 0;
        }
        if !matches!(flag, b'1'..=b'6') {
            copy(input, out, size + padding(size))?;
        }
    }
    out.write_all(&[0; 1024])
}

fn pad(size: u64) -> usize {
    usize::try_from(padding(size)).unwrap_or(0)
}

fn next_block(input: &mut impl BufRead) -> io::Result<Option<[u8; 512]>> {
    if input.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut block = [0; BLOCK as usize];
    input.read_exact(&mut block)?;
    Ok(Some(block))
}

fn extension(input: &mut impl BufRead, size: u64) -> io::Result<Vec<u8>> {
    let whole = size + padding(size);
    if whole > MAX_EXTENSION {
        return Err(bad_header());
    }
    let mut body = vec![0; usize::try_from(whole).map_err(|_| bad_header())?];
    input.read_exact(&mut body)?;
    body.truncate(usize::try_from(size).map_err(|_| bad_header())?);
    Ok(body)
}

fn copy(
    input: &mut impl BufRead,
    out: &mut (impl Write + ?Sized),
    mut left: u64,
) -> io::Result<()> {
    while left > 0 {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let now = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        out.write_all(&bytes[..now])?;
        input.consume(now);
        left -= now as u64;
    }
    Ok(())
}

fn times(header: &mut [u8; 512], epoch: i64) {
    let gnu = header[257..265] == *GNU_MAGIC;
    let more = GNU_TIMES.into_iter().filter(|_| gnu);
    for field in std::iter::once(MTIME).chain(more) {
        let time = number::parse_signed(&header[field.clone()]).unwrap_or(0);
        if time > epoch {
            // A time before 1970 fits no octal field; zero is the earliest that does.
            block::set_number(header, field, u64::try_from(epoch).unwrap_or(0));
        }
    }
}

/// The records with their times clamped. A time of whole seconds that the header can hold needs no record.
fn records(body: &[u8], epoch: i64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for (key, value) in parse_records(body)? {
        let is_time = matches!(&*key, b"mtime" | b"atime" | b"ctime");
        let late = is_time
            && number::parse_time(&value)
                .is_some_and(|time| time.sec > epoch || time.sec == epoch && time.nsec > 0);
        if !late {
            block::record(&key, &value, &mut out);
        } else if key != b"mtime" || epoch < 0 {
            block::record(&key, epoch.to_string().as_bytes(), &mut out);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Header, Kind, Reader, Writer};

    #[test]
    fn late_times_become_the_epoch_and_early_ones_stay() {
        let mut writer = Writer::new(Vec::new());
        let long = "n".repeat(120);
        for (name, mtime) in [("early", 5), ("late", 2_000), ("long", -3), (&*long, 3_000)] {
            let mut header = Header::new(name, Kind::File, 0o644);
            header.mtime = mtime;
            header.size = 3;
            writer.member(&header).expect("write");
            writer.content(b"abc").expect("write");
        }
        let mut archive = writer.finish().expect("write");
        archive.extend_from_slice(&[0; 4096]);
        let mut out = Vec::new();
        clamp(&mut &*archive, &mut out, 1_000).expect("clamped");
        assert_eq!(out.len(), archive.len() - 4096);
        let mut reader = Reader::new(&*out);
        let mut times = Vec::new();
        while let Some(member) = reader.next_member().expect("readable") {
            times.push(member.mtime.sec);
        }
        assert_eq!(times, [5, 1_000, -3, 1_000]);
    }

    #[test]
    fn decimals_go_and_other_records_stay() {
        let mut body = Vec::new();
        block::record(b"atime", b"1000.5", &mut body);
        block::record(b"mtime", b"1000.5", &mut body);
        block::record(b"path", b"x", &mut body);
        let text = |body: &[u8], epoch| {
            String::from_utf8(records(body, epoch).expect("records")).expect("text")
        };
        assert_eq!(text(&body, 1_000), "14 atime=1000\n9 path=x\n");
        assert_eq!(text(&body, 2_000), String::from_utf8(body).expect("text"));
    }
}
