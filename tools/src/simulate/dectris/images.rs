//! Images ready to be sent: a scan drawn, or read, and compressed ahead of time, so that sending them is copying them.
//!
//! # Invariants
//! - I1: an image depends on the plan and its number only, however many threads prepare.
//!
//! # Limits
//! Images are kept until they fill the memory of the plan, in whole rows of the scan where there is one; then they repeat.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use md5::{Digest, Md5};
use ronchi_pipeline::format::bslz4;
use ronchi_pipeline::{ByteOrder, SigShape};

use super::supply::Supply;

/// Images that are prepared before the memory is looked at again.
const BATCH: u64 = 256;
/// Bytes of a block of framed LZ4, as recorded from detectors.
const LZ4_BLOCK_BYTES: usize = 8192;

/// Pixel type of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// 8 bits.
    #[value(alias = "uint8")]
    U8,
    /// 16 bits.
    #[value(alias = "uint16")]
    U16,
    /// 32 bits.
    #[value(alias = "uint32")]
    U32,
}

impl Dtype {
    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
        }
    }

    /// The largest value, which stands for what was not measured, or too much.
    pub(super) fn max(self) -> u32 {
        u32::MAX >> (32 - 8 * self.bytes())
    }
}

/// How pixels are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: one block in STREAM, framed blocks in STREAM2.
    Lz4,
    /// Bit-transposed LZ4.
    Bslz4,
}

impl Compression {
    /// Name in messages and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Bslz4 => "bslz4",
        }
    }
}

/// What images are.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageForm {
    /// Pixel type.
    pub dtype: Dtype,
    /// How pixels are compressed.
    pub compression: Compression,
    /// Names of channels. The first one is what was drawn, each `threshold_N` half of the one before it, `difference` the
    /// first without the second. STREAM sends the first one.
    pub channels: Vec<String>,
}

impl ImageForm {
    /// The channels that are known.
    pub const CHANNELS: [&str; 3] = ["threshold_1", "threshold_2", "difference"];

    /// Whether the channels are known ones, and each there once.
    pub(super) fn check(&self) -> Result<()> {
        let known = Self::CHANNELS.join(", ");
        ensure!(!self.channels.is_empty(), "no channels: expected some of {known}");
        for (place, channel) in self.channels.iter().enumerate() {
            ensure!(Self::CHANNELS.contains(&channel.as_str()), "channel {channel}: expected one of {known}");
            ensure!(!self.channels[..place].contains(channel), "channel {channel} twice");
        }
        Ok(())
    }
}

/// One compressed image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Image {
    /// The payload of each channel, as STREAM2 has it.
    channels: Vec<Vec<u8>>,
    /// The payload of STREAM where it is another.
    single: Option<Vec<u8>>,
    /// MD5 of what STREAM sends, in hexadecimal digits.
    pub(super) hash: String,
    /// Byte order of its pixels.
    pub(super) order: ByteOrder,
}

impl Image {
    /// One channel with this payload.
    #[cfg(test)]
    pub(super) fn of(payload: Vec<u8>, order: ByteOrder) -> Self {
        Self { channels: vec![payload], single: None, hash: "0".repeat(32), order }
    }

    /// The payload of STREAM.
    pub(super) fn single(&self) -> &[u8] {
        self.single.as_ref().or(self.channels.first()).map_or(&[], Vec::as_slice)
    }

    /// The payloads of STREAM2, in the order of channels.
    pub(super) fn channels(&self) -> &[Vec<u8>] {
        &self.channels
    }

    /// Changes every payload.
    pub(super) fn change(&mut self, mut change: impl FnMut(&mut Vec<u8>)) {
        self.channels.iter_mut().chain(&mut self.single).for_each(&mut change);
    }

    fn bytes(&self) -> usize {
        self.channels.iter().chain(&self.single).map(Vec::len).sum::<usize>() + size_of::<Self>() + self.hash.len()
    }
}

/// The images of a scan.
pub(super) struct Images {
    supply: Supply,
    form: ImageForm,
    images: Vec<Image>,
}

