use nix::sys::mman::mmap_anonymous;
use proptest::prelude::*;

use super::*;

const SIZE: usize = 4096;

fn memory(length: usize) -> Mapping {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let size = NonZeroUsize::new(length).unwrap();
    // SAFETY: the kernel chooses the address; the mapping is removed when the value is dropped.
    let at = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_PRIVATE) }.unwrap();
    Mapping { at, length }
}

/// A ring of one page with a kernel that is this test.
struct Fake {
    ring: Ring,
    page: usize,
}

impl Fake {
    fn begun_at(position: usize) -> Self {
        let page = page_size().unwrap();
        assert_eq!(page, SIZE, "these tests are written for it");
        let (consumer, producer) = (memory(page), memory(page + 2 * SIZE));
        consumer.position().store(position, Ordering::Relaxed);
        producer.position().store(position, Ordering::Relaxed);
        Self { ring: Ring::over(None, consumer, producer, page, SIZE).unwrap(), page }
    }

    /// Writes to both copies of the data.
    fn write(&mut self, position: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let at = position.wrapping_add(i) & (SIZE - 1);
            for offset in [at, at + SIZE] {
                // SAFETY: within the mapping; no reference to it is alive.
                unsafe { self.ring.producer.at.byte_add(self.page + offset).cast::<u8>().write(*byte) };
            }
        }
    }

    fn header(&mut self, position: usize, length: u32) {
        self.write(position, &length.to_ne_bytes());
    }

    /// Puts a record in; answers where.
    fn put(&mut self, bytes: &[u8], flags: u32) -> usize {
        let at = self.ring.produced();
        self.header(at, u32::try_from(bytes.len()).unwrap() | flags);
        self.write(at.wrapping_add(HEADER), bytes);
        self.set_produced(at.wrapping_add((HEADER + bytes.len()).next_multiple_of(8)));
        at
    }

    fn set_produced(&mut self, to: usize) {
        self.ring.producer.position().store(to, Ordering::Relaxed);
    }

    fn next(&mut self) -> Option<Result<Vec<u8>, Torn>> {
        self.ring.next().map(|record| record.map(<[u8]>::to_vec))
    }

    fn released(&self) -> usize {
        self.ring.consumer.position().load(Ordering::Relaxed)
    }
}

#[test]
fn what_is_read_stays_until_it_is_released() {
    let mut fake = Fake::begun_at(0);
    fake.put(b"one", 0);
    fake.put(b"second", 0);
    assert_eq!(fake.next(), Some(Ok(b"one".to_vec())));
    assert_eq!((fake.ring.position(), fake.released()), (16, 0));
    assert_eq!(fake.next(), Some(Ok(b"second".to_vec())));
    assert_eq!(fake.next(), None);
    assert_eq!(fake.released(), 0);
    fake.ring.release();
    assert_eq!((fake.ring.position(), fake.released()), (32, 32));
}

#[test]
fn a_record_over_the_end_is_in_one_piece() {
    let mut fake = Fake::begun_at(SIZE - 16);
    let long: Vec<u8> = (0..100).collect();
    fake.put(&long, 0);
    fake.put(b"next", 0);
    assert_eq!(fake.next(), Some(Ok(long)));
    assert_eq!(fake.next(), Some(Ok(b"next".to_vec())));
}

#[test]
fn positions_may_pass_the_end_of_their_type() {
    let mut fake = Fake::begun_at(usize::MAX - 7);
    fake.put(b"12345678", 0);
    assert_eq!(fake.next(), Some(Ok(b"12345678".to_vec())));
    fake.ring.release();
    assert_eq!(fake.released(), 8);
    assert_eq!(fake.next(), None);
}

#[test]
fn nothing_is_read_past_a_record_that_is_still_written() {
    let mut fake = Fake::begun_at(0);
    let first = fake.put(b"first", BUSY);
    fake.put(b"second", 0);
    assert_eq!(fake.next(), None);
    fake.header(first, 5);
    assert_eq!(fake.next(), Some(Ok(b"first".to_vec())));
    assert_eq!(fake.next(), Some(Ok(b"second".to_vec())));
}

#[test]
fn discarded_records_need_no_release() {
    let mut fake = Fake::begun_at(0);
    fake.put(b"", DISCARD);
    fake.put(b"gone", DISCARD);
    assert_eq!(fake.next(), None);
    assert_eq!(fake.released(), 24);
    fake.put(b"kept", 0);
    fake.put(b"", DISCARD);
    assert_eq!(fake.next(), Some(Ok(b"kept".to_vec())));
    assert_eq!(fake.next(), None);
    assert_eq!(fake.released(), 24, "a record before them is not released yet");
}

#[test]
fn a_length_beyond_what_is_there_is_told_once_and_passed_over() {
    let mut fake = Fake::begun_at(0);
    fake.put(b"fine", 0);
    let bad = fake.put(b"bad", 0);
    fake.header(bad, 0x3fff_ffff);
    assert_eq!(fake.next(), Some(Ok(b"fine".to_vec())));
    assert_eq!(fake.next(), Some(Err(Torn)));
    assert_eq!(fake.next(), None);
    fake.put(b"again", 0);
    assert_eq!(fake.next(), Some(Ok(b"again".to_vec())));
}

#[test]
fn reading_goes_on_where_it_was_and_nowhere_else() {
    let mut fake = Fake::begun_at(64);
    fake.put(b"one", 0);
    fake.put(b"two", 0);
    for impossible in [0, 63, 65, 56, 104, u64::MAX, u64::MAX - 7] {
        assert!(!fake.ring.skip_to(impossible), "{impossible}");
    }
    assert!(fake.ring.skip_to(80));
    assert_eq!(fake.next(), Some(Ok(b"two".to_vec())));
    assert_eq!(fake.released(), 64);
    fake.ring.release();
    assert_eq!(fake.released(), 96);
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(
        content in proptest::collection::vec(any::<u8>(), SIZE),
        begin in (0usize..SIZE / 8).prop_map(|n| n * 8),
        there in 0usize..=2 * SIZE,
    ) {
        let mut fake = Fake::begun_at(begin);
        fake.write(0, &content);
        fake.set_produced(begin + there);
        let mut bytes = 0;
        while let Some(record) = fake.next() {
            bytes += HEADER + record.map_or(0, |record| record.len());
            prop_assert!(bytes <= there + HEADER);
        }
        fake.ring.release();
        prop_assert!(fake.released() <= begin + there.next_multiple_of(8));
    }
}
