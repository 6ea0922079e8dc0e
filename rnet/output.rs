//! What a detached program writes, kept in order: the last mebibyte of it.
//!
//! A folder of segments, `output.1`, `output.2`, …, of which the last three stay. A segment is a row of frames: when it was
//! written (milliseconds since 1970, 8 bytes), the stream (1 byte), the length (4 bytes), and what was written.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// So much of the output is kept.
pub const KEPT: usize = 1 << 20;

/// Another segment is begun when one has this size.
const SEGMENT: u64 = 512 << 10;

/// The last ones are kept: two whole ones are as much as is promised.
const SEGMENTS: u64 = 3;

const HEADER: usize = 13;

/// Where a program has written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    #[default]
    Out,
    /// Standard error.
    Err,
}

/// Something that was written at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// When, in milliseconds since 1970.
    pub millis: u64,
    /// Where to.
    pub stream: Stream,
    /// What.
    pub bytes: Vec<u8>,
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps what is written. A disk that is full costs output, and never the program anything.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    segment: Option<File>,
    number: u64,
    length: u64,
}

impl Recorder {
    /// Begins in `folder`, which is there.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), segment: None, number: 0, length: SEGMENT }
    }

    /// Keeps one piece.
    pub fn record(&mut self, stream: Stream, bytes: &[u8]) {
        if self.length >= SEGMENT {
            self.next_segment();
        }
        let frame = encode(&Frame { millis: now(), stream, bytes: bytes.to_vec() });
        if let Some(segment) = &mut self.segment
            && segment.write_all(&frame).is_ok()
        {
            self.length += frame.len() as u64;
        }
    }

    fn next_segment(&mut self) {
        self.number += 1;
        self.segment = File::create_new(segment(&self.folder, self.number)).ok();
        self.length = 0;
        if let Some(old) = self.number.checked_sub(SEGMENTS) {
            // The first one has no predecessor.
            let _ = fs::remove_file(segment(&self.folder, old));
        }
    }
}

/// Reads what has been kept, and what comes after.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    number: u64,
    at: u64,
}

impl Reader {
    /// Begins at the oldest segment of `folder`.
    pub fn new(folder: &Path) -> Self {
        let number = segments(folder).into_iter().min().unwrap_or(1);
        Self { folder: folder.to_owned(), number, at: 0 }
    }

    /// The whole frames after the last one that was read.
    pub fn frames(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let next = segments(&self.folder).into_iter().filter(|number| *number > self.number).min();
            frames.extend(self.rest_of_segment());
            let Some(next) = next else { return frames };
            (self.number, self.at) = (next, 0);
        }
    }

    fn rest_of_segment(&mut self) -> Vec<Frame> {
        let mut bytes = Vec::new();
        let read = File::open(segment(&self.folder, self.number)).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.at))?;
            file.read_to_end(&mut bytes)
        });
        let (frames, length) = if read.is_ok() { decode(&bytes) } else { (Vec::new(), 0) };
        self.at += length as u64;
        frames
    }
}

/// The last mebibyte of some frames.
pub fn last(mut frames: Vec<Frame>) -> Vec<Frame> {
    let mut left = KEPT;
    let first = frames.iter().rposition(|frame| {
        let fits = frame.bytes.len() <= left;
        left = left.saturating_sub(frame.bytes.len());
        !fits
    });
    frames.split_off(first.map_or(0, |first| first + 1))
}

/// A piece of a line: up to its end, or up to where the program stopped for the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// When it was written.
    pub millis: u64,
    /// Where to.
    pub stream: Stream,
    /// True if it begins a line.
    pub begins: bool,
    /// The text, with the line's end if it has one.
    pub bytes: Vec<u8>,
}

/// Takes frames apart into lines, each stream for itself.
#[derive(Debug, Default)]
pub struct Lines {
    unfinished: [bool; 2],
}

impl Lines {
    /// The pieces of some frames that follow those of the last call.
    pub fn pieces(&mut self, frames: &[Frame]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for frame in frames {
            for bytes in frame.bytes.split_inclusive(|byte| *byte == b'\n') {
                let unfinished = &mut self.unfinished[frame.stream as usize];
                let begins = !*unfinished;
                *unfinished = bytes.last() != Some(&b'\n');
                pieces.push(Piece {
                    millis: frame.millis,
                    stream: frame.stream,
                    begins,
                    bytes: bytes.to_vec(),
                });
            }
        }
        pieces
    }
}