impl Images {
    /// Draws, or reads, and compresses images until the scan is complete or `memory_max_bytes` are full.
    pub(super) fn prepare(supply: Supply, form: ImageForm, memory_max_bytes: usize) -> Result<Self> {
        form.check()?;
        let row = supply.scan().width as usize;
        let mut images = Self { supply, form, images: Vec::new() };
        let frame_count = images.frame_count();
        let mut bytes = 0;
        while (images.images.len() as u64) < frame_count && bytes < memory_max_bytes {
            let first = images.images.len() as u64;
            for image in images.encode(first, BATCH.min(frame_count - first))? {
                bytes += image.bytes();
                if bytes <= memory_max_bytes || images.images.is_empty() {
                    images.images.push(image);
                }
            }
        }
        if (images.images.len() as u64) < frame_count && images.images.len() > row {
            images.images.truncate(images.images.len() / row * row);
        }
        Ok(images)
    }

    pub(super) fn form(&self) -> &ImageForm {
        &self.form
    }

    pub(super) fn shape(&self) -> SigShape {
        self.supply.detector()
    }

    /// Images of one scan.
    pub(super) fn frame_count(&self) -> u64 {
        self.supply.scan().position_count()
    }

    /// How many different images there are before they repeat.
    pub(super) fn distinct_count(&self) -> u64 {
        self.images.len() as u64
    }

    /// Mean bytes of an image.
    pub(super) fn mean_bytes(&self) -> f64 {
        self.images.iter().map(Image::bytes).sum::<usize>() as f64 / self.images.len() as f64
    }

    /// The image of a frame.
    pub(super) fn get(&self, frame: u64) -> &Image {
        &self.images[(frame % self.distinct_count()) as usize]
    }

    /// The image of a frame with big-endian pixels; `None` where it would have to be read and cannot be.
    pub(super) fn big_endian(&self, frame: u64) -> Option<Image> {
        self.encoder(ByteOrder::Big).image(frame % self.distinct_count()).ok()
    }

    fn encoder(&self, order: ByteOrder) -> ImageEncoder<'_> {
        let counts = vec![0; self.shape().pixel_count() as usize];
        let (read, pixels) = (Vec::new(), Vec::new());
        ImageEncoder { images: self, order, read, counts, pixels, compressor: bslz4::Compressor::default() }
    }

    /// Prepares `count` images from `first` on, on all cores.
    fn encode(&self, first: u64, count: u64) -> Result<Vec<Image>> {
        let mut ready: Vec<Option<Image>> = vec![None; count as usize]; // At most a batch.
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let share = ready.len().div_ceil(workers).max(1);
        thread::scope(|scope| -> Result<()> {
            let mut threads = Vec::new();
            for (worker, part) in ready.chunks_mut(share).enumerate() {
                let work = move || -> Result<()> {
                    let mut encoder = self.encoder(ByteOrder::Little);
                    for (frame, place) in (first + (worker * share) as u64..).zip(part) {
                        *place = Some(encoder.image(frame)?);
                    }
                    Ok(())
                };
                threads.push(thread::Builder::new().name(format!("images-{worker}")).spawn_scoped(scope, work)?);
            }
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("preparing images failed"))?)
        })?;
        Ok(ready.into_iter().flatten().collect())
    }
}

/// Prepares images one by one, with scratch of its own.
struct ImageEncoder<'a> {
    images: &'a Images,
    order: ByteOrder,
    read: Vec<u8>,
    counts: Vec<u32>,
    pixels: Vec<u8>,
    compressor: bslz4::Compressor,
}

impl ImageEncoder<'_> {
    fn image(&mut self, frame: u64) -> Result<Image> {
        let Self { images, order, read, counts, pixels, compressor } = self;
        let ImageForm { dtype, compression, channels } = &images.form;
        images.supply.counts(frame, read, counts)?;
        let payload = |channel: &String, pixels: &mut Vec<u8>, compressor: &mut bslz4::Compressor| {
            write_pixels(counts.iter().map(|&count| in_channel(channel, count)), *dtype, *order, pixels);
            match compression {
                Compression::None => pixels.clone(),
                Compression::Lz4 => framed_lz4(pixels, LZ4_BLOCK_BYTES),
                Compression::Bslz4 => {
                    let mut payload = Vec::new();
                    compressor.compress(pixels, dtype.bytes(), &mut payload);
                    payload
                }
            }
        };
        let channels: Vec<Vec<u8>> = channels.iter().map(|channel| payload(channel, pixels, compressor)).collect();
        let mut image = Image { channels, single: None, hash: String::new(), order: *order };
        if *compression == Compression::Lz4 {
            let first = images.form.channels.first().map_or("", String::as_str);
            write_pixels(counts.iter().map(|&count| in_channel(first, count)), *dtype, *order, pixels);
            image.single = Some(lz4_block(pixels));
        }
        image.hash = Md5::digest(image.single()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(image)
    }
}

/// What a channel counts where so many electrons came.
pub(super) fn in_channel(channel: &str, electrons: u32) -> u32 {
    match channel {
        "threshold_2" => electrons / 2,
        "difference" => electrons - electrons / 2,
        _ => electrons,
    }
}

/// Replaces `out` by pixels; counts above the type's range are saturated.
fn write_pixels(counts: impl Iterator<Item = u32>, dtype: Dtype, order: ByteOrder, out: &mut Vec<u8>) {
    out.clear();
    let counts = counts.map(|count| count.min(dtype.max()));
    let bytes = dtype.bytes();
    match order {
        ByteOrder::Little => counts.for_each(|count| out.extend(&count.to_le_bytes()[..bytes])),
        ByteOrder::Big => counts.for_each(|count| out.extend(&count.to_be_bytes()[4 - bytes..])),
    }
}

fn lz4_block(pixels: &[u8]) -> Vec<u8> {
    lz4::block::compress(pixels, None, false).expect("its buffer is as long as LZ4 asks for")
}