/// The last `count` lines.
pub fn tail(mut pieces: Vec<Piece>, count: usize) -> Vec<Piece> {
    let begins = pieces.iter().enumerate().rev().filter(|(_, piece)| piece.begins).map(|(index, _)| index);
    let first = match count {
        0 => pieces.len(),
        _ => begins.take(count).last().unwrap_or(pieces.len()),
    };
    pieces.split_off(first)
}

/// The last lines as text, for an error: those of both streams in the order in which they were written.
pub fn last_lines(folder: &Path, count: usize) -> String {
    let pieces = Lines::default().pieces(&Reader::new(folder).frames());
    let bytes: Vec<u8> = tail(pieces, count).into_iter().flat_map(|piece| piece.bytes).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn segment(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("output.{number}"))
}

fn segments(folder: &Path) -> Vec<u64> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("output.")?.parse().ok()).collect()
}

fn encode(frame: &Frame) -> Vec<u8> {
    let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + frame.bytes.len());
    bytes.extend(frame.millis.to_le_bytes());
    bytes.push(frame.stream as u8);
    bytes.extend(length.to_le_bytes());
    bytes.extend(&frame.bytes);
    bytes
}

/// The whole frames at the beginning of some bytes, and how long these are.
fn decode(bytes: &[u8]) -> (Vec<Frame>, usize) {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some((frame, length)) = bytes.get(at..).and_then(first_frame) {
        frames.push(frame);
        at += length;
    }
    (frames, at)
}

fn first_frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let millis = u64::from_le_bytes(header[..8].try_into().ok()?);
    let length = u32::from_le_bytes(header[9..].try_into().ok()?) as usize;
    let stream = if header[8] == 0 { Stream::Out } else { Stream::Err };
    let bytes = rest.get(..length)?.to_vec();
    Some((Frame { millis, stream, bytes }, HEADER + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &[Piece]) -> String {
        pieces.iter().map(|piece| String::from_utf8_lossy(&piece.bytes).into_owned()).collect()
    }

    #[test]
    fn what_was_written_is_read_in_order_while_more_comes() {
        let folder = tempfile::tempdir().unwrap();
        let (mut recorder, mut reader) = (Recorder::new(folder.path()), Reader::new(folder.path()));
        assert_eq!(reader.frames(), []);
        recorder.record(Stream::Out, b"one\ntw");
        recorder.record(Stream::Err, b"wrong\n");
        recorder.record(Stream::Out, b"o\n");

        let mut lines = Lines::default();
        let pieces = lines.pieces(&reader.frames());
        assert_eq!(text(&pieces), "one\ntwwrong\no\n");
        assert_eq!(pieces.iter().map(|piece| piece.begins).collect::<Vec<_>>(), [true, true, true, false]);
        recorder.record(Stream::Err, b"more");
        assert_eq!(text(&lines.pieces(&reader.frames())), "more");
        assert_eq!(last_lines(folder.path(), 1), "more");
        assert_eq!(text(&tail(pieces.clone(), 2)), "twwrong\no\n");
        assert_eq!((tail(pieces.clone(), 0).len(), tail(pieces, 9).len()), (0, 4));
    }

    #[test]
    fn of_much_output_the_last_mebibyte_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::new(folder.path());
        for number in 0..64u8 {
            recorder.record(Stream::Out, &vec![number; 64 << 10]);
        }

        let frames = Reader::new(folder.path()).frames();
        let whole: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
        assert!((KEPT..2 * KEPT).contains(&whole), "{whole}");
        let kept = last(frames);
        assert_eq!((kept.len(), kept[0].bytes[0], kept[15].bytes[0]), (16, 48, 63));
    }

    #[test]
    fn a_frame_that_is_just_being_written_is_read_the_next_time() {
        let bytes = encode(&Frame { millis: 7, stream: Stream::Err, bytes: b"whole".to_vec() });
        assert_eq!(decode(&bytes).0[0].bytes, b"whole");
        assert_eq!(decode(&bytes[..bytes.len() - 1]), (Vec::new(), 0));
    }
}