/// Blocks as HDF5 filter 32004 frames them, each stored as it is where LZ4 does not help.
fn framed_lz4(pixels: &[u8], block_bytes: usize) -> Vec<u8> {
    let mut out = (pixels.len() as u64).to_be_bytes().to_vec();
    out.extend((block_bytes as u32).to_be_bytes());
    for block in pixels.chunks(block_bytes) {
        let packed = lz4_block(block);
        let payload = if packed.len() < block.len() { &packed[..] } else { block };
        out.extend((payload.len() as u32).to_be_bytes());
        out.extend(payload);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::synth::{Specimen, SynthPlan, Synthesis};
    use ronchi_pipeline::NavShape;
    use ronchi_pipeline::format::{bslz4::Bslz4, lz4};

    const SHAPE: SigShape = SigShape { height: 31, width: 57 };

    fn plan(rows: u32, dose: f64) -> SynthPlan {
        let scan = NavShape { height: rows, width: 30 };
        SynthPlan { scan, detector: SHAPE, dose, specimen: Specimen::Crystal, seed: 4 }
    }

    fn prepare(plan: SynthPlan, form: ImageForm, memory_max_bytes: usize) -> Images {
        let supply = Supply::Drawn(Synthesis::new(plan).expect("plan"));
        Images::prepare(supply, form, memory_max_bytes).expect("prepared")
    }

    fn form(dtype: Dtype, compression: Compression) -> ImageForm {
        ImageForm { dtype, compression, channels: ImageForm::CHANNELS.map(str::to_owned).to_vec() }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Every pixel of every form is what was drawn; 8 bits saturate.
    #[test]
    fn images_are_what_was_drawn() {
        let plan = plan(1, 40_000.0);
        let synthesis = Synthesis::new(plan).expect("plan");
        let mut counts = vec![0; SHAPE.pixel_count() as usize];
        for compression in [Compression::None, Compression::Lz4, Compression::Bslz4] {
            for dtype in [Dtype::U8, Dtype::U16, Dtype::U32] {
                let images = prepare(plan, form(dtype, compression), 1 << 16);
                let frame = images.distinct_count() - 1;
                synthesis.draw(frame, &mut counts);
                let want = |channel: &str, order: ByteOrder| {
                    let mut bytes = Vec::new();
                    write_pixels(counts.iter().map(|&n| in_channel(channel, n)), dtype, order, &mut bytes);
                    bytes
                };
                let decode = |payload: &[u8]| {
                    let mut pixels = vec![0; counts.len() * dtype.bytes()];
                    let done = match compression {
                        Compression::None => {
                            pixels.copy_from_slice(payload);
                            Ok(())
                        }
                        Compression::Lz4 => lz4::decode_framed(payload, &mut pixels),
                        Compression::Bslz4 => Bslz4::parse(payload, pixels.len(), dtype.bytes())
                            .and_then(|frame| frame.decode(&mut Vec::new(), &mut pixels)),
                    };
                    done.expect("decodes");
                    pixels
                };
                for (payload, channel) in images.get(frame).channels().iter().zip(ImageForm::CHANNELS) {
                    assert_eq!(
                        decode(payload),
                        want(channel, ByteOrder::Little),
                        "{channel} {dtype:?} {compression:?}"
                    );
                }
                let big = images.big_endian(frame).expect("drawn");
                assert_eq!(decode(&big.channels()[0]), want("threshold_1", ByteOrder::Big));
                let single = images.get(frame).single();
                let mut pixels = vec![0; counts.len() * dtype.bytes()];
                if compression == Compression::Lz4 {
                    lz4::decode_block(single, &mut pixels).expect("one block");
                    assert_eq!(pixels, want("threshold_1", ByteOrder::Little));
                } else {
                    assert_eq!(single, images.get(frame).channels()[0]);
                }
                assert_eq!(dtype == Dtype::U8, counts.iter().any(|&n| n > dtype.max()));
            }
        }
    }

    /// What fits is kept, in whole rows, and the rest repeats; the same images come out whatever fits.
    #[test]
    fn memory_bounds_images() {
        let form = form(Dtype::U16, Compression::Bslz4);
        let all = prepare(plan(20, 100.0), form.clone(), 64 << 20);
        assert_eq!((all.distinct_count(), all.frame_count()), (600, 600));
        let some = prepare(plan(20, 100.0), form.clone(), (all.mean_bytes() * 100.0) as usize);
        assert_eq!(some.distinct_count() % 30, 0);
        assert!((60..=120).contains(&some.distinct_count()), "{}", some.distinct_count());
        assert_eq!(some.get(some.distinct_count() + 7), all.get(7));
        let one = prepare(plan(20, 100.0), form, 1);
        assert_eq!(one.distinct_count(), 1);
    }

    /// As reference encoders write them: HDF5 filter 32004, the LZ4 library, MD5 of RFC 1321.
    #[test]
    fn known_encodings() {
        let pixels: Vec<u8> = (0..40_u16).flat_map(|i| (if i == 3 { 7 } else { 0_u16 }).to_le_bytes()).collect();
        let blocks = "0000000000000050 00000020 00000011 11000100110706000b0200500000000000 \
                      0000000b 1f00010007500000000000 0000000a 16000100500000000000";
        assert_eq!(hex(&framed_lz4(&pixels, 32)), blocks.replace(' ', ""));
        let rising: Vec<u8> = (0..20_u16).flat_map(|i| (3 * i + 1).to_le_bytes()).collect();
        let stored = "0000000000000028 00000010 00000010 0100040007000a000d00100013001600 \
                      00000010 19001c001f002200250028002b002e00 00000008 3100340037003a00";
        assert_eq!(hex(&framed_lz4(&rising, 16)), stored.replace(' ', ""));
        assert_eq!(hex(&lz4_block(&pixels)), "11000100110706000f02002c500000000000");
        assert_eq!(hex(&Md5::digest(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
    }
}
